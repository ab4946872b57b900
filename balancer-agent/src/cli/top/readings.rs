//! What `top` reads of the maps, and what two readings tell of the time between them.

use super::super::{
    arguments::Global,
    snapshot::{Snapshot, listens},
};
use crate::{
    admin::{self, Answer, Http2Account, Http2Status, Request, client},
    core::requests::{self, Requests},
};
use anyhow::Context;
use balancer_common::{backend::state_name, http2::flow::Visibility};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Everything at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    at: Instant,
    services: BTreeMap<String, BTreeMap<u32, Backend>>,
    /// By backend id.
    requests: BTreeMap<u32, Requests>,
    /// None without an agent.
    http2: Option<Http2Status>,
}

#[derive(Clone, Copy, Debug)]
struct Backend {
    address: SocketAddr,
    state: &'static str,
    connections: u64,
    visible: u64,
    failures: u64,
}

/// What happened between two readings.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Seconds between the readings.
    pub(super) seconds: f64,
    pub(super) services: Vec<ServiceRow>,
    /// Moves since the agent started, of all services and of each; none without one.
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
    /// Median latency of calls that ended, in milliseconds.
    pub(super) p50_ms: Option<f64>,
    /// Their 99th percentile, in milliseconds.
    pub(super) p99_ms: Option<f64>,
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
                failures: stats.refused + stats.timed_out + stats.reset,
            };
            found.insert(*id, (record.service, backend));
        }
        let flows = snapshot.maps.read_flows().context("read the connections")?;
        let http2 = snapshot.maps.read_http2_flows().context("read the HTTP/2 connections")?;
        for (cookie, (_, frames)) in &http2 {
            let Some(flow) = flows.get(cookie) else { continue };
            let Some((_, backend)) = found.get_mut(&flow.backend) else { continue };
            if matches!(frames.visibility(), Visibility::Visible | Visibility::Moved) {
                backend.visible += 1;
            }
        }
        let counted = snapshot.maps.read_http2_counts().context("read the counts of requests")?;
        let counted = requests::by_backend(&counted.flows, &counted.totals);
        let requests = counted.into_iter().map(|((_, backend), it)| (backend, it)).collect();
        for (id, (service, backend)) in found {
            services.entry(snapshot.service_name(service)).or_default().insert(id, backend);
        }
        let socket = admin::socket_path(&global.runtime_dir);
        let http2 = match client::ask(&socket, &Request::Status) {
            Ok(Answer::Status(status)) => Some(status.http2),
            _ => None,
        };
        Ok(Self { at: Instant::now(), services, requests, http2 })
    }

    /// What happened since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> Sample {
        let elapsed = self.at.saturating_duration_since(before.at);
        let none = Requests::default();
        let rates: BTreeMap<u32, Rate> = self
            .requests
            .iter()
            .map(|(id, now)| {
                let earlier = before.requests.get(id).unwrap_or(&none);
                (*id, Rate::of(now, earlier, elapsed))
            })
            .collect();
        let services = self.services.iter().map(|(name, backends)| ServiceRow {
            name: name.clone(),
            backends: rows(backends, &rates),
        });
        let seconds = elapsed.as_secs_f64();
        Sample { seconds, services: services.collect(), moves: self.http2.clone() }
    }
}

