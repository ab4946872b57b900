//! What the kernel tells at one moment, put together as loads of services.

use super::{BackendLoad, Caution, FlowLoad, ServiceLoad, Standing};
use crate::core::model::{Policy, Service};
use balancer_common::{
    backend::{Backend, STATE_ACTIVE, STATE_DRAINING, STATE_GONE},
    flow::{FLOW_ESTABLISHED, Flow},
    http2::flow::Visibility,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Failures in a row after which connections that still are with an ejected backend leave it: gRPC's
/// outlier detection takes an ejected backend's calls away as well (gRFC A50).
const FAILURES_MIN: u64 = 3;

/// What is known of a connection's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Whether they are seen.
    pub visibility: Visibility,
    /// Streams that are open.
    pub in_flight: u32,
    /// Streams that were ever opened; it wraps.
    pub opened: u32,
}

/// What the kernel tells at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'k> {
    /// Tracked connections by socket cookie.
    pub flows: &'k BTreeMap<u64, Flow>,
    /// What is known of their frames, where these are followed.
    pub frames: &'k BTreeMap<u64, Frames>,
    /// Backends by id, of every service that is asked for.
    pub backends: &'k BTreeMap<u32, &'k Backend>,
    /// Pods whose connections are not to be moved, by cgroup id.
    pub unmoved: &'k BTreeSet<u64>,
    /// Backends that are passed over for now, with their failures in a row.
    pub ejected: &'k BTreeMap<u32, u64>,
}

/// Since when backends serve, by `CLOCK_MONOTONIC`, of those that began lately. Who is not in it has served for long.
#[derive(Debug)]
pub struct Standings {
    keep: Duration,
    since: HashMap<u32, Duration>,
    /// The same in the order of time, with what was overtaken by a new beginning.
    order: VecDeque<(Duration, u32)>,
}

// === impl Standings ===

impl Standings {
    /// Nobody has begun lately. Who has is remembered for as long as `caution` makes a difference.
    pub fn new(caution: &Caution) -> Self {
        let keep = caution.new_for.max(caution.slow_start) + caution.jitter_max;
        Self { keep, since: HashMap::new(), order: VecDeque::new() }
    }

    /// These began to serve. Time does not go back from call to call.
    pub fn began(&mut self, backends: impl IntoIterator<Item = u32>, now: Duration) {
        while let Some((since, id)) = self.order.front().copied()
            && now.saturating_sub(since) > self.keep
        {
            self.order.pop_front();
            if self.since.get(&id) == Some(&since) {
                self.since.remove(&id);
            }
        }
        for id in backends {
            self.since.insert(id, now);
            self.order.push_back((now, id));
        }
        if self.order.is_empty() {
            // Of all backends, as a start brings them.
            (self.since, self.order) = (HashMap::new(), VecDeque::new());
        }
    }

    /// The loads of all services that have backends in the picture and that `declared` knows as to be
    /// followed.
    pub fn loads<'s>(
        &self,
        picture: &Picture<'_>,
        declared: impl Fn(u32) -> Option<&'s Service>,
    ) -> BTreeMap<u32, ServiceLoad> {
        let mut loads: BTreeMap<u32, ServiceLoad> = BTreeMap::new();
        for (id, backend) in picture.backends {
            let Some(service) = declared(backend.service).filter(|it| it.is_followed()) else {
                continue;
            };
            let load = loads.entry(backend.service).or_insert_with(|| empty(service));
            let address =
                SocketAddr::new(IpAddr::from(backend.address), u16::from_be(backend.port_be));
            let standing = self.standing(*id, backend, picture);
            load.backends.insert(*id, BackendLoad { address, weight: backend.weight, standing });
        }
        for (cookie, flow) in picture.flows {
            if flow.state == FLOW_ESTABLISHED
                && let Some(load) = loads.get_mut(&flow.service)
            {
                let mut seen = flow_load(*cookie, flow, picture.frames.get(cookie));
                seen.is_movable &= !picture.unmoved.contains(&flow.pod);
                load.flows.push(seen);
            }
        }
        loads
    }

    fn standing(&self, id: u32, backend: &Backend, picture: &Picture<'_>) -> Standing {
        let ejected = picture.ejected.get(&id);
        match backend.state {
            STATE_ACTIVE if ejected.is_some_and(|failures| *failures >= FAILURES_MIN) => {
                Standing::Leaving
            }
            STATE_ACTIVE if ejected.is_some() => Standing::Idle,
            STATE_ACTIVE => {
                Standing::Serving { since: self.since.get(&id).copied().unwrap_or_default() }
            }
            STATE_DRAINING | STATE_GONE => Standing::Leaving,
            _ => Standing::Idle,
        }
    }
}

fn empty(service: &Service) -> ServiceLoad {
    ServiceLoad {
        spreads: service.policy != Policy::Maglev && service.affinity_s.is_none(),
        in_turn: service.policy == Policy::RoundRobin,
        ..ServiceLoad::default()
    }
}

