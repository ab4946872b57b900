//! Ids and what holds them: limits, failed writes, backends that left.

use super::{LIMITS, Node, VIP, at, endpoint, service};
use crate::core::{
    Core,
    event::{Event, Source},
    kernel::socket,
    model::{Endpoint, EndpointState, ServiceName},
    plan::ChangeKind,
    problem::{Problem, Resource},
    write::{Limits, Write},
};
use balancer_common::backend::STATE_GONE;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

#[test]
fn a_service_over_a_limit_is_not_half_written_and_fits_when_there_is_room() {
    let limits = Limits { backends: 4, ..LIMITS };
    let mut node = Node::new(limits, 0);
    let small = service("a", "10.96.0.2:80", [endpoint(1), endpoint(2)]);
    let large = service("b", VIP, [3, 4].map(endpoint));
    node.declare([small.clone(), large.clone()]);
    let problems = node.core.problems();
    assert!(matches!(
        &problems[..],
        [Problem::OverLimit {
            resource: Resource::Backends,
            needed: 2,
            available: 1,
            limit: 4,
            ..
        }]
    ));
    assert!(problems[0].to_string().contains("raise the limit"));
    assert_eq!(node.maps.read_back().services.len(), 1);
    // What leaves is taken out although what is new does not fit.
    node.declare([service("a", "10.96.0.2:80", [2, 5, 6].map(endpoint)), large.clone()]);
    assert_eq!(node.reachable("10.96.0.2:80"), [2].into());
    node.declare([service("a", "10.96.0.2:80", [endpoint(2)]), large]);
    assert_eq!((node.sweep(), node.sweep()), (0, 1));
    node.pass();
    assert_eq!(node.reachable(VIP), [3, 4].into());
    assert_eq!(node.core.problems(), []);
}

#[test]
fn a_backend_that_left_keeps_its_id_while_it_has_connections() {
    let mut node = Node::with([service("a", VIP, [endpoint(1), endpoint(2)])]);
    let connections: Vec<_> = (0..2).map(|_| node.maps.connect(at(VIP), 1).unwrap()).collect();
    node.declare([service("a", VIP, [endpoint(2)])]);
    let id = connections[0].backend;
    assert_eq!(node.maps.read_back().backends[&id].state, STATE_GONE);
    assert_eq!((node.sweep(), node.sweep(), node.sweep()), (0, 0, 0));
    // It returns under the same id and incarnation.
    node.declare([service("a", VIP, [endpoint(1), endpoint(2)])]);
    assert_eq!(node.maps.read_back().backends[&id].incarnation, connections[0].incarnation);
    node.declare([service("a", VIP, [endpoint(2)])]);
    node.maps.close(&connections[0]);
    assert_eq!((node.sweep(), node.sweep()), (0, 1));
    node.declare([service("a", VIP, [endpoint(2), endpoint(3)])]);
    let successor = node.maps.read_back().backends[&id];
    assert!(successor.incarnation > connections[0].incarnation);
}

#[test]
fn the_newest_incarnation_is_never_forgotten_by_a_restart() {
    let mut node = Node::with([service("a", VIP, [endpoint(1)])]);
    node.declare([service("a", VIP, [endpoint(2)])]);
    node.declare([service("a", VIP, [endpoint(1)])]);
    assert_eq!((node.sweep(), node.sweep(), node.sweep()), (0, 0, 0));
    node.restart();
    node.declare([service("a", VIP, [endpoint(1), endpoint(3)])]);
    let incarnations: BTreeSet<u32> =
        node.maps.read_back().backends.values().map(|b| b.incarnation).collect();
    assert_eq!(incarnations, [1, 2, 3].into());
}

