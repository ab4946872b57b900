//! One Service and its slices become services of the core, one for each balanced port.

use super::{
    choice::{self, Endpoints, Known, Place},
    farewell::Farewells,
    object::{Fault, ServiceKind, ServiceObject, ServicePort, SliceObject},
};
use crate::core::model::{Behaviour, FrontendSource, Lookup, Service, ServiceName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Most endpoints of one port that are balanced.
pub const ENDPOINTS_MAX: usize = 10_000;

/// Addresses by the name of the port that they belong to.
pub(super) type Addresses = BTreeMap<Arc<str>, BTreeSet<SocketAddr>>;

/// What a Service has become.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) services: Vec<Service>,
    pub(super) faults: Vec<Fault>,
}

/// Every address that a headless Service's balanced ports have at the moment.
pub(super) fn pod_addresses<'s>(
    service: &ServiceObject,
    slices: &(impl Iterator<Item = &'s SliceObject> + Clone),
) -> Addresses {
    let mut addresses = Addresses::new();
    if service.kind != ServiceKind::Headless {
        return addresses;
    }
    for port in service.ports.iter().filter(|port| service.balances(port)) {
        let of_port = addresses.entry(port.name.clone()).or_default();
        for slice in slices.clone() {
            of_port.extend(slice.addresses(&port.name).map(|(address, _)| address));
        }
    }
    addresses
}

/// Joins a Service with its slices. `departed` are addresses of pods that have left a headless one.
pub(super) fn join<'s>(
    service: &ServiceObject,
    slices: &(impl Iterator<Item = &'s SliceObject> + Clone),
    departed: &Addresses,
    farewells: &Farewells,
    place: Place<'_>,
    defaults: &Behaviour,
) -> Joined {
    let mut joined = Joined::default();
    let mut names = BTreeSet::new();
    for port in service.ports.iter().filter(|port| service.balances(port)) {
        let name = match port_name(service, port) {
            Ok(name) if names.insert(name.clone()) => name,
            Ok(name) => {
                let cause = format!("a second port gives the name `{name}`");
                joined.faults.push(Fault {
                    field: "spec.ports".into(),
                    cause,
                    fix: "give each port a name of its own".into(),
                });
                continue;
            }
            Err(fault) => {
                joined.faults.push(fault);
                continue;
            }
        };
        let mut endpoints = endpoints(service, port, slices.clone(), farewells);
        if endpoints.len() > ENDPOINTS_MAX {
            joined.faults.push(too_many(port, endpoints.len()));
            while endpoints.len() > ENDPOINTS_MAX {
                endpoints.pop_last();
            }
        }
        let behaviour = service.behaviour(defaults);
        joined.services.push(Service {
            name,
            frontends: frontends(service, port, &endpoints, departed.get(&port.name)),
            backends: choice::backends(service, &endpoints, place),
            policy: behaviour.policy,
            affinity_s: behaviour.affinity_s,
            tracked: behaviour.tracked,
            ejects: behaviour.ejects,
            http2: behaviour.http2,
            user_timeout_ms: behaviour.user_timeout_ms,
            keepalive: behaviour.keepalive,
            drain_timeout_s: behaviour.drain_timeout_s,
            move_patience_ms: behaviour.move_patience_ms,
        });
    }
    if service.balance == Some(true) && service.ports.is_empty() && !service.foreign {
        joined.faults.push(Fault {
            field: "spec.ports".into(),
            cause: "there is no TCP port to balance".into(),
            fix: "name the port that clients dial, or remove `balancer.dev/balance`".into(),
        });
    }
    joined
}

fn port_name(service: &ServiceObject, port: &ServicePort) -> Result<ServiceName, Fault> {
    let text = if port.name.is_empty() {
        format!("{}:{}", service.key, port.number)
    } else {
        format!("{}:{}", service.key, port.name)
    };
    ServiceName::new(&text).map_err(|error| Fault {
        field: "spec.ports".into(),
        // Its name may be what is wrong.
        cause: format!("the port {} cannot be balanced: {error}", port.number),
        fix: "shorten the names of Service and port".into(),
    })
}

fn too_many(port: &ServicePort, count: usize) -> Fault {
    Fault {
        field: "endpoints".into(),
        cause: format!(
            "port {} has {count} endpoints, of which {ENDPOINTS_MAX} are used",
            port.number
        ),
        fix: "split the Service".into(),
    }
}

/// The endpoints of a port: those of the families in which the Service can be dialled.
fn endpoints<'s>(
    service: &ServiceObject,
    port: &ServicePort,
    slices: impl Iterator<Item = &'s SliceObject>,
    farewells: &Farewells,
) -> Endpoints<'s> {
    let dialled = |slice: &&SliceObject| match &service.kind {
        ServiceKind::Cluster(addresses) => addresses.iter().any(|ip| ip.is_ipv6() == slice.v6),
        ServiceKind::Headless => true,
        ServiceKind::Other => false,
    };
    let mut endpoints = Endpoints::new();
    for slice in slices.filter(dialled) {
        let of_port = slice.ports.iter().filter(|known| known.name == port.name);
        for number in of_port.map(|known| known.number) {
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, number);
                let readiness = farewells.readiness(endpoint.pod, endpoint.readiness);
                choice::add(&mut endpoints, address, Known { endpoint, readiness });
            }
        }
    }
    endpoints
}

fn frontends(
    service: &ServiceObject,
    port: &ServicePort,
    endpoints: &Endpoints<'_>,
    departed: Option<&BTreeSet<SocketAddr>>,
) -> BTreeSet<FrontendSource> {
    let mut frontends: BTreeSet<FrontendSource> = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    match &service.kind {
        ServiceKind::Cluster(addresses) => {
            numbers.insert(port.number);
            let at = |ip: &IpAddr| FrontendSource::Fixed(SocketAddr::new(*ip, port.number));
            frontends.extend(addresses.iter().map(at));
        }
        ServiceKind::Headless => {
            // Clients got pod addresses from DNS, and dial the port that pods listen on.
            numbers.extend(endpoints.keys().map(SocketAddr::port));
            let addresses = endpoints.keys().chain(departed.into_iter().flatten());
            frontends.extend(addresses.copied().map(FrontendSource::Fixed));
        }
        ServiceKind::Other => {}
    }
    for host in &service.hosts {
        for number in &numbers {
            let lookup = Lookup::Host { host: host.clone(), port: *number };
            frontends.insert(FrontendSource::Resolved(lookup));
        }
    }
    frontends
}
