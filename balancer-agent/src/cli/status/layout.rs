//! `status` as people read it. It stands apart from what is found.

use super::{AgentReport, StatusReport, http2};
use crate::cli::page::{Page, Report, or_dash, seconds};

impl Report for StatusReport {
    fn lay_out(&self, page: &mut Page) {
        page.line(if self.healthy { "healthy" } else { "NOT HEALTHY" });
        page.list("complaints", &self.complaints);
        page.heading("agent");
        match &self.agent {
            Some(agent) => agent.lay_out(page),
            None => page.line("down"),
        }
        let datapath = &self.datapath;
        page.heading("datapath");
        page.pairs(&[
            ("pinned at", datapath.pin_root.display().to_string()),
            ("layout", or_dash(datapath.layout.as_ref())),
        ]);
        if !datapath.hooks.is_empty() {
            page.heading("hooks");
            let rows = datapath.hooks.iter().map(|hook| {
                vec![
                    hook.name.to_owned(),
                    hook.error.clone().unwrap_or_else(|| "attached".into()),
                    or_dash(hook.program_id),
                    or_dash(hook.cgroup.as_ref()),
                ]
            });
            page.table(&["hook", "~state", "#program", "~cgroup"], rows.collect());
        }
        if let Some(counts) = &self.counts {
            page.heading("holds");
            page.pairs(&[
                ("services", counts.services.to_string()),
                ("frontends", counts.frontends.to_string()),
                (
                    "backends",
                    format!(
                        "{} active, {} draining, {} inactive, {} gone",
                        counts.backends_active,
                        counts.backends_draining,
                        counts.backends_inactive,
                        counts.backends_gone
                    ),
                ),
                ("connections", counts.connections.to_string()),
            ]);
        }
        self.lay_out_numbers(page);
    }
}

impl StatusReport {
    fn lay_out_numbers(&self, page: &mut Page) {
        if !self.tables.is_empty() {
            page.heading("tables");
            let rows = self.tables.iter().map(|table| {
                let percent = table.used * 100 / table.limit.max(1);
                vec![
                    table.name.to_owned(),
                    table.used.to_string(),
                    table.limit.to_string(),
                    format!("{percent}%"),
                ]
            });
            page.table(&["table", "#used", "#limit", "#full"], rows.collect());
        }
        let rows: Vec<_> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.count > 0)
            .map(|outcome| {
                vec![
                    outcome.reason.to_owned(),
                    outcome.effect.to_owned(),
                    outcome.count.to_string(),
                ]
            })
            .collect();
        if !rows.is_empty() {
            page.heading("outcomes");
            page.table(&["reason", "effect", "#count"], rows);
        }
    }
}

impl AgentReport {
    fn lay_out(&self, page: &mut Page) {
        let config = &self.config;
        let mut state = String::from(match config.rejected {
            Some(_) => "refused; the last good content is in force",
            None => "in force",
        });
        if !config.restart_needed.is_empty() {
            state = format!("{state}; restart for {}", config.restart_needed.join(", "));
        }
        let test = &self.self_test;
        let verdict = if test.passed { "passed" } else { "FAILED" };
        let mut pairs = vec![
            (
                "version",
                format!("{}, process {}, up {}", self.version, self.pid, seconds(self.uptime_s)),
            ),
            ("configuration", format!("{} ({state})", config.path.display())),
            ("origin", self.origin.clone()),
            ("self-test", format!("{verdict}: {}", test.detail)),
        ];
        if let Some(hint) = &test.hint {
            pairs.push(("hint", hint.clone()));
        }
        pairs.push((
            "work",
            format!(
                "{} changes, {} map writes, {} refused; latest change took {} us",
                self.work.changes,
                self.work.writes,
                self.work.write_failures,
                self.work.latest_change_us
            ),
        ));
        if self.hooks_repaired > 0 {
            pairs.push(("hooks repaired", self.hooks_repaired.to_string()));
        }
        page.pairs(&pairs);
        page.list("this kernel lacks", &self.degraded);
        self.lay_out_dns(page);
        if let Some(cluster) = &self.kubernetes {
            cluster.lay_out(page);
        }
        http2::lay_out(&self.http2, page);
    }

