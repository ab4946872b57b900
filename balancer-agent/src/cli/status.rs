//! `status`: whether all is well, and every complaint if not; with the agent down, what the maps still tell.

mod cluster;
mod http2;
mod layout;

use self::cluster::Cluster;
use super::{arguments::Global, exit::Exit, page, pod::Pods, snapshot::Snapshot};
use crate::{
    admin::{
        self, Answer, ConfigStatus, Http2Status, Request, Status, WorkStatus,
        client::{self, ClientError},
    },
    datapath::{
        bpffs::parse_layout,
        fill::{self, TableUse},
        hooks,
        maps::{Maps, OpenError},
        self_test::SelfTest,
        sys::LinkInfo,
    },
};
use anyhow::Context;
use balancer_common::{
    backend::{STATE_ACTIVE, STATE_DRAINING, STATE_GONE, STATE_INACTIVE},
    reason::Effect,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Default, Serialize)]
struct StatusReport {
    healthy: bool,
    /// Everything that makes it unhealthy.
    complaints: Vec<String>,
    /// None when it is down.
    agent: Option<AgentReport>,
    datapath: DatapathReport,
    counts: Option<Counts>,
    tables: Vec<TableUse>,
    outcomes: Vec<Outcome>,
}

/// What only a running agent knows.
#[derive(Debug, Serialize)]
struct AgentReport {
    version: String,
    pid: u32,
    uptime_s: u64,
    /// What was found at its start.
    origin: String,
    degraded: Vec<String>,
    hooks_repaired: u64,
    config: ConfigStatus,
    self_test: SelfTest,
    dns: Vec<Lookup>,
    /// None when services do not come from Kubernetes.
    kubernetes: Option<Cluster>,
    /// What is wrong with what is wanted.
    problems: Vec<String>,
    /// Where the kernel differs from what is wanted.
    differences: Vec<String>,
    work: WorkStatus,
    /// HTTP/2 connections that are followed and moved.
    http2: Http2Status,
}

#[derive(Debug, Default, Serialize)]
struct DatapathReport {
    pin_root: PathBuf,
    /// The layout of the maps, if there are any.
    layout: Option<String>,
    hooks: Vec<Hook>,
}

#[derive(Debug, Serialize)]
struct Hook {
    name: &'static str,
    attached: bool,
    program_id: Option<u32>,
    /// The cgroup that it covers.
    cgroup: Option<String>,
    error: Option<String>,
}

/// A DNS set, as the agent's health report tells.
#[derive(Debug, Serialize, Deserialize)]
struct Lookup {
    #[serde(rename = "lookup")]
    name: String,
    standing: String,
    known: bool,
    members: Vec<serde_json::Value>,
    last_success_age_ms: Option<u64>,
    last_error: Option<String>,
    last_error_age_ms: Option<u64>,
    excess: usize,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    services: usize,
    frontends: usize,
    backends_active: usize,
    backends_draining: usize,
    backends_inactive: usize,
    backends_gone: usize,
    connections: usize,
}

#[derive(Debug, Serialize)]
struct Outcome {
    reason: &'static str,
    effect: &'static str,
    count: u64,
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let mut report = StatusReport::default();
    ask_agent(global, &mut report)?;
    look_at_kernel(global, &mut report)?;
    report.healthy = report.complaints.is_empty();
    page::print(global.output, &report)?;
    Ok(if report.healthy { Exit::Ok } else { Exit::Unhealthy })
}

fn ask_agent(global: &Global, report: &mut StatusReport) -> anyhow::Result<()> {
    let socket = admin::socket_path(&global.runtime_dir);
    match client::ask(&socket, &Request::Status) {
        Ok(Answer::Status(status)) => {
            report.complaints = status.complaints();
            report.agent = Some(AgentReport::new(*status)?);
        }
        Ok(_) => report.complaints.push(
            "the agent does not answer with a status; hint: use the balancer-agent that runs here"
                .into(),
        ),
        Err(ClientError::Down { .. }) => {}
        Err(error) => report.complaints.push(error.to_string()),
    }
    let lookups = report.agent.iter().flat_map(|agent| &agent.dns);
    let failing: Vec<_> = lookups.filter_map(Lookup::complaint).collect();
    report.complaints.extend(failing);
    let cluster = report.agent.as_ref().and_then(|agent| agent.kubernetes.as_ref());
    let complaint = cluster.and_then(Cluster::complaint);
    report.complaints.extend(complaint);
    Ok(())
}

impl AgentReport {
    fn new(status: Status) -> anyhow::Result<Self> {
        let dns = serde_json::from_value(status.dns).context("read the agent's report on DNS")?;
        let kubernetes = status.kubernetes.map(serde_json::from_value).transpose();
        let kubernetes = kubernetes.context("read the agent's report on Kubernetes")?;
        Ok(Self {
            version: status.version,
            pid: status.pid,
            uptime_s: status.uptime_s,
            origin: status.datapath.origin,
            degraded: status.datapath.degraded,
            hooks_repaired: status.datapath.hooks_repaired,
            config: status.config,
            self_test: status.self_test,
            dns,
            kubernetes,
            problems: status.problems,
            differences: status.differences,
            work: status.work,
            http2: status.http2,
        })
    }
}