fn flow_load(cookie: u64, flow: &Flow, frames: Option<&Frames>) -> FlowLoad {
    let is = |visibility| frames.is_some_and(|frames| frames.visibility == visibility);
    FlowLoad {
        cookie,
        pod: flow.pod,
        backend: flow.backend,
        since: Duration::from_nanos(flow.started_ns),
        in_flight: frames.map_or(0, |frames| frames.in_flight),
        opened: frames.map_or(0, |frames| frames.opened),
        is_movable: is(Visibility::Visible),
        is_moved: is(Visibility::Moved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::ServiceName;
    use balancer_common::{address::Address, backend::STATE_INACTIVE, flow::FLOW_CONNECTING};

    const FOLLOWED: u32 = 7;
    const OTHER: u32 = 8;
    const UNMOVED: u64 = 9;
    const VISIBLE: Frames = Frames { visibility: Visibility::Visible, in_flight: 0, opened: 0 };
    const NOW: Duration = Duration::from_hours(1);

    fn service() -> Service {
        Service {
            name: ServiceName::new("shop").unwrap(),
            frontends: BTreeSet::new(),
            backends: BTreeSet::new(),
            policy: Policy::LeastRequest,
            affinity_s: None,
            tracked: true,
            ejects: true,
            http2: true,
            user_timeout_ms: None,
            keepalive: None,
            drain_timeout_s: None,
            move_patience_ms: Some(500),
        }
    }

    fn backend(service: u32, n: u8, state: u32) -> Backend {
        let address = Address::from(IpAddr::from([10, 1, 0, n]));
        Backend { address, port_be: 80_u16.to_be(), service, state, ..Backend::default() }
    }

    fn loads(
        standings: &Standings,
        backends: &[Backend],
        ejected: &[(u32, u64)],
        flows: &[Flow],
    ) -> BTreeMap<u32, ServiceLoad> {
        let picture = Picture {
            flows: &(0..).zip(flows.iter().copied()).collect(),
            frames: &(0..).map(|cookie| (cookie, VISIBLE)).take(flows.len()).collect(),
            backends: &(1..).zip(backends).collect(),
            unmoved: &BTreeSet::from([UNMOVED]),
            ejected: &ejected.iter().copied().collect(),
        };
        let service = service();
        standings.loads(&picture, |id| (id == FOLLOWED).then_some(&service))
    }

    fn standings(loads: &BTreeMap<u32, ServiceLoad>) -> Vec<Standing> {
        loads[&FOLLOWED].backends.values().map(|backend| backend.standing).collect()
    }

    #[test]
    fn a_backend_is_new_while_that_makes_a_difference() {
        let caution = Caution::default();
        let mut known = Standings::new(&caution);
        let backends = [1, 2].map(|n| backend(FOLLOWED, n, STATE_ACTIVE));
        known.began([2], NOW);
        let serving = |since| Standing::Serving { since };
        let old = serving(Duration::ZERO);
        assert_eq!(standings(&loads(&known, &backends, &[], &[])), [old, serving(NOW)]);
        let last = NOW + caution.new_for + caution.jitter_max;
        // The same time once more, and a second beginning of one that is known.
        known.began([2], NOW);
        known.began([], last);
        assert_eq!(standings(&loads(&known, &backends, &[], &[])), [old, serving(NOW)]);
        known.began([], last + Duration::from_nanos(1));
        assert_eq!(standings(&loads(&known, &backends, &[], &[])), [old, old]);
        assert_eq!((known.since.len(), known.order.len()), (0, 0));
        known.began([1], last);
        known.began([1], last + caution.new_for);
        known.began([], last + caution.new_for + Duration::from_secs(1));
        let again = serving(last + caution.new_for);
        assert_eq!(standings(&loads(&known, &backends, &[], &[])), [again, old]);
    }

    #[test]
    fn states_and_failures_make_what_a_backend_is() {
        let states = [STATE_ACTIVE, STATE_ACTIVE, STATE_DRAINING, STATE_GONE, STATE_INACTIVE];
        let backends: Vec<_> = (1..).zip(states).map(|(n, it)| backend(FOLLOWED, n, it)).collect();
        let failures = [(1, FAILURES_MIN), (2, FAILURES_MIN - 1)];
        let found =
            standings(&loads(&Standings::new(&Caution::default()), &backends, &failures, &[]));
        let (idle, leaving) = (Standing::Idle, Standing::Leaving);
        assert_eq!(found, [leaving, idle, leaving, leaving, idle]);
    }

    #[test]
    fn loads_are_of_established_connections_to_followed_services() {
        let backends = [FOLLOWED, OTHER].map(|service| backend(service, 1, STATE_ACTIVE));
        let states =
            [(FOLLOWED, FLOW_ESTABLISHED), (FOLLOWED, FLOW_CONNECTING), (OTHER, FLOW_ESTABLISHED)];
        let flows = states.map(|(service, state)| Flow { service, state, ..Flow::default() });
        let loads = loads(&Standings::new(&Caution::default()), &backends, &[], &flows);
        assert_eq!(loads.keys().collect::<Vec<_>>(), [&FOLLOWED]);
        let cookies: Vec<_> = loads[&FOLLOWED].flows.iter().map(|flow| flow.cookie).collect();
        assert_eq!(cookies, [0]);
    }

    #[test]
    fn connections_of_a_pod_that_does_not_want_it_count_and_do_not_move() {
        let backends = [backend(FOLLOWED, 1, STATE_ACTIVE)];
        let flows = [UNMOVED, UNMOVED + 1].map(|pod| Flow {
            pod,
            service: FOLLOWED,
            state: FLOW_ESTABLISHED,
            ..Flow::default()
        });
        let loads = loads(&Standings::new(&Caution::default()), &backends, &[], &flows);
        let movable: Vec<_> = loads[&FOLLOWED].flows.iter().map(|flow| flow.is_movable).collect();
        assert_eq!(movable, [false, true]);
    }
}
