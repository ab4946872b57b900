//! `services`: what the kernel holds for each service.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report, joined},
    snapshot::Snapshot,
};
use balancer_common::{
    backend::{STATE_ACTIVE, STATE_DRAINING, STATE_GONE, STATE_INACTIVE},
    service::{SERVICE_TRACKED, policy_name},
};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Debug, Serialize)]
struct ServicesReport {
    services: Vec<ServiceRow>,
}

#[derive(Debug, Default, Serialize)]
struct ServiceRow {
    name: String,
    id: u32,
    frontends: Vec<SocketAddr>,
    policy: &'static str,
    /// Seconds; zero is off.
    affinity_s: u32,
    tracked: bool,
    generation: u32,
    backends_active: usize,
    backends_draining: usize,
    backends_inactive: usize,
    backends_gone: usize,
    connections: u64,
    picked: u64,
    untouched: u64,
    socket_option_failures: u64,
}

impl Report for ServicesReport {
    fn lay_out(&self, page: &mut Page) {
        let row = |s: &ServiceRow| {
            let policy = match s.affinity_s {
                0 => s.policy.to_owned(),
                affinity_s => format!("{} affinity {}", s.policy, page::seconds(affinity_s.into())),
            };
            let connections = s.connections.to_string();
            vec![
                s.name.clone(),
                s.id.to_string(),
                joined(&s.frontends),
                policy,
                s.generation.to_string(),
                s.backends(),
                if s.tracked { connections } else { "-".into() },
                s.picked.to_string(),
                s.untouched.to_string(),
            ]
        };
        page.table(
            &[
                "name",
                "#id",
                "~frontends",
                "~policy",
                "#gen",
                "~backends",
                "#conns",
                "#picked",
                "#untouched",
            ],
            self.services.iter().map(row).collect(),
        );
    }
}

impl ServiceRow {
    /// Its backends by state, those states left out that none has.
    fn backends(&self) -> String {
        let mut text = format!("{} active", self.backends_active);
        let others = [
            (self.backends_draining, "draining"),
            (self.backends_inactive, "inactive"),
            (self.backends_gone, "gone"),
        ];
        for (count, state) in others.into_iter().filter(|(count, _)| *count > 0) {
            text = format!("{text} {count} {state}");
        }
        text
    }
}

pub(super) fn run(global: &Global, name: Option<&str>) -> anyhow::Result<Exit> {
    let snapshot = Snapshot::read(global)?;
    let ids = snapshot.services(name)?;
    let services = ids.into_iter().map(|id| row(&snapshot, id));
    let services = services.collect::<anyhow::Result<_>>()?;
    page::print(global.output, &ServicesReport { services })?;
    Ok(Exit::Ok)
}

fn row(snapshot: &Snapshot, id: u32) -> anyhow::Result<ServiceRow> {
    let record = snapshot.state.services[&id].record;
    let (bank, stats) = (record.bank(), snapshot.service_stats(id)?);
    let mut row = ServiceRow {
        name: snapshot.service_name(id),
        id,
        frontends: snapshot.frontends(id),
        policy: policy_name(bank.policy),
        affinity_s: bank.affinity_s,
        tracked: record.flags & SERVICE_TRACKED != 0,
        generation: record.generation,
        untouched: stats.untouched,
        socket_option_failures: stats.socket_option_failures,
        ..ServiceRow::default()
    };
    for (id, backend) in snapshot.backends(id) {
        match backend.state {
            STATE_ACTIVE => row.backends_active += 1,
            STATE_DRAINING => row.backends_draining += 1,
            STATE_INACTIVE => row.backends_inactive += 1,
            STATE_GONE => row.backends_gone += 1,
            _ => {}
        }
        let stats = snapshot.backend_stats(id)?;
        row.connections += stats.active;
        row.picked += stats.picked;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_golden() {
        let report = ServicesReport {
            services: vec![
                ServiceRow {
                    name: "payments".into(),
                    id: 1,
                    frontends: vec!["192.0.2.10:50051".parse().unwrap()],
                    policy: "least-connection",
                    affinity_s: 10_800,
                    tracked: true,
                    generation: 4,
                    backends_active: 3,
                    backends_draining: 1,
                    connections: 12,
                    picked: 345,
                    ..ServiceRow::default()
                },
                ServiceRow {
                    name: "search".into(),
                    id: 2,
                    policy: "maglev",
                    untouched: 7,
                    ..ServiceRow::default()
                },
            ],
        };
        page::check_golden("services", &report, None);
        page::check_golden("services-narrow", &report, Some(92));
    }
}
