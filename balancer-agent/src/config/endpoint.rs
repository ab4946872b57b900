//! What stands in `frontends` and `backends`.

use super::{
    cause::Cause,
    error::{KeyPath, Problems},
    mapping::Mapping,
    scalar,
    tree::{Node, Value},
};
use crate::core::model::{
    BackendSource, Endpoint, EndpointState, FrontendSource, Lookup, WEIGHT_MAX,
};

/// Keys of a frontend that is no plain address.
pub(super) const FRONTEND_KEYS: &[&str] = &["dns", "port"];
/// Keys of a backend that is no plain address.
pub(super) const BACKEND_KEYS: &[&str] = &["address", "dns", "port", "srv", "weight", "state"];
/// Keys of a service's `dns`.
pub(super) const SERVICE_DNS_KEYS: &[&str] = &["name", "port"];

const PORT_EXAMPLE: &str = "port: 50051";

/// Reads one item of `frontends`.
pub(super) fn frontend(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> Option<FrontendSource> {
    if !matches!(node.value, Value::Map(_)) {
        return scalar::endpoint_address(node)
            .map(FrontendSource::Fixed)
            .map_err(|cause| problems.add(node.at, path, cause))
            .ok();
    }
    let map = Mapping::open(node, path, FRONTEND_KEYS, problems)?;
    host(&map, "dns", "dns: payments.internal", problems).map(FrontendSource::Resolved)
}

/// Reads a service's `dns`, whose addresses are frontends and backends at once.
pub(super) fn service_dns(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> Option<Lookup> {
    let map = Mapping::open(node, path, SERVICE_DNS_KEYS, problems)?;
    host(&map, "name", "name: payments.internal", problems)
}

/// A name and a port, which A and AAAA records do not carry.
fn host(
    map: &Mapping<'_>,
    key: &'static str,
    example: &'static str,
    problems: &mut Problems,
) -> Option<Lookup> {
    let host = map.require(key, example, problems, scalar::host_name);
    let port = map.require("port", PORT_EXAMPLE, problems, scalar::port);
    Some(Lookup::Host { host: host?, port: port? })
}

/// Reads one item of `backends`.
pub(super) fn backend(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> Option<BackendSource> {
    if !matches!(node.value, Value::Map(_)) {
        let address = scalar::endpoint_address(node)
            .map_err(|cause| problems.add(node.at, path, cause))
            .ok()?;
        let endpoint = Endpoint { address, weight: 1, state: EndpointState::Active };
        return Some(BackendSource::Fixed(endpoint));
    }
    let map = Mapping::open(node, path, BACKEND_KEYS, problems)?;
    // Read before the kind is known, so that their mistakes are told in the same pass.
    let weight = match map.get("weight") {
        Some(_) => map.read("weight", problems, weight),
        None => Some(1),
    };
    let state = match map.get("state") {
        Some(_) => map.read("state", problems, |node| {
            scalar::word(node, &[EndpointState::Active, EndpointState::Draining], state_name)
        }),
        None => Some(EndpointState::Active),
    };
    let source = backend_source(&map, problems)?;
    let (weight, state) = (weight?, state?);
    Some(match source {
        Target::Fixed(address) => BackendSource::Fixed(Endpoint { address, weight, state }),
        Target::Resolved(lookup) => BackendSource::Resolved { lookup, weight },
    })
}

enum Target {
    Fixed(std::net::SocketAddr),
    Resolved(Lookup),
}

fn backend_source(map: &Mapping<'_>, problems: &mut Problems) -> Option<Target> {
    let given: Vec<&str> =
        ["address", "dns", "srv"].into_iter().filter(|key| map.get(key).is_some()).collect();
    let refuse = |key, with, fix, problems: &mut Problems| {
        if let Some(node) = map.get(key) {
            problems.add(node.at, map.path.key(key), Cause::Clash { key, with, fix });
        }
    };
    match given[..] {
        ["address"] => {
            let fix = "write the port behind the address, as in `10.1.0.1:50051`";
            refuse("port", "address", fix, problems);
            map.read("address", problems, scalar::endpoint_address).map(Target::Fixed)
        }
        ["dns"] => {
            let fix = "take the address out of DNS, or list it as `address`";
            refuse("state", "dns", fix, problems);
            host(map, "dns", "dns: payments.internal", problems).map(Target::Resolved)
        }
        ["srv"] => {
            let fix = "take the target out of DNS, or list it as `address`";
            refuse("state", "srv", fix, problems);
            refuse("port", "srv", "remove `port`; SRV records carry it", problems);
            map.read("srv", problems, scalar::srv_name)
                .map(|name| Target::Resolved(Lookup::Srv { name }))
        }
        _ => {
            let cause = Cause::OneOf { keys: "`address`, `dns` and `srv`", found: given.len() };
            problems.add(map.node.at, map.path, cause);
            None
        }
    }
}

pub(super) fn weight(node: &Node<'_>) -> Result<u32, Cause> {
    if node.value == Value::Integer(0) {
        return Err(Cause::WeightZero);
    }
    scalar::number(node, 1..=WEIGHT_MAX)
}

fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Active => "active",
        EndpointState::Inactive => "inactive",
        EndpointState::Draining => "draining",
    }
}
