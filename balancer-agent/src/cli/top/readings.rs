//! What `top` reads of the maps, and what two readings tell of the time between them.

use super::super::{
    arguments::Global,
    snapshot::{Snapshot, listens},
};
use crate::admin::{self, Answer, Http2Status, Request, client};
use anyhow::Context;
use balancer_common::{backend::state_name, http2::flow::Visibility};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// Everything at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    at: Instant,
    services: BTreeMap<String, BTreeMap<u32, Backend>>,
    /// Streams that each connection ever opened, by socket cookie.
    opened: BTreeMap<u64, (u32, u32)>,
    /// None without an agent.
    http2: Option<Http2Status>,
}

#[derive(Clone, Copy, Debug)]
struct Backend {
    address: SocketAddr,
    state: &'static str,
    connections: u64,
    visible: u64,
    in_flight: u64,
    failures: u64,
}

/// What happened between two readings.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Seconds between the readings.
    pub(super) seconds: f64,
    pub(super) services: Vec<ServiceRow>,
    /// Moves since the agent started; none without one.
    pub(super) moves: Option<Http2Status>,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServiceRow {
    pub(super) name: String,
    pub(super) backends: Vec<BackendRow>,
}

/// A backend.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BackendRow {
    pub(super) address: SocketAddr,
    pub(super) state: &'static str,
    pub(super) connections: u64,
    /// Those of them whose frames are seen.
    pub(super) visible: u64,
    /// Calls a second on these.
    pub(super) calls_per_s: f64,
    /// Calls in flight.
    pub(super) in_flight: u64,
    /// Its part of the service's calls; of its connections where no frames are seen.
    pub(super) share: f64,
    /// Connections that failed or were reset.
    pub(super) failures: u64,
}

// === impl Reading ===

impl Reading {
    /// Reads what is loaded; of one service only, if it is named.
    pub(super) fn take(global: &Global, service: Option<&str>) -> anyhow::Result<Self> {
        let snapshot = Snapshot::read(global)?;
        let wanted = snapshot.services(service)?;
        let mut services: BTreeMap<String, BTreeMap<u32, Backend>> =
            wanted.iter().map(|id| (snapshot.service_name(*id), BTreeMap::new())).collect();
        let mut found: BTreeMap<u32, (u32, Backend)> = BTreeMap::new();
        for (id, record) in
            snapshot.state.backends.iter().filter(|(_, it)| wanted.contains(&it.service))
        {
            let stats = snapshot.maps.read_backend_stats(*id).context("read the counters")?;
            let backend = Backend {
                address: listens(record),
                state: state_name(record.state),
                connections: stats.active,
                visible: 0,
                in_flight: 0,
                failures: stats.refused + stats.timed_out + stats.reset,
            };
            found.insert(*id, (record.service, backend));
        }
        let flows = snapshot.maps.read_flows().context("read the connections")?;
        let http2 = snapshot.maps.read_http2_flows().context("read the HTTP/2 connections")?;
        let mut opened = BTreeMap::new();
        for (cookie, (_, frames)) in &http2 {
            let Some(flow) = flows.get(cookie) else { continue };
            let Some((_, backend)) = found.get_mut(&flow.backend) else { continue };
            if matches!(frames.visibility(), Visibility::Visible | Visibility::Moved) {
                backend.visible += 1;
                backend.in_flight += u64::from(frames.in_flight());
                opened.insert(*cookie, (flow.backend, frames.opened));
            }
        }
        for (id, (service, backend)) in found {
            services.entry(snapshot.service_name(service)).or_default().insert(id, backend);
        }
        let socket = admin::socket_path(&global.runtime_dir);
        let http2 = match client::ask(&socket, &Request::Status) {
            Ok(Answer::Status(status)) => Some(status.http2),
            _ => None,
        };
        Ok(Self { at: Instant::now(), services, opened, http2 })
    }

