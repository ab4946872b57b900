//! Which endpoints of a Service's port take connections from this node, as kube-proxy chooses them.

use super::object::{Readiness, ServiceObject, SliceEndpoint};
use crate::core::model::{BackendSource, Endpoint, EndpointState};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Where this agent runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'p> {
    /// The name of the own Node.
    pub(super) node: &'p str,
    /// Its zone.
    pub(super) zone: Option<&'p str>,
}

/// Endpoints by address, each as the slice tells that knows it best.
pub(super) type Endpoints<'e> = BTreeMap<SocketAddr, Known<'e>>;

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'e> {
    /// As its slice has it.
    pub(super) endpoint: &'e SliceEndpoint,
    /// How it is by all that is known.
    pub(super) readiness: Readiness,
}

/// How far an endpoint may be away.
enum Reach {
    Anywhere,
    Zone,
    Node,
}

/// Adds an endpoint. Named twice (a slice is being replaced by another), the better one counts.
pub(super) fn add<'e>(endpoints: &mut Endpoints<'e>, address: SocketAddr, found: Known<'e>) {
    let known = endpoints.entry(address).or_insert(found);
    if found.readiness < known.readiness {
        *known = found;
    }
}

/// The backends of a port. Those that take no new connections stay for as long as the API knows
/// them, as their connections do: those that shut down drain, for as long as `drain-timeout` allows.
/// Those that are not ready, or meant for other nodes, may be back at any time: they are ejected, and
/// nobody ends their connections.
pub(super) fn backends(
    service: &ServiceObject,
    endpoints: &Endpoints<'_>,
    place: Place<'_>,
) -> BTreeSet<BackendSource> {
    let eligible = |known: &Known<'_>| !service.local_only || is_local(known.endpoint, place);
    let ready = |known: &Known<'_>| match known.readiness {
        Readiness::Ready => true,
        Readiness::NotServing => service.publish_not_ready,
        Readiness::Terminating | Readiness::Stopping => false,
    };
    let mut chosen: Vec<(SocketAddr, &SliceEndpoint)> = endpoints
        .iter()
        .filter(|(_, known)| eligible(known) && ready(known))
        .map(|(address, known)| (*address, known.endpoint))
        .collect();
    if chosen.is_empty() {
        // KEP-1669: "If all endpoints are terminating, kube-proxy will send traffic to those that
        // are serving and terminating."
        let terminating = endpoints
            .iter()
            .filter(|(_, known)| eligible(known) && known.readiness == Readiness::Terminating);
        chosen.extend(terminating.map(|(address, known)| (*address, known.endpoint)));
    } else if !service.local_only {
        match reach(&chosen, place) {
            Reach::Anywhere => {}
            Reach::Zone => chosen.retain(|(_, endpoint)| for_zone(endpoint, place)),
            Reach::Node => chosen.retain(|(_, endpoint)| for_node(endpoint, place)),
        }
    }
    let active: BTreeSet<SocketAddr> = chosen.into_iter().map(|(address, _)| address).collect();
    let weight = service.overrides.weight.unwrap_or(1);
    let backend = |(address, known): (&SocketAddr, &Known<'_>)| {
        let state = match known.readiness {
            _ if active.contains(address) => EndpointState::Active,
            Readiness::Terminating | Readiness::Stopping => EndpointState::Draining,
            Readiness::Ready | Readiness::NotServing => EndpointState::Inactive,
        };
        BackendSource::Fixed(Endpoint { address: *address, weight, state })
    };
    endpoints.iter().map(backend).collect()
}

/// Hints count only if every ready endpoint has one and at least one of them is meant for this
/// place: "if any endpoint lacks a hint, or none matches the zone, kube-proxy uses endpoints from
/// all zones" (Kubernetes' documentation of topology aware routing, safeguards). Hints for nodes
/// (`PreferSameNode`) come before those for zones.
fn reach(ready: &[(SocketAddr, &SliceEndpoint)], place: Place<'_>) -> Reach {
    let hinted = |hints: fn(&SliceEndpoint) -> bool| ready.iter().all(|(_, e)| hints(e));
    if hinted(|endpoint| endpoint.nodes.as_ref().is_some_and(|nodes| !nodes.is_empty()))
        && ready.iter().any(|(_, endpoint)| for_node(endpoint, place))
    {
        return Reach::Node;
    }
    if hinted(|endpoint| endpoint.zones.as_ref().is_some_and(|zones| !zones.is_empty()))
        && ready.iter().any(|(_, endpoint)| for_zone(endpoint, place))
    {
        return Reach::Zone;
    }
    Reach::Anywhere
}

fn is_local(endpoint: &SliceEndpoint, place: Place<'_>) -> bool {
    endpoint.node.as_deref() == Some(place.node)
}

fn for_zone(endpoint: &SliceEndpoint, place: Place<'_>) -> bool {
    let zones = endpoint.zones.iter().flat_map(|zones| zones.iter());
    place.zone.is_some_and(|own| zones.into_iter().any(|zone| **zone == *own))
}

fn for_node(endpoint: &SliceEndpoint, place: Place<'_>) -> bool {
    let nodes = endpoint.nodes.iter().flat_map(|nodes| nodes.iter());
    nodes.into_iter().any(|node| **node == *place.node)
}
