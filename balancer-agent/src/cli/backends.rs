//! `backends`: each backend's record and what the kernel counted for it.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report},
    snapshot::{Snapshot, listens},
};
use crate::datapath::trace::monotonic_ns;
use balancer_common::backend::{BackendStats, EJECTED, STATE_ACTIVE, state_name};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Debug, Serialize)]
struct BackendsReport {
    backends: Vec<BackendRow>,
}

#[derive(Debug, Serialize)]
struct BackendRow {
    service: String,
    address: SocketAddr,
    id: u32,
    state: &'static str,
    weight: u32,
    /// Live connections.
    connections: u64,
    picked: u64,
    established: u64,
    closed: u64,
    reset: u64,
    refused: u64,
    timed_out: u64,
    abandoned: u64,
    /// Times it was passed over for a while.
    ejections: u64,
    retransmits: u64,
    /// Microseconds; zero before the first sample.
    srtt_us: u64,
}

impl Report for BackendsReport {
    fn lay_out(&self, page: &mut Page) {
        let row = |b: &BackendRow| {
            vec![
                b.service.clone(),
                b.address.to_string(),
                b.state.to_owned(),
                b.weight.to_string(),
                b.connections.to_string(),
                b.picked.to_string(),
                b.established.to_string(),
                b.refused.to_string(),
                b.timed_out.to_string(),
                b.reset.to_string(),
                b.retransmits.to_string(),
                page::microseconds(b.srtt_us),
            ]
        };
        page.table(
            &[
                "service",
                "address",
                "state",
                "#weight",
                "#conns",
                "#picked",
                "#established",
                "#refused",
                "#timeouts",
                "#resets",
                "#retrans",
                "#srtt",
            ],
            self.backends.iter().map(row).collect(),
        );
    }
}

pub(super) fn run(global: &Global, service: Option<&str>) -> anyhow::Result<Exit> {
    let snapshot = Snapshot::read(global)?;
    let (mut backends, now_ns) = (Vec::new(), monotonic_ns());
    for service in snapshot.services(service)? {
        let name = snapshot.service_name(service);
        for (id, record) in snapshot.backends(service) {
            let stats = snapshot.backend_stats(id)?;
            // The kernel ejects by itself; what the agent declared does not change by that.
            let shown = if record.state == STATE_ACTIVE && stats.is_ejected(now_ns) {
                EJECTED
            } else {
                state_name(record.state)
            };
            let BackendStats {
                active,
                picked,
                established,
                closed,
                reset,
                refused,
                timed_out,
                abandoned,
                retransmits,
                srtt_us,
                ejections,
                ejected_until_ns: _,
                failures: _,
            } = stats;
            backends.push(BackendRow {
                service: name.clone(),
                address: listens(record),
                id,
                state: shown,
                weight: record.weight,
                connections: active,
                picked,
                established,
                closed,
                reset,
                refused,
                timed_out,
                abandoned,
                ejections,
                retransmits,
                srtt_us,
            });
        }
    }
    page::print(global.output, &BackendsReport { backends })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_golden() {
        let row = |address: &str, state, srtt_us| BackendRow {
            service: "payments".into(),
            address: address.parse().unwrap(),
            id: 1,
            state,
            weight: 1,
            connections: 4,
            picked: 20,
            established: 19,
            closed: 15,
            reset: 0,
            refused: 1,
            timed_out: 0,
            abandoned: 0,
            ejections: 0,
            retransmits: 2,
            srtt_us,
        };
        let report = BackendsReport {
            backends: vec![
                row("198.51.100.1:50051", "active", 640),
                row("[2001:db8::1]:50051", "draining", 0),
            ],
        };
        page::check_golden("backends", &report, None);
    }
}
