//! What a service should be in the kernel, given what was observed of it.

use super::{
    model::{
        BackendSource, EndpointState, FrontendSource, Lookup, Member, Policy, Presence, Service,
    },
    schedule::{self, Candidate},
};
use balancer_common::{
    backend::{STATE_ACTIVE, STATE_DRAINING, STATE_INACTIVE},
    service,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

/// A backend as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its share.
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: EndpointState,
}

/// What is known of a service's frontends or backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<T> {
    /// Everything from sources that have spoken.
    pub set: T,
    /// Whether all of them have. If not, a service keeps what the kernel has.
    pub complete: bool,
}

/// Members of the DNS sets that were told of.
pub type Sets = HashMap<Lookup, Vec<Member>>;

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// What clients dial.
    pub frontends: BTreeSet<SocketAddr>,
    /// What serves, by address.
    pub backends: BTreeMap<SocketAddr, DesiredBackend>,
    /// How a backend is picked.
    pub policy: Policy,
    /// The record but for banks and generation.
    pub settings: service::Service,
    /// Session affinity in seconds; zero is off.
    pub affinity_s: u32,
    /// Whether something it needs was never told of.
    pub partial: bool,
}

/// The two schedules of a service, as addresses in slot order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots<T> {
    /// For clients of IPv4 frontends.
    pub v4: Vec<T>,
    /// For clients of IPv6 frontends.
    pub v6: Vec<T>,
}

impl EndpointState {
    /// The kernel's code for this state.
    pub const fn code(self) -> u32 {
        match self {
            Self::Active => STATE_ACTIVE,
            Self::Inactive => STATE_INACTIVE,
            Self::Draining => STATE_DRAINING,
        }
    }
}

/// The one form of an address that the kernel's keys have: no mapped IPv4, no scope, no flow label.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What is known of a service's frontends. Departed members stay: clients may remember them.
pub fn frontends(service: &Service, sets: &Sets) -> Known<BTreeSet<SocketAddr>> {
    let mut known = Known { set: BTreeSet::new(), complete: true };
    for source in &service.frontends {
        match source {
            FrontendSource::Fixed(address) => {
                known.set.insert(canonical(*address));
            }
            FrontendSource::Resolved(lookup) => match sets.get(lookup) {
                Some(members) => {
                    known.set.extend(members.iter().map(|member| canonical(member.address)));
                }
                None => known.complete = false,
            },
        }
    }
    known
}

/// What is known of a service's backends. Named twice, one counts once: active wins over draining,
/// the larger weight over the smaller.
pub fn backends(service: &Service, sets: &Sets) -> Known<BTreeMap<SocketAddr, DesiredBackend>> {
    let mut known = Known { set: BTreeMap::new(), complete: true };
    for source in &service.backends {
        match source {
            BackendSource::Fixed(endpoint) => {
                add(&mut known.set, endpoint.address, endpoint.weight, endpoint.state);
            }
            BackendSource::Resolved { lookup, weight } => match sets.get(lookup) {
                Some(members) => {
                    for member in members {
                        let state = match member.presence {
                            Presence::Present => EndpointState::Active,
                            Presence::Departed => EndpointState::Draining,
                        };
                        let weight = member.weight.max(1).saturating_mul((*weight).max(1));
                        add(&mut known.set, member.address, weight, state);
                    }
                }
                None => known.complete = false,
            },
        }
    }
    known
}

fn add(
    set: &mut BTreeMap<SocketAddr, DesiredBackend>,
    address: SocketAddr,
    weight: u32,
    state: EndpointState,
) {
    let weight = weight.max(1);
    set.entry(canonical(address))
        .and_modify(|known| {
            known.weight = known.weight.max(weight);
            // `Active` orders before `Inactive`, and that before `Draining`.
            known.state = known.state.min(state);
        })
        .or_insert(DesiredBackend { weight, state });
}

/// The policy that the kernel can keep: that of the least loaded needs the counts that tracking gives.
pub const fn effective_policy(service: &Service) -> Policy {
    if service.policy.needs_counts() && !service.tracked {
        Policy::RoundRobin
    } else {
        service.policy
    }
}

/// The service's record but for banks and generation.
pub fn settings(service: &Service) -> service::Service {
    let tracked = if service.tracked { service::SERVICE_TRACKED } else { 0 };
    let ejects = if service.ejects { service::SERVICE_EJECTS } else { 0 };
    let http2 = if service.tracked && service.http2 { service::SERVICE_HTTP2 } else { 0 };
    let keepalive = service.keepalive;
    service::Service {
        flags: service::SERVICE_VALID | tracked | ejects | http2,
        user_timeout_ms: service.user_timeout_ms.map_or(0, std::num::NonZeroU32::get),
        keepalive_idle_s: keepalive.map_or(0, |k| k.idle_s.get()),
        keepalive_interval_s: keepalive.map_or(0, |k| k.interval_s.get()),
        keepalive_probes: keepalive.map_or(0, |k| k.probes.get()),
        ..service::Service::default()
    }
}

/// The schedules of both families; `None` if there are more backends than a schedule has slots.
///
/// A client gets backends of the family that it dialled; if none of them takes new connections,
/// those of the other.
pub fn slots(
    policy: Policy,
    backends: &BTreeMap<SocketAddr, DesiredBackend>,
) -> Option<Slots<SocketAddr>> {
    let usable = backends
        .iter()
        .filter(|(_, backend)| backend.state == EndpointState::Active)
        .map(|(address, backend)| Candidate { address: *address, weight: backend.weight });
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = usable.partition(|c| c.address.is_ipv4());
    let lay_out = |candidates: &[Candidate]| -> Option<Vec<SocketAddr>> {
        let slots = schedule::lay_out(policy, candidates)?;
        Some(slots.iter().map(|index| candidates[*index as usize].address).collect())
    };
    if v4.is_empty() || v6.is_empty() {
        v4.append(&mut v6);
        let both = lay_out(&v4)?;
        return Some(Slots { v4: both.clone(), v6: both });
    }
    Some(Slots { v4: lay_out(&v4)?, v6: lay_out(&v6)? })
}
