//! The world outside: what is declared, what DNS answers, and the events that tell of it.

use balancer_agent::core::{
    event::{Event, Source},
    model::{
        BackendSource, Endpoint, EndpointState, FrontendSource, Lookup, Member, Policy, Presence,
        Service, ServiceName,
    },
};
use rand::{Rng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

const SERVICES: u8 = 12;
const FRONTENDS: u8 = 20;
const ENDPOINTS: u8 = 24;
const LOOKUPS: u8 = 6;

/// The truth, and how much of it the agent was told.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<ServiceName, Service>,
    pub(crate) sets: BTreeMap<Lookup, Vec<Member>>,
    /// The DNS sets that the running agent knows.
    pub(crate) told: BTreeSet<Lookup>,
    /// Whether the running agent had its first snapshot.
    pub(crate) listed: bool,
}

impl World {
    /// Something happens. Events come in the order in which the agent hears of it.
    pub(crate) fn happen(&mut self, rng: &mut StdRng) -> Option<Event> {
        if !self.listed {
            return Some(self.snapshot());
        }
        let event = match rng.random_range(0..100) {
            0..12 => {
                let service = random_service(rng);
                self.services.insert(service.name.clone(), service.clone());
                Event::ServiceChanged { source: Source::File, service }
            }
            12..20 => {
                let name = self.random_name(rng)?;
                self.services.remove(&name);
                Event::ServiceRemoved { source: Source::File, name }
            }
            20..60 => {
                let name = self.random_name(rng)?;
                let service = self.services.get_mut(&name)?;
                flap(service, rng);
                Event::ServiceChanged { source: Source::File, service: service.clone() }
            }
            60..94 => return self.resolve(rng),
            _ => {
                // Changes that were missed during a disconnect, found by the relist.
                for _ in 0..rng.random_range(0..3) {
                    if let Some(name) = self.random_name(rng) {
                        self.services.remove(&name);
                    }
                }
                self.snapshot()
            }
        };
        self.forget_unused();
        Some(event)
    }

    fn snapshot(&mut self) -> Event {
        self.listed = true;
        self.forget_unused();
        Event::Snapshot {
            source: Source::File,
            services: self.services.values().cloned().collect(),
        }
    }

    /// DNS answers, for a set that somebody needs.
    pub(crate) fn resolve(&mut self, rng: &mut StdRng) -> Option<Event> {
        let needed: Vec<Lookup> =
            self.services.values().flat_map(Service::lookups).cloned().collect();
        let lookup = needed.get(rng.random_range(0..needed.len().max(1)))?.clone();
        let count = rng.random_range(0..6);
        let members: Vec<Member> = (0..count).map(|_| random_member(rng)).collect();
        self.sets.insert(lookup.clone(), members.clone());
        self.told.insert(lookup.clone());
        Some(Event::MembersChanged { lookup, members })
    }

    /// DNS answers every question that is still open.
    pub(crate) fn resolve_all(&mut self) -> Vec<Event> {
        let needed: BTreeSet<Lookup> =
            self.services.values().flat_map(Service::lookups).cloned().collect();
        let open: Vec<Lookup> = needed.difference(&self.told).cloned().collect();
        self.told.extend(open.iter().cloned());
        open.into_iter()
            .map(|lookup| {
                let members = self.sets.entry(lookup.clone()).or_default().clone();
                Event::MembersChanged { lookup, members }
            })
            .collect()
    }

    pub(crate) fn restart(&mut self) {
        self.told.clear();
        self.listed = false;
    }

    fn forget_unused(&mut self) {
        let needed: BTreeSet<&Lookup> = self.services.values().flat_map(Service::lookups).collect();
        self.told.retain(|lookup| needed.contains(lookup));
    }

    fn random_name(&self, rng: &mut StdRng) -> Option<ServiceName> {
        self.services.keys().nth(rng.random_range(0..self.services.len().max(1))).cloned()
    }
}

fn random_service(rng: &mut StdRng) -> Service {
    let name = format!("service-{}", rng.random_range(0..SERVICES));
    let frontends = (0..rng.random_range(0..4)).map(|_| random_frontend(rng)).collect();
    let backends = (0..rng.random_range(0..8)).map(|_| random_backend(rng)).collect();
    Service {
        name: ServiceName::new(&name).expect("a short name"),
        frontends,
        backends,
        policy: Policy::ALL[rng.random_range(0..Policy::ALL.len())],
        affinity_s: std::num::NonZeroU32::new(rng.random_range(0..2) * 60),
        tracked: rng.random_bool(0.8),
        ejects: rng.random_bool(0.8),
        http2: rng.random_bool(0.8),
        user_timeout_ms: std::num::NonZeroU32::new(rng.random_range(0..2) * 20_000),
        keepalive: None,
        drain_timeout_s: None,
        move_patience_ms: Some(500),
    }
}

fn flap(service: &mut Service, rng: &mut StdRng) {
    match rng.random_range(0..10) {
        0..4 => {
            service.backends.insert(random_backend(rng));
        }
        4..8 => {
            let index = rng.random_range(0..service.backends.len().max(1));
            if let Some(backend) = service.backends.iter().nth(index).cloned() {
                service.backends.remove(&backend);
                if let (BackendSource::Fixed(endpoint), true) = (backend, rng.random_bool(0.4)) {
                    let state = EndpointState::Draining;
                    service.backends.insert(BackendSource::Fixed(Endpoint { state, ..endpoint }));
                }
            }
        }
        8 => {
            if !service.frontends.insert(random_frontend(rng)) || rng.random_bool(0.3) {
                service.frontends.pop_first();
            }
        }
        _ => service.policy = Policy::ALL[rng.random_range(0..Policy::ALL.len())],
    }
}

fn random_frontend(rng: &mut StdRng) -> FrontendSource {
    if rng.random_bool(0.2) {
        return FrontendSource::Resolved(random_lookup(rng));
    }
    FrontendSource::Fixed(address(200, rng.random_range(0..FRONTENDS)))
}

fn random_backend(rng: &mut StdRng) -> BackendSource {
    if rng.random_bool(0.15) {
        return BackendSource::Resolved { lookup: random_lookup(rng), weight: 1 };
    }
    let state = if rng.random_bool(0.9) { EndpointState::Active } else { EndpointState::Draining };
    BackendSource::Fixed(Endpoint {
        address: random_endpoint(rng),
        weight: random_weight(rng),
        state,
    })
}

fn random_member(rng: &mut StdRng) -> Member {
    let presence = if rng.random_bool(0.8) { Presence::Present } else { Presence::Departed };
    Member { address: random_endpoint(rng), weight: random_weight(rng), presence }
}

fn random_weight(rng: &mut StdRng) -> u32 {
    if rng.random_bool(0.8) { 1 } else { rng.random_range(1..8) }
}

fn random_endpoint(rng: &mut StdRng) -> SocketAddr {
    address(10, rng.random_range(0..ENDPOINTS))
}

fn random_lookup(rng: &mut StdRng) -> Lookup {
    let host = format!("host-{}.test", rng.random_range(0..LOOKUPS));
    Lookup::Host { host: host.as_str().into(), port: 80 }
}

/// Two thirds IPv4, one third IPv6.
fn address(net: u8, host: u8) -> SocketAddr {
    match host % 3 {
        0 => (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, net.into(), host.into()), 80).into(),
        _ => (Ipv4Addr::new(net, 0, 0, host), 80).into(),
    }
}