impl Lookup {
    /// What is wrong with it. Single failed queries while others answer are no complaint.
    fn complaint(&self) -> Option<String> {
        if self.standing != "fails" {
            return None;
        }
        let error = self.last_error.as_deref().unwrap_or("no answer");
        let meanwhile =
            if self.known { "; the last good set stays in force" } else { "; no set is known yet" };
        Some(format!("DNS set `{}`: {error}{meanwhile}", self.name))
    }
}

fn look_at_kernel(global: &Global, report: &mut StatusReport) -> anyhow::Result<()> {
    let pins = global.pins();
    report.datapath.pin_root = pins.path().into();
    let maps = match Maps::open_loaded(&pins) {
        Ok(maps) => maps,
        Err(error) => {
            if report.agent.is_none() && matches!(error, OpenError::NotLoaded { .. }) {
                report.complaints.push(format!("no agent runs, and {error}"));
            } else {
                report.complaints.push(error.to_string());
            }
            return Ok(());
        }
    };
    report.datapath.layout = pins
        .layouts()
        .into_iter()
        .rfind(|name| parse_layout(name).is_some_and(|(_, limits)| limits == maps.limits));
    let complaints = report.complaints.len();
    look_at_hooks(global, report);
    if report.agent.is_none() {
        let attached = report.datapath.hooks.iter().any(|hook| hook.attached);
        let text = if attached {
            "agent down, programs still balancing: services do not change any more; hint: start \
             `balancer-agent run`, or remove everything with `balancer-agent unload`"
        } else {
            "agent down, and no program is attached: nothing is balanced; hint: start \
             `balancer-agent run`"
        };
        report.complaints.insert(complaints, text.into());
    }
    let state = maps.read_state().context("read the kernel's maps")?;
    let snapshot = Snapshot { maps, state };
    let counts = count(&snapshot)?;
    report.tables = tables(&snapshot, &counts)?;
    let full = report.tables.iter().filter(|it| it.strict && it.used >= it.limit);
    let full: Vec<_> = full
        .map(|it| {
            format!(
                "table {} is full ({} entries); hint: raise `limits` in the configuration",
                it.name, it.limit
            )
        })
        .collect();
    report.complaints.extend(full);
    report.counts = Some(counts);
    let reasons = snapshot.maps.read_reasons().context("read the counters")?;
    let outcomes = reasons.into_iter().map(|(reason, count)| Outcome {
        reason: reason.name(),
        effect: effect_name(reason.effect()),
        count,
    });
    report.outcomes = outcomes.collect();
    Ok(())
}

/// What an effect is called.
pub(super) const fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::Balanced => "balanced",
        Effect::Untouched => "untouched",
        Effect::Observed => "observed",
    }
}

fn look_at_hooks(global: &Global, report: &mut StatusReport) {
    let mut pods = Pods::without_maps(global);
    for (name, _) in hooks::HOOKS {
        let found = hooks::link_info(&global.pins(), name);
        let mut hook = Hook { name, attached: false, program_id: None, cgroup: None, error: None };
        match found {
            Ok(Some(LinkInfo { program_id, cgroup_id })) if cgroup_id != 0 => {
                hook.attached = true;
                hook.program_id = Some(program_id);
                let path = pods.as_mut().map(|pods| pods.pod(cgroup_id).to_string());
                hook.cgroup = Some(path.unwrap_or_else(|_| format!("cgroup {cgroup_id}")));
            }
            Ok(Some(_)) => hook.error = Some("its cgroup is gone".into()),
            Ok(None) => hook.error = Some("not attached".into()),
            Err(error) => hook.error = Some(error.to_string()),
        }
        if let Some(error) = &hook.error {
            report.complaints.push(format!("hook `{name}`: {error}"));
        }
        report.datapath.hooks.push(hook);
    }
}

fn count(snapshot: &Snapshot) -> anyhow::Result<Counts> {
    let state = &snapshot.state;
    let mut counts = Counts {
        services: state.services.len(),
        frontends: state.frontends.len(),
        ..Counts::default()
    };
    for backend in state.backends.values() {
        match backend.state {
            STATE_ACTIVE => counts.backends_active += 1,
            STATE_DRAINING => counts.backends_draining += 1,
            STATE_INACTIVE => counts.backends_inactive += 1,
            STATE_GONE => counts.backends_gone += 1,
            _ => {}
        }
    }
    counts.connections = snapshot.maps.flows.count().context("count the tracked connections")?;
    Ok(counts)
}

fn tables(snapshot: &Snapshot, counts: &Counts) -> anyhow::Result<Vec<TableUse>> {
    let Snapshot { maps, state } = snapshot;
    let frontends_v4 = state.frontends.keys().filter(|address| address.is_ipv4()).count();
    let counted = fill::Counted {
        services: counts.services,
        backends: state.backends.len(),
        frontends_v4,
        frontends_v6: state.frontends.len() - frontends_v4,
        chunks: state.services.values().map(|service| fill::chunks(service.record.bank())).sum(),
        connections: counts.connections,
    };
    fill::tables(maps, &counted).context("count the tables' entries")
}
