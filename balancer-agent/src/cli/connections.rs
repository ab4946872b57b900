//! `connections`: the tracked connections, each with its pod, frontend and backend.

use super::{
    arguments::{self, Global},
    exit::Exit,
    page::{self, Page, Report},
    pod::{Pod, Pods},
    snapshot::{Snapshot, listens},
};
use crate::datapath::{reader::socket_address, trace::monotonic_ns};
use anyhow::{Context, bail};
use balancer_common::{
    flow::{Flow, state_name},
    http2::flow::{Http2Flow, Visibility},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

#[derive(Debug, Serialize)]
struct ConnectionsReport {
    /// How many match, printed or not.
    total: usize,
    connections: Vec<ConnectionRow>,
}

#[derive(Debug, Serialize)]
struct ConnectionRow {
    /// The socket's cookie, as `ss -e` shows it.
    cookie: u64,
    pod: Pod,
    service: String,
    frontend: SocketAddr,
    /// None if the backend's id was given away.
    backend: Option<SocketAddr>,
    state: &'static str,
    age_ms: u64,
    /// Microseconds; zero before the first sample.
    srtt_us: u32,
    retransmits: u32,
    /// What can be said of its frames; none where they are not followed.
    http2: Option<Frames>,
}

/// What is known of a connection's HTTP/2 frames.
#[derive(Debug, Serialize)]
struct Frames {
    /// Whether they are seen, as `docs/http2.md` explains.
    state: &'static str,
    /// Why it is out of sync, if it is.
    out_of_sync_by: Option<&'static str>,
    /// Whether the agent has asked for a move that was not made yet.
    asked_to_move: bool,
    /// When its client was told to leave.
    moved_ms_ago: Option<u64>,
    in_flight: u32,
    /// Streams that were ever opened.
    opened: u32,
}

impl Frames {
    fn of(flow: &Http2Flow, now_ns: u64) -> Self {
        let visibility = flow.visibility();
        let moved = (visibility == Visibility::Moved).then_some(flow.moved_ns);
        Self {
            state: visibility.name(),
            out_of_sync_by: flow.lost_by(),
            asked_to_move: flow.is_asked_to_move(),
            moved_ms_ago: moved.map(|moved_ns| now_ns.saturating_sub(moved_ns) / 1_000_000),
            in_flight: flow.in_flight(),
            opened: flow.counts.opened,
        }
    }

    const fn shown(&self) -> &'static str {
        if self.asked_to_move { "asked to move" } else { self.state }
    }
}

impl ConnectionsReport {
    /// Connections that are out of sync, by what did that.
    fn losses(&self) -> BTreeMap<&'static str, usize> {
        let mut losses = BTreeMap::new();
        let frames = self.connections.iter().filter_map(|connection| connection.http2.as_ref());
        for why in frames.filter_map(|frames| frames.out_of_sync_by) {
            *losses.entry(why).or_default() += 1;
        }
        losses
    }
}

impl Report for ConnectionsReport {
    fn lay_out(&self, page: &mut Page) {
        let row = |c: &ConnectionRow| {
            vec![
                format!("{:x}", c.cookie),
                c.pod.to_string(),
                c.service.clone(),
                c.frontend.to_string(),
                page::or_dash(c.backend),
                c.state.to_owned(),
                page::seconds(c.age_ms / 1_000),
                page::microseconds(c.srtt_us.into()),
                c.retransmits.to_string(),
                page::or_dash(c.http2.as_ref().map(Frames::shown)),
                page::or_dash(c.http2.as_ref().map(|frames| frames.in_flight)),
            ]
        };
        page.table(
            &[
                "cookie", "~pod", "service", "frontend", "backend", "state", "#age", "#srtt",
                "#retrans", "http2", "#streams",
            ],
            self.connections.iter().map(row).collect(),
        );
        for (why, count) in self.losses() {
            page.line(&format!("{count} out of sync: {why}"));
        }
        let printed = self.connections.len();
        if printed < self.total {
            page.line(&format!("{printed} of {} connections; --limit prints more", self.total));
        }
    }
}