/// What a backend's requests were between two readings.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    per_s: f64,
    in_flight: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Rate {
    fn of(now: &Requests, earlier: &Requests, elapsed: Duration) -> Self {
        let mut recent = *now;
        for (count, before) in recent.sums.latency.iter_mut().zip(earlier.sums.latency) {
            *count = count.saturating_sub(before);
        }
        let quantile =
            |part| recent.latency().quantile(part).map(|latency| latency.as_secs_f64() * 1e3);
        Self {
            per_s: now.per_second(earlier, elapsed),
            in_flight: now.in_flight,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

fn rows(backends: &BTreeMap<u32, Backend>, rates: &BTreeMap<u32, Rate>) -> Vec<BackendRow> {
    let of = |id: &u32| rates.get(id).copied().unwrap_or_default();
    let all_calls: f64 = backends.keys().map(|id| of(id).per_s).sum();
    let all_connections: u64 = backends.values().map(|backend| backend.connections).sum();
    let row = |(id, backend): (&u32, &Backend)| {
        let rate = of(id);
        #[expect(clippy::cast_precision_loss, reason = "shares for people")]
        let share = match (all_calls > 0.0, all_connections) {
            (true, _) => rate.per_s / all_calls,
            (false, 0) => 0.0,
            (false, all) => backend.connections as f64 / all as f64,
        };
        BackendRow {
            address: backend.address,
            state: backend.state,
            connections: backend.connections,
            visible: backend.visible,
            calls_per_s: rate.per_s,
            in_flight: rate.in_flight,
            p50_ms: rate.p50_ms,
            p99_ms: rate.p99_ms,
            share,
            failures: backend.failures,
        }
    };
    let mut rows: Vec<_> = backends.iter().map(row).collect();
    rows.sort_by_key(|row| row.address);
    rows
}

// === impl Sample ===

impl Sample {
    /// A line about the moves of a service, if there were any.
    pub(super) fn moves_of(&self, service: &str) -> Option<String> {
        let account = self.moves.as_ref()?.services.get(service)?;
        (!account.begun.is_empty() || account.stubborn > 0).then(|| told(account))
    }

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
        let moves =
            self.moves.as_ref().map_or_else(|| "agent down".to_owned(), |moves| told(&moves.all));
        format!(
            "{} services, {connections} connections ({visible} followed), {calls:.0} calls/s, \
             {in_flight} in flight; {moves}",
            self.services.len()
        )
    }
}

/// An account of moves in words.
fn told(account: &Http2Account) -> String {
    let Http2Account { begun, made, given_up, stubborn, .. } = account;
    let begun: u64 = begun.values().sum();
    let told = format!("{begun} moves begun, {made} made, {given_up} given up");
    if *stubborn == 0 { told } else { format!("{told}, {stubborn} stubborn") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use balancer_common::http2::counts::latency_bucket;

    /// A second in which one backend of two answers three of four calls.
    pub(in super::super) fn sample() -> Sample {
        let at = Instant::now();
        let backend = |last: u8, state, failures| Backend {
            address: SocketAddr::from(([10, 0, 0, last], 50_051)),
            state,
            connections: 4,
            visible: 4,
            failures,
        };
        let services = BTreeMap::from([(
            "payments".to_owned(),
            BTreeMap::from([(1, backend(1, "active", 0)), (2, backend(2, "draining", 3))]),
        )]);
        let account = |leaving, made, given_up, stubborn| Http2Account {
            begun: BTreeMap::from([("leaving".into(), leaving)]),
            made,
            given_up,
            stubborn,
            ..Http2Account::default()
        };
        let http2 = Http2Status {
            all: account(8, 6, 2, 1),
            services: BTreeMap::from([("payments".into(), account(3, 2, 1, 1))]),
            ..Http2Status::default()
        };
        let requests = |opened, slow| {
            let mut requests = Requests { in_flight: 2, ..Requests::default() };
            requests.sums.opened = opened;
            requests.sums.latency[latency_bucket(1_000_000)] = opened;
            requests.sums.latency[latency_bucket(50_000_000)] = slow;
            requests
        };
        let reading = |after_s, requests| Reading {
            at: at + Duration::from_secs(after_s),
            services: services.clone(),
            requests,
            http2: Some(http2.clone()),
        };
        // What was slow before does not count.
        let before = reading(0, BTreeMap::from([(1, requests(10, 500))]));
        let after = reading(2, BTreeMap::from([(1, requests(40, 500)), (2, requests(10, 10))]));
        after.since(&before)
    }

    #[test]
    fn calls_are_counted_between_readings() {
        let sample = sample();
        let [one, two] = &sample.services[0].backends[..] else { panic!("two backends") };
        assert_eq!((one.calls_per_s, two.calls_per_s), (15.0, 5.0));
        assert_eq!((one.share, two.share), (0.75, 0.25));
        assert!(one.p99_ms.is_some_and(|ms| ms < 2.0), "{one:?}");
        assert!(two.p99_ms.is_some_and(|ms| ms > 40.0), "{two:?}");
        assert_eq!(
            sample.summary(),
            "1 services, 8 connections (8 followed), 20 calls/s, 4 in flight; 8 moves begun, 6 made, \
             2 given up, 1 stubborn"
        );
    }
}
