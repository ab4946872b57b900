//! Many services at once: what one change costs must not depend on how many others there are.

use balancer_agent::core::{
    Core,
    event::{Event, Source},
    model::{BackendSource, Endpoint, EndpointState, FrontendSource, Policy, Service, ServiceName},
    plan::Change,
    write::Limits,
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

const LIMITS: Limits = Limits {
    services: 16_384,
    backends: 131_072,
    frontends: 65_536,
    chunks: 65_536,
    flows: 1_024,
    pod_services: 1_024,
};

/// What a change wrote.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) writes: Vec<balancer_agent::core::write::Write>,
}

pub(crate) struct Crowd {
    core: Core,
    services: Vec<Service>,
}

impl Crowd {
    /// `count` services of `backends` backends each, all written.
    pub(crate) fn new(count: u32, backends: u32) -> Self {
        let services: Vec<Service> = (0..count).map(|n| service(n, backends)).collect();
        let mut core = Core::new(LIMITS, 0, [Source::File]);
        core.observe(Event::Snapshot { source: Source::File, services: services.clone() });
        let mut crowd = Self { core, services };
        let mut changes = 0;
        while let Some(change) = crowd.core.plan() {
            changes += 1;
            crowd.land(change);
        }
        assert_eq!(changes, count);
        assert_eq!(crowd.core.problems(), []);
        crowd
    }

    /// One backend of one service is replaced.
    pub(crate) fn change_one(&mut self, round: u32) -> Written {
        let index = (round as usize * 7_919) % self.services.len();
        let service = &mut self.services[index];
        service.backends.pop_first();
        service.backends.insert(endpoint(u32::MAX - round));
        let event = Event::ServiceChanged { source: Source::File, service: service.clone() };
        self.core.observe(event);
        let change = self.core.plan().expect("a change");
        let written = self.land(change);
        assert!(self.core.plan().is_none(), "one change is all");
        written
    }

    fn land(&mut self, change: Change) -> Written {
        let writes = change.writes.clone();
        self.core.applied(change, writes.len());
        Written { writes }
    }
}

fn service(number: u32, backends: u32) -> Service {
    let frontend = SocketAddr::from((Ipv4Addr::from_bits(0x0a60_0000 + number), 80));
    Service {
        name: ServiceName::new(&format!("service-{number}")).expect("a short name"),
        frontends: BTreeSet::from([FrontendSource::Fixed(frontend)]),
        backends: (0..backends).map(|n| endpoint(0x0a00_0000 + number * backends + n)).collect(),
        policy: Policy::LeastConnection,
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

fn endpoint(bits: u32) -> BackendSource {
    let address = SocketAddr::from((Ipv4Addr::from_bits(bits), 50_051));
    BackendSource::Fixed(Endpoint { address, weight: 1, state: EndpointState::Active })
}