pub(super) fn run(global: &Global, flags: &arguments::Connections) -> anyhow::Result<Exit> {
    let snapshot = Snapshot::read(global)?;
    let mut pods = Pods::open(global, &snapshot.maps)?;
    let service = flags.service.as_deref();
    let service = service.map(|name| snapshot.service(name)).transpose()?;
    let pod = flags.pod.as_deref();
    let pod = pod.map(|text| pods.parse(text)).transpose()?;
    let backends = flags.backend.map(|address| backends(&snapshot, address));
    let backends = backends.transpose()?;
    let flows = snapshot.maps.read_flows().context("read the connections")?;
    let mut flows: Vec<_> = flows
        .into_iter()
        .filter(|(_, flow)| {
            service.is_none_or(|id| flow.service == id)
                && pod.as_ref().is_none_or(|pod| flow.pod == pod.id)
                && backends.as_ref().is_none_or(|ids| ids.contains(&flow.backend))
        })
        .collect();
    let http2 = snapshot.maps.read_http2_flows().context("read the HTTP/2 connections")?;
    flows.sort_by_key(|(_, flow)| flow.started_ns);
    let total = flows.len();
    let now_ns = monotonic_ns();
    let connections = flows.iter().take(flags.limit);
    let connections = connections
        .map(|(cookie, flow)| {
            let http2 = http2.get(cookie).map(|(_, frames)| Frames::of(frames, now_ns));
            ConnectionRow { http2, ..row(&snapshot, &mut pods, *cookie, flow, now_ns) }
        })
        .collect();
    page::print(global.output, &ConnectionsReport { total, connections })?;
    Ok(Exit::Ok)
}

/// The ids of the backends at an address: one for each service that it serves.
fn backends(snapshot: &Snapshot, address: SocketAddr) -> anyhow::Result<BTreeSet<u32>> {
    let backends = snapshot.state.backends.iter();
    let found: BTreeSet<_> =
        backends.filter(|(_, record)| listens(record) == address).map(|(id, _)| *id).collect();
    if found.is_empty() {
        bail!("no backend `{address}`; hint: `balancer-agent backends` lists them");
    }
    Ok(found)
}

fn row(
    snapshot: &Snapshot,
    pods: &mut Pods,
    cookie: u64,
    flow: &Flow,
    now_ns: u64,
) -> ConnectionRow {
    let backend = snapshot.state.backends.get(&flow.backend);
    let backend = backend.filter(|record| record.incarnation == flow.incarnation);
    ConnectionRow {
        cookie,
        pod: pods.pod(flow.pod),
        service: snapshot.service_name(flow.service),
        frontend: socket_address(flow.frontend, flow.frontend_port_be),
        backend: backend.map(listens),
        state: state_name(flow.state),
        age_ms: now_ns.saturating_sub(flow.started_ns) / 1_000_000,
        srtt_us: flow.srtt_us,
        retransmits: flow.retransmits,
        http2: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_common::http2::track::{HOMELESS, LOST, Track};

    #[test]
    fn the_table_is_as_golden() {
        let row = |id, path: Option<&str>, backend: Option<&str>| ConnectionRow {
            cookie: 0x4a1,
            pod: Pod { path: path.map(Into::into), ..Pod::unknown(id) },
            service: "payments".into(),
            frontend: "192.0.2.10:50051".parse().unwrap(),
            backend: backend.map(|address| address.parse().unwrap()),
            state: "established",
            age_ms: 83_250,
            srtt_us: 1_234,
            retransmits: 0,
            http2: path.map(|_| Frames {
                state: Visibility::Visible.name(),
                out_of_sync_by: None,
                asked_to_move: false,
                moved_ms_ago: None,
                in_flight: 3,
                opened: 1_234,
            }),
        };
        let mut lost = row(8, Some("/kubepods/cart"), Some("198.51.100.1:50051"));
        let frames = lost.http2.as_mut().unwrap();
        (frames.state, frames.in_flight) = (Visibility::OutOfSync.name(), 0);
        frames.out_of_sync_by = Track { flags: LOST | HOMELESS, ..Track::default() }.lost_by();
        let report = ConnectionsReport {
            total: 4,
            connections: vec![
                row(7, Some("/kubepods/shop"), Some("198.51.100.1:50051")),
                lost,
                row(4_711, None, None),
            ],
        };
        page::check_golden("connections", &report, None);
    }
}