    fn lay_out_dns(&self, page: &mut Page) {
        if self.dns.is_empty() {
            return;
        }
        page.heading("dns");
        let rows = self.dns.iter().map(|set| {
            let age_s = |ms: Option<u64>| or_dash(ms.map(|ms| format!("{}s", ms / 1_000)));
            vec![
                set.name.clone(),
                set.standing.clone(),
                if set.known { set.members.len().to_string() } else { "unknown".into() },
                age_s(set.last_success_age_ms),
                age_s(set.last_error_age_ms),
                or_dash(set.last_error.as_ref()),
            ]
        });
        let headings = ["set", "standing", "#members", "#answered", "#failed", "~last error"];
        page.table(&headings, rows.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::{Cluster, Counts, Watch};
    use super::super::{Counts as KernelCounts, DatapathReport, Hook, Lookup, Outcome, TableUse};
    use super::*;
    use crate::{
        admin::{ConfigStatus, Http2Account, Http2Status, WorkStatus},
        cli::page::check_golden,
        datapath::self_test::SelfTest,
    };

    fn kernel() -> StatusReport {
        let hook = |name, error: Option<&str>| Hook {
            name,
            attached: error.is_none(),
            program_id: error.is_none().then_some(41),
            cgroup: error.is_none().then(|| "/".into()),
            error: error.map(Into::into),
        };
        let outcome = |reason, count| Outcome { reason, effect: "balanced", count };
        StatusReport {
            healthy: true,
            datapath: DatapathReport {
                pin_root: "/sys/fs/bpf/balancer".into(),
                layout: Some("v1-s64".into()),
                hooks: vec![hook("connect4", None), hook("connect6", Some("not attached"))],
            },
            counts: Some(KernelCounts {
                services: 2,
                backends_active: 5,
                ..KernelCounts::default()
            }),
            tables: vec![TableUse { name: "services", used: 2, limit: 63, strict: true }],
            outcomes: vec![outcome("picked", 12), outcome("affinity-kept", 0)],
            ..StatusReport::default()
        }
    }

    fn agent() -> AgentReport {
        let set = Lookup {
            name: "shop.example.com:443".into(),
            standing: "fails".into(),
            known: true,
            members: vec![serde_json::json!({})],
            last_success_age_ms: Some(61_000),
            last_error: Some("SERVFAIL".into()),
            last_error_age_ms: Some(900),
            excess: 0,
        };
        assert!(set.complaint().unwrap().contains("last good set"));
        AgentReport {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_s: 3_725,
            origin: "fresh".into(),
            degraded: vec!["traces do not name the process".into()],
            hooks_repaired: 0,
            config: ConfigStatus {
                path: "/etc/balancer/config.yaml".into(),
                restart_needed: vec!["limits".into()],
                ..ConfigStatus::default()
            },
            self_test: SelfTest {
                passed: true,
                detail: "a test connection was balanced".into(),
                hint: None,
            },
            dns: vec![set],
            kubernetes: Some(cluster()),
            problems: Vec::new(),
            differences: Vec::new(),
            work: WorkStatus::default(),
            http2: Http2Status {
                clients: 32,
                interfaces: 32,
                all: Http2Account {
                    connections: [("visible".into(), 30), ("moved".into(), 2)].into(),
                    begun: [("new-backend".into(), 11), ("leaving".into(), 3)].into(),
                    made: 13,
                    given_up: 1,
                    stubborn: 1,
                },
                ..Http2Status::default()
            },
        }
    }

    fn cluster() -> Cluster {
        let watch = |kind: &str, staleness_ms| Watch {
            kind: kind.into(),
            synced: true,
            last_event_age_ms: Some(61_000),
            staleness_ms,
            scopes: 1,
            lists: 1,
            restarts: 0,
            errors: u64::from(staleness_ms > 0),
            last_error: (staleness_ms > 0).then(|| "connection refused".into()),
            last_error_age_ms: None,
        };
        Cluster {
            synced: true,
            staleness_ms: 5_000,
            watches: vec![watch("services", 0), watch("endpoint-slices", 5_000)],
            counts: Counts {
                services: 12,
                services_balanced: 3,
                slices: 14,
                addresses: 60,
                refused: 2,
                outdated: 0,
            },
            problems_about: std::collections::BTreeMap::new(),
            triggers_ignored: 0,
            problems_total: 1,
            problems: vec!["Service shop/a: spec.ports: wrong; mend it".into()],
            events_written: 1,
            events_failed: 0,
        }
    }

    #[test]
    fn the_tables_are_as_golden() {
        let mut report = kernel();
        report.agent = Some(agent());
        check_golden("status", &report, None);
        let mut report = kernel();
        report.healthy = false;
        report.complaints = vec!["agent down, programs still balancing".into()];
        check_golden("status-agent-down", &report, Some(80));
    }
}
