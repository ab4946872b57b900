//! What the kernel tells at one moment, put together as loads of services.

use super::{BackendLoad, FlowLoad, ServiceLoad, Standing};
use crate::core::model::{Policy, Service};
use balancer_common::{
    backend::{Backend, STATE_ACTIVE, STATE_DRAINING, STATE_GONE},
    flow::{FLOW_ESTABLISHED, Flow},
    http2::flow::Visibility,
};
use std::{
    collections::BTreeMap,
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

/// What the kernel tells at one moment. All times by `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'k> {
    /// Tracked connections by socket cookie.
    pub flows: &'k BTreeMap<u64, Flow>,
    /// What is known of their frames, where these are followed.
    pub frames: &'k BTreeMap<u64, Frames>,
    /// Backends by id.
    pub backends: &'k BTreeMap<u32, Backend>,
    /// Backends that are passed over for now, with their failures in a row.
    pub ejected: &'k BTreeMap<u32, u64>,
    /// When.
    pub now: Duration,
}

/// Since when backends serve.
#[derive(Debug, Default)]
pub struct Standings {
    /// With the incarnation, since ids are used again.
    since: BTreeMap<u32, (u32, Duration)>,
}

// === impl Standings ===

impl Standings {
    /// The loads of all services that `declared` knows as to be followed.
    pub fn loads<'s>(
        &mut self,
        picture: &Picture<'_>,
        declared: impl Fn(u32) -> Option<&'s Service>,
    ) -> BTreeMap<u32, ServiceLoad> {
        let mut loads: BTreeMap<u32, ServiceLoad> = BTreeMap::new();
        self.since.retain(|id, _| picture.backends.contains_key(id));
        for (id, backend) in picture.backends {
            let Some(service) = declared(backend.service).filter(|it| it.tracked && it.http2)
            else {
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
                load.flows.push(flow_load(*cookie, flow, picture.frames.get(cookie)));
            }
        }
        loads
    }

    fn standing(&mut self, id: u32, backend: &Backend, picture: &Picture<'_>) -> Standing {
        let ejected = picture.ejected.get(&id);
        match backend.state {
            STATE_ACTIVE if ejected.is_some_and(|failures| *failures >= FAILURES_MIN) => {
                Standing::Leaving
            }
            STATE_ACTIVE if ejected.is_some() => Standing::Idle,
            STATE_ACTIVE => {
                let (incarnation, since) =
                    self.since.entry(id).or_insert((backend.incarnation, picture.now));
                if *incarnation != backend.incarnation {
                    (*incarnation, *since) = (backend.incarnation, picture.now);
                }
                Standing::Serving { since: *since }
            }
            state => {
                // Should it come back, it is new again.
                self.since.remove(&id);
                if matches!(state, STATE_DRAINING | STATE_GONE) {
                    Standing::Leaving
                } else {
                    Standing::Idle
                }
            }
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