    /// What happened since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> Sample {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        let mut calls: BTreeMap<u32, u64> = BTreeMap::new();
        for (cookie, (backend, opened)) in &self.opened {
            let earlier = before.opened.get(cookie).map_or(0, |(_, opened)| *opened);
            *calls.entry(*backend).or_default() += u64::from(opened.wrapping_sub(earlier));
        }
        let services = self.services.iter().map(|(name, backends)| ServiceRow {
            name: name.clone(),
            backends: rows(backends, &calls, seconds),
        });
        Sample { seconds, services: services.collect(), moves: self.http2.clone() }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn rows(
    backends: &BTreeMap<u32, Backend>,
    calls: &BTreeMap<u32, u64>,
    seconds: f64,
) -> Vec<BackendRow> {
    let of = |id: &u32| calls.get(id).copied().unwrap_or_default();
    let all_calls: u64 = backends.keys().map(of).sum();
    let all_connections: u64 = backends.values().map(|backend| backend.connections).sum();
    let share = |id: &u32, backend: &Backend| {
        let (part, whole) = if all_calls > 0 {
            (of(id), all_calls)
        } else {
            (backend.connections, all_connections)
        };
        if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
    };
    let row = |(id, backend): (&u32, &Backend)| BackendRow {
        address: backend.address,
        state: backend.state,
        connections: backend.connections,
        visible: backend.visible,
        calls_per_s: if seconds > 0.0 { of(id) as f64 / seconds } else { 0.0 },
        in_flight: backend.in_flight,
        share: share(id, backend),
        failures: backend.failures,
    };
    let mut rows: Vec<_> = backends.iter().map(row).collect();
    rows.sort_by_key(|row| row.address);
    rows
}

// === impl Sample ===

impl Sample {
    /// One line about all of it.
    pub(super) fn summary(&self) -> String {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let (mut connections, mut visible, mut calls, mut in_flight) = (0, 0, 0.0, 0);
        for backend in backends {
            connections += backend.connections;
            visible += backend.visible;
            calls += backend.calls_per_s;
            in_flight += backend.in_flight;
        }
        let moves = self.moves.as_ref().map_or_else(
            || "agent down".to_owned(),
            |moves| {
                let begun: u64 = moves.begun.values().sum();
                format!("{begun} moves begun, {} made, {} given up", moves.made, moves.given_up)
            },
        );
        format!(
            "{} services, {connections} connections ({visible} followed), {calls:.0} calls/s, \
             {in_flight} in flight; {moves}",
            self.services.len()
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;

    /// A second in which one backend of two answers three of four calls.
    pub(in super::super) fn sample() -> Sample {
        let at = Instant::now();
        let backend = |last: u8, state, failures| Backend {
            address: SocketAddr::from(([10, 0, 0, last], 50_051)),
            state,
            connections: 4,
            visible: 4,
            in_flight: 2,
            failures,
        };
        let services = BTreeMap::from([(
            "payments".to_owned(),
            BTreeMap::from([(1, backend(1, "active", 0)), (2, backend(2, "draining", 3))]),
        )]);
        let http2 = Http2Status {
            begun: BTreeMap::from([("leaving".into(), 3)]),
            made: 2,
            given_up: 1,
            ..Http2Status::default()
        };
        let reading = |after_s, opened| Reading {
            at: at + Duration::from_secs(after_s),
            services: services.clone(),
            opened,
            http2: Some(http2.clone()),
        };
        let before = reading(0, BTreeMap::from([(7, (1, 10)), (8, (2, u32::MAX))]));
        // One counter wraps, and one connection is new.
        let after = reading(2, BTreeMap::from([(7, (1, 20)), (8, (2, 9)), (9, (1, 20))]));
        after.since(&before)
    }

    #[test]
    fn calls_are_counted_between_readings() {
        let sample = sample();
        let [one, two] = &sample.services[0].backends[..] else { panic!("two backends") };
        assert_eq!((one.calls_per_s, two.calls_per_s), (15.0, 5.0));
        assert_eq!((one.share, two.share), (0.75, 0.25));
        assert_eq!(
            sample.summary(),
            "1 services, 8 connections (8 followed), 20 calls/s, 4 in flight; 3 moves begun, 2 made, \
             1 given up"
        );
    }
}