#[test]
fn a_failed_write_is_made_good_whole() {
    let names = |n: u8| service("a", VIP, [endpoint(n), endpoint(n + 1)]);
    for cut in 0..12 {
        let mut node = Node::with([names(1)]);
        node.core.observe(Event::ServiceChanged { source: Source::File, service: names(2) });
        let change = node.core.plan().unwrap();
        let landed = cut.min(change.writes.len() - 1);
        for write in &change.writes[..landed] {
            node.maps.apply(write).unwrap();
        }
        node.core.applied(change, landed);
        assert!(node.core.needs_retry() && node.core.plan().is_none());
        node.core.retry();
        let change = node.core.plan().unwrap();
        assert!(change.writes.iter().any(|write| matches!(write, Write::Frontend { .. })));
        assert_eq!(change.kind, ChangeKind::Updated);
        let landed = node.maps.apply_all(&change.writes, |_| false).unwrap();
        node.core.applied(change, landed);
        node.pass();
        assert_eq!(node.core.differences(&node.maps.read_back()), []);
        assert_eq!(node.reachable(VIP), [2, 3].into());
    }
}

#[test]
fn services_of_a_silent_cluster_stay_until_it_has_spoken() {
    let sources = [Source::File, Source::Kubernetes];
    let snapshot = |source, services| Event::Snapshot { source, services };
    let mut node = Node::new(LIMITS, 0);
    node.core = Core::new(LIMITS, 0, sources);
    let ours = service("shop/a:grpc", VIP, [endpoint(1)]);
    let file = service("file", "10.96.0.2:80", [endpoint(2)]);
    node.observe(snapshot(Source::File, vec![file.clone()]));
    node.observe(snapshot(Source::Kubernetes, vec![ours.clone()]));
    // The agent begins anew, and the API is away.
    node.core = Core::new(LIMITS, 0, sources);
    node.core.adopt(&node.maps.read_back());
    node.pass();
    node.declare([file.clone()]);
    assert!(node.core.awaits_sources());
    assert_eq!(node.reachable(VIP), [1].into(), "what is pinned stays in force");
    // It is back, and the service is as it was; then it is not there any more.
    node.observe(snapshot(Source::Kubernetes, vec![ours]));
    assert_eq!(node.reachable(VIP), [1].into());
    node.core = Core::new(LIMITS, 0, sources);
    node.core.adopt(&node.maps.read_back());
    node.observe(snapshot(Source::Kubernetes, Vec::new()));
    assert_eq!(node.reachable(VIP), [1].into(), "the file has not spoken yet");
    node.declare([file]);
    assert_eq!(node.reachable(VIP), [].into());
}

#[test]
fn who_begins_to_serve_is_told_once_and_again_when_it_comes_back() {
    let mut node = Node::with([service("a", VIP, [endpoint(1), endpoint(2)])]);
    let ids = |node: &Node| -> BTreeMap<SocketAddr, u32> {
        let id = node.core.id_of(&ServiceName::new("a").unwrap()).unwrap();
        node.core.backends_of(id).map(|(id, backend)| (socket(backend), id)).collect()
    };
    let all: BTreeSet<u32> = ids(&node).into_values().collect();
    let service_id = node.core.id_of(&ServiceName::new("a").unwrap()).unwrap();
    assert_eq!(node.core.take_touched(), [service_id].into());
    assert_eq!((all.len(), node.core.take_newcomers()), (2, all));
    let heavy = || Endpoint { weight: 3, ..endpoint(1) };
    let draining = Endpoint { state: EndpointState::Draining, ..endpoint(2) };
    assert_eq!(*node.core.touched(), [].into());
    node.declare([service("a", VIP, [heavy(), endpoint(2)])]);
    assert_eq!(*node.core.touched(), [service_id].into(), "another weight");
    node.declare([service("a", VIP, [heavy(), draining])]);
    assert_eq!(node.core.take_newcomers(), [].into(), "another weight, and one that drains");
    node.declare([service("a", VIP, [heavy(), endpoint(2), endpoint(3)])]);
    let ids = ids(&node);
    let back = ids[&endpoint(2).address];
    assert_eq!(ids.len(), 3);
    node.declare([service("a", VIP, [endpoint(2)])]);
    assert_eq!(node.core.take_newcomers(), [back].into(), "the third came and left");
}
