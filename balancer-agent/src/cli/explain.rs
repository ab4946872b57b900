//! `explain`: which backend a pod's next connection would get, step by step, by the kernel's own functions.

mod decision;

use self::decision::{Decision, Facts};
use super::{
    arguments::{self, Global},
    exit::Exit,
    page::{self, Page, Report, joined},
    pod::{Pod, Pods},
    snapshot::{Snapshot, listens},
};
use crate::datapath::{cgroup, hooks, raw::Raw, trace::monotonic_ns};
use anyhow::Context;
use aya::maps::MapError;
use balancer_common::{
    backend::state_name,
    pod::PodServiceKey,
    reason::{Effect, Reason},
    service::{SERVICE_TRACKED, policy_name},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

#[derive(Debug, Serialize)]
struct ExplainReport {
    pod: Pod,
    frontend: SocketAddr,
    service: Option<String>,
    /// Whether the connection would be sent to a backend.
    balanced: bool,
    reason: &'static str,
    /// The backend, if only one is possible.
    backend: Option<SocketAddr>,
    steps: Vec<Step>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    finding: String,
}

#[derive(Debug, Serialize)]
struct Candidate {
    id: u32,
    address: SocketAddr,
    state: &'static str,
    weight: u32,
    connections: u64,
    /// Requests in flight, where HTTP/2 frames are followed.
    requests: u64,
    /// Slots of the schedule that lead here.
    slots: usize,
    /// How likely the next connection goes here.
    probability: f64,
}

impl Report for ExplainReport {
    fn lay_out(&self, page: &mut Page) {
        let mut pairs = vec![("pod", self.pod.to_string()), ("dials", self.frontend.to_string())];
        pairs.extend(self.steps.iter().map(|step| (step.step, step.finding.clone())));
        let outcome = match (self.balanced, self.backend) {
            (true, Some(backend)) => format!("{backend} ({})", self.reason),
            (true, None) => format!("one of those below, by chance ({})", self.reason),
            (false, _) => format!("left untouched ({}): goes where it was dialled", self.reason),
        };
        pairs.push(("outcome", outcome));
        page.pairs(&pairs);
        if self.candidates.is_empty() {
            return;
        }
        page.heading("candidates");
        let row = |c: &Candidate| {
            vec![
                c.id.to_string(),
                c.address.to_string(),
                c.state.to_owned(),
                c.weight.to_string(),
                c.connections.to_string(),
                c.requests.to_string(),
                c.slots.to_string(),
                format!("{:.1}%", c.probability * 100.0),
            ]
        };
        page.table(
            &["#id", "address", "state", "#weight", "#conns", "#requests", "#slots", "#chance"],
            self.candidates.iter().map(row).collect(),
        );
    }
}

impl ExplainReport {
    fn step(&mut self, step: &'static str, finding: String) {
        self.steps.push(Step { step, finding });
    }

    fn end(&mut self, reason: Reason) {
        self.reason = reason.name();
        self.balanced = reason.effect() == Effect::Balanced;
        if !self.balanced {
            self.backend = None;
            for candidate in &mut self.candidates {
                candidate.probability = 0.0;
            }
        }
    }
}

pub(super) fn run(global: &Global, flags: &arguments::Explain) -> anyhow::Result<Exit> {
    let snapshot = Snapshot::read(global)?;
    let mut pods = Pods::open(global, &snapshot.maps)?;
    let pod = if flags.pid { pods.of_process(&flags.pod)? } else { pods.parse(&flags.pod)? };
    let (frontend, others) = dialled(&snapshot, &flags.service)?;
    let mut report = ExplainReport {
        pod,
        frontend,
        service: None,
        balanced: false,
        reason: Reason::NotFrontend.name(),
        backend: None,
        steps: Vec::new(),
        candidates: Vec::new(),
    };
    explain(&snapshot, &mut report, &others)?;
    if let Some(gap) = gap_of_hooks(global, &mut pods, &report) {
        report.step("hook", gap);
        report.balanced = false;
        report.reason = "not-covered";
        report.backend = None;
    }
    page::print(global.output, &report)?;
    Ok(if report.balanced { Exit::Ok } else { Exit::Unhealthy })
}

/// The frontend that is meant, and further ones of its service.
fn dialled(snapshot: &Snapshot, text: &str) -> anyhow::Result<(SocketAddr, Vec<SocketAddr>)> {
    if let Ok(SocketAddr::V6(address)) = text.parse() {
        // IPv4-mapped addresses are looked up as IPv4, as the kernel does.
        let ip = address.ip().to_canonical();
        return Ok((SocketAddr::new(ip, address.port()), Vec::new()));
    }
    if let Ok(address) = text.parse() {
        return Ok((address, Vec::new()));
    }
    let service = snapshot.service(text)?;
    let mut frontends = snapshot.frontends(service);
    if frontends.is_empty() {
        anyhow::bail!(
            "service `{text}` has no frontend, so nothing can be dialled; hint: `balancer-agent status`"
        );
    }
    let first = frontends.remove(0);
    Ok((first, frontends))
}

fn explain(
    snapshot: &Snapshot,
    report: &mut ExplainReport,
    others: &[SocketAddr],
) -> anyhow::Result<()> {
    let frontend = report.frontend;
    let Some(id) = snapshot.state.frontends.get(&frontend).copied() else {
        report.step("frontend", format!("{frontend} is no declared frontend"));
        return Ok(());
    };
    let name = snapshot.service_name(id);
    let mut finding = format!("{frontend} stands for service `{name}` (id {id})");
    if !others.is_empty() {
        finding = format!("{finding}; so do {}, which can be explained too", joined(others));
    }
    report.step("frontend", finding);
    report.service = Some(name);
    let Some(service) = snapshot.state.services.get(&id) else {
        report.step("service", "is not in the kernel".into());
        report.end(Reason::ServiceMissing);
        return Ok(());
    };
    if let Some(skip) = found(snapshot.maps.skipped_pods.get(&Raw(report.pod.id), 0))
        .context("read whether the pod is skipped")?
    {
        report.step("pod", "is skipped: its connections are left alone".into());
        report.end(skip.reason());
        return Ok(());
    }
    let bank = *service.record.bank();
    let (policy, generation) = (policy_name(bank.policy), service.record.generation);
    report.step("service", format!("policy {policy}, generation {generation}"));
    let slots = match frontend {
        SocketAddr::V4(_) => &service.slots_v4,
        SocketAddr::V6(_) => &service.slots_v6,
    };
    let now_ns = monotonic_ns();
    let Loads { active, requests, ejected } = Loads::read(snapshot, id, now_ns)?;
    let key = PodServiceKey { pod: report.pod.id, service: id, reserved: 0 };
    let maps = &snapshot.maps;
    let shared_cursor = maps.cursors.get(&id, 0);
    let pod_cursor = found(maps.pod_cursors.get(&Raw(key), 0));
    let affinity = found(maps.affinities.get(&Raw(key), 0));
    let facts = Facts {
        service: id,
        bank,
        slots,
        backends: &snapshot.state.backends,
        active: &active,
        requests: &requests,
        ejected: &ejected,
        pod: report.pod.id,
        shared_cursor: shared_cursor.context("read the service's cursor")?.0,
        pod_cursor: pod_cursor.context("read the pod's cursor")?,
        affinity: affinity.context("read the pod's affinity")?,
        now_ns,
    };
    let decision = facts.decide();
    list_candidates(snapshot, report, &facts, &decision);
    for (step, finding) in decision.steps {
        report.step(step, finding);
    }
    report.end(decision.reason);
    conclude(snapshot, report, service.record.flags)
}

/// What the backends of a service have to do.
#[derive(Default)]
struct Loads {
    active: BTreeMap<u32, u64>,
    requests: BTreeMap<u32, u64>,
    ejected: BTreeSet<u32>,
}

impl Loads {
    fn read(snapshot: &Snapshot, service: u32, now_ns: u64) -> anyhow::Result<Self> {
        let mut loads = Self::default();
        for id in snapshot.backends(service).into_keys() {
            let stats = snapshot.backend_stats(id)?;
            loads.active.insert(id, stats.active);
            let in_flight = snapshot.maps.read_http2_in_flight(id);
            loads.requests.insert(id, in_flight.context("read the requests in flight")?);
            if stats.is_ejected(now_ns) {
                loads.ejected.insert(id);
            }
        }
        Ok(loads)
    }
}

/// What comes between the pick and the connection.
fn conclude(snapshot: &Snapshot, report: &mut ExplainReport, flags: u32) -> anyhow::Result<()> {
    if !report.balanced {
        return Ok(());
    }
    if report.frontend.is_ipv4() && report.backend.is_some_and(|backend| backend.is_ipv6()) {
        let text = "an IPv4 socket cannot reach an IPv6 backend; an IPv6 socket that dials the \
             IPv4-mapped frontend can";
        report.step("family", text.into());
    }
    if flags & SERVICE_TRACKED != 0 {
        let (limit, of) = (snapshot.maps.limits.flows, &snapshot.maps.flows);
        let flows = of.count().context("count the tracked connections")?;
        report.step("tracking", format!("{flows} of {limit} connections are tracked"));
        // Where its seat is taken, a connection needs room in the table behind the seats.
        if of.is_full(limit).context("count the tracked connections")? {
            report.end(Reason::FlowTableFull);
        }
    }
    Ok(())
}

fn list_candidates(
    snapshot: &Snapshot,
    report: &mut ExplainReport,
    facts: &Facts<'_>,
    decision: &Decision,
) {
    report.candidates = snapshot
        .backends(facts.service)
        .into_iter()
        .map(|(id, record)| Candidate {
            id,
            address: listens(record),
            state: state_name(record.state),
            weight: record.weight,
            connections: facts.active.get(&id).copied().unwrap_or_default(),
            requests: facts.requests.get(&id).copied().unwrap_or_default(),
            slots: facts.slots.iter().filter(|slot| **slot == id).count(),
            probability: decision.chances.get(&id).copied().unwrap_or_default(),
        })
        .collect();
    if let (1, Some(id)) = (decision.chances.len(), decision.chances.keys().next()) {
        report.backend = snapshot.state.backends.get(id).map(listens);
    }
}

/// A missing key is an answer.
fn found<T>(read: Result<Raw<T>, MapError>) -> Result<Option<T>, MapError> {
    match read {
        Ok(value) => Ok(Some(value.0)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why no program of ours sees the pod's connections, if that is so.
fn gap_of_hooks(global: &Global, pods: &mut Pods, report: &ExplainReport) -> Option<String> {
    let hook = if report.frontend.is_ipv4() { "connect4" } else { "connect6" };
    let link = match hooks::link_info(&global.pins(), hook) {
        Ok(Some(link)) => link,
        Ok(None) => return Some(format!("`{hook}` is not attached: nothing is balanced")),
        Err(error) => return Some(format!("the link of `{hook}` cannot be read: {error}")),
    };
    // The path of a pod that has gone is not known, and neither is what covered it.
    let path = pods.pod(report.pod.id).path?;
    let directory = pods.root().join(path.strip_prefix("/").unwrap_or(&path));
    let covers = |above: &std::path::Path| cgroup::id(above).is_ok_and(|id| id == link.cgroup_id);
    if directory.ancestors().any(covers) {
        return None;
    }
    let attached = pods.pod(link.cgroup_id);
    Some(format!("`{hook}` is attached to {attached}, which does not hold the pod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_golden() {
        let mut report = ExplainReport {
            pod: Pod { path: Some("/kubepods/shop".into()), ..Pod::unknown(77) },
            frontend: "192.0.2.10:50051".parse().unwrap(),
            service: Some("payments".into()),
            balanced: true,
            reason: Reason::Picked.name(),
            backend: Some("198.51.100.1:50051".parse().unwrap()),
            steps: Vec::new(),
            candidates: vec![Candidate {
                id: 1,
                address: "198.51.100.1:50051".parse().unwrap(),
                state: "active",
                weight: 1,
                connections: 4,
                requests: 2,
                slots: 1,
                probability: 1.0,
            }],
        };
        report.step("frontend", "192.0.2.10:50051 stands for service `payments` (id 1)".into());
        page::check_golden("explain", &report, None);
        report.end(Reason::NoBackend);
        page::check_golden("explain-untouched", &report, None);
        assert_eq!(report.backend, None);
    }
}
