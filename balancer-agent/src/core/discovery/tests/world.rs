//! Objects in their smallest form, and a discovery with what the core would know of it.

use super::super::*;
use crate::core::model::{BackendSource, EndpointState, FrontendSource};

pub(super) const GRACE: Duration = Duration::from_mins(10);
pub(super) const START: Duration = Duration::from_secs(1_000);

pub(super) fn rules() -> Rules {
    let node_name = "node-a".into();
    Rules { node_name, departed_grace: GRACE, watch_pods: true, defaults: Behaviour::default() }
}

pub(super) fn service(name: &str) -> ServiceObject {
    ServiceObject {
        key: ObjectKey::new("shop", name),
        uid: "uid".into(),
        kind: ServiceKind::Cluster(vec!["10.96.0.1".parse().unwrap()]),
        ports: vec![port("grpc", 80, true)],
        balance: None,
        foreign: false,
        publish_not_ready: false,
        local_only: false,
        affinity_s: None,
        hosts: Vec::new(),
        overrides: Overrides::default(),
        faults: Vec::new(),
    }
}

pub(super) fn headless(name: &str) -> ServiceObject {
    ServiceObject { kind: ServiceKind::Headless, balance: Some(true), ..service(name) }
}

pub(super) fn port(name: &str, number: u16, speaks_h2: bool) -> ServicePort {
    ServicePort { name: name.into(), number, speaks_h2 }
}

pub(super) fn endpoint(address: &str, readiness: Readiness) -> SliceEndpoint {
    let address = address.parse().unwrap();
    SliceEndpoint { address, readiness, pod: None, node: None, zones: None, nodes: None }
}

pub(super) fn ready(address: &str) -> SliceEndpoint {
    endpoint(address, Readiness::Ready)
}

pub(super) fn of_pod(endpoint: SliceEndpoint, pod: PodKey) -> SliceEndpoint {
    SliceEndpoint { pod: Some(pod), ..endpoint }
}

pub(super) fn list(texts: &[&str]) -> Arc<[Arc<str>]> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

pub(super) fn slice(
    name: &str,
    service: &str,
    endpoints: impl Into<Vec<SliceEndpoint>>,
) -> SliceObject {
    let endpoints: Vec<SliceEndpoint> = endpoints.into();
    SliceObject {
        key: ObjectKey::new("shop", name),
        service: service.into(),
        v6: endpoints.first().is_some_and(|endpoint| endpoint.address.is_ipv6()),
        ports: Box::new([SlicePort { name: "grpc".into(), number: 50051 }]),
        endpoints: endpoints.into(),
        faults: Vec::new(),
    }
}

pub(super) fn applied<T>(object: T) -> Message<T> {
    Message::Applied(Observed { version: None, object: Ok(object) })
}

pub(super) fn listed<T>(object: T) -> Message<T> {
    Message::Listed(Observed { version: None, object: Ok(object) })
}

/// Discovery and what the core would know of it.
pub(super) struct World {
    pub(super) discovery: Discovery,
    pub(super) now: Duration,
    pub(super) services: BTreeMap<String, Service>,
}

impl World {
    pub(super) fn new(services: impl IntoIterator<Item = ServiceObject>) -> Self {
        let mut world =
            Self { discovery: Discovery::new(rules()), now: START, services: BTreeMap::new() };
        world.list_services(services);
        world.list_slices([]);
        world.discovery.node(Some(NodeObject { zone: Some("z1".into()) }));
        world.settle();
        world
    }

    pub(super) fn list_services(&mut self, services: impl IntoIterator<Item = ServiceObject>) {
        self.discovery.services(Message::ListBegins);
        services.into_iter().for_each(|service| self.discovery.services(listed(service)));
        self.discovery.services(Message::ListEnds);
    }

    pub(super) fn list_slices(&mut self, slices: impl IntoIterator<Item = SliceObject>) {
        self.discovery.slices(Message::ListBegins);
        for slice in slices {
            self.discovery.slices(listed(slice));
        }
        self.discovery.slices(Message::ListEnds);
    }

    /// A world with one service and these slices of it.
    pub(super) fn with(
        service: ServiceObject,
        slices: impl IntoIterator<Item = SliceObject>,
    ) -> Self {
        let mut world = Self::new([service]);
        world.list_slices(slices);
        world.settle();
        world
    }

    pub(super) fn slice(&mut self, slice: SliceObject) {
        self.discovery.slices(applied(slice));
        self.settle();
    }

    pub(super) fn service(&mut self, service: ServiceObject) {
        self.discovery.services(applied(service));
        self.settle();
    }

    pub(super) fn settle(&mut self) -> usize {
        let events = self.discovery.settle(self.now);
        let count = events.len();
        for event in events {
            match event {
                Event::Snapshot { services, .. } => {
                    let named = services.into_iter().map(|it| (it.name.to_string(), it));
                    self.services = named.collect();
                }
                Event::ServiceChanged { service, .. } => {
                    self.services.insert(service.name.to_string(), service);
                }
                Event::ServiceRemoved { name, .. } => {
                    assert!(self.services.remove(name.as_str()).is_some(), "{name}");
                }
                Event::MembersChanged { .. } => unreachable!("discovery knows no DNS"),
            }
        }
        count
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.services.keys().map(String::as_str).collect()
    }

    pub(super) fn frontends(&self) -> Vec<String> {
        let sources = self.services.values().flat_map(|service| &service.frontends);
        let text = |source: &FrontendSource| match source {
            FrontendSource::Fixed(address) => address.to_string(),
            FrontendSource::Resolved(lookup) => lookup.to_string(),
        };
        sources.map(text).collect()
    }

    /// Last parts of the backends' addresses, those that drain with a `-` in front, those that are
    /// ejected with a `~`.
    pub(super) fn backends(&self) -> Vec<String> {
        let sources = self.services.values().flat_map(|service| &service.backends);
        let text = |source: &BackendSource| {
            let BackendSource::Fixed(endpoint) = source else {
                return "resolved".to_owned();
            };
            let sign = match endpoint.state {
                EndpointState::Active => "",
                EndpointState::Inactive => "~",
                EndpointState::Draining => "-",
            };
            let address = endpoint.address.ip().to_string();
            format!("{sign}{}", address.rsplit(['.', ':']).next().unwrap())
        };
        sources.map(text).collect()
    }
}
