//! The rules of discovery, each in its smallest case.

mod farewells;
mod histories;
mod world;

use super::*;
use crate::core::model::BackendSource;
use std::num::NonZeroU32;
use world::{
    GRACE, START, World, applied, endpoint, headless, list, listed, port, ready, rules, service,
    slice,
};

#[test]
fn nothing_is_told_before_every_kind_was_listed() {
    let mut discovery = Discovery::new(rules());
    discovery.services(Message::ListBegins);
    discovery.services(listed(service("a")));
    discovery.services(Message::ListEnds);
    assert_eq!(discovery.settle(START), []);
    discovery.slices(Message::ListBegins);
    discovery.slices(listed(slice("a-1", "a", [ready("10.1.0.1")])));
    assert_eq!(discovery.settle(START), []);
    discovery.slices(Message::ListEnds);
    assert_eq!(discovery.settle(START), [], "the own Node is not known");
    discovery.node(None);
    let events = discovery.settle(START);
    assert!(matches!(&events[..], [Event::Snapshot { services, .. }] if services.len() == 1));
    assert_eq!(discovery.settle(START), []);
}

#[test]
fn a_port_is_balanced_if_it_was_declared_for_that() {
    let asks = |balance, ports: Vec<ServicePort>| {
        let world = World::new([ServiceObject { ports, balance, ..service("a") }]);
        world.names().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let ports = || vec![port("grpc", 80, true), port("web", 81, false), port("", 82, false)];
    assert_eq!(asks(None, ports()), ["shop/a:grpc"]);
    assert_eq!(asks(Some(true), ports()), ["shop/a:82", "shop/a:grpc", "shop/a:web"]);
    assert_eq!(asks(Some(false), ports()), [""; 0]);
    for silent in [
        ServiceObject { balance: None, ..headless("a") },
        ServiceObject { foreign: true, balance: Some(true), ..service("a") },
        ServiceObject { kind: ServiceKind::Other, balance: Some(true), ..service("a") },
    ] {
        assert_eq!(World::new([silent]).names(), [""; 0]);
    }
}

#[test]
fn slices_of_a_service_are_joined_by_family_and_port() {
    let kind = ServiceKind::Cluster(vec!["10.96.0.1".parse().unwrap()]);
    let mut dual = ServiceObject { kind, ..service("a") };
    let v4 = || slice("a-1", "a", [ready("10.1.0.1"), ready("10.1.0.2")]);
    let v6 = || slice("a-2", "a", [ready("fd00::3")]);
    let mut other = slice("a-3", "a", [ready("10.1.0.4")]);
    other.ports[0].name = "web".into();
    let mut world = World::with(dual.clone(), [v4(), v6(), other]);
    assert_eq!(world.backends(), ["1", "2"], "nobody can dial it by IPv6");
    dual.kind =
        ServiceKind::Cluster(vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()]);
    world.service(dual);
    assert_eq!(world.backends(), ["1", "2", "3"]);
    assert_eq!(world.frontends(), ["10.96.0.1:80", "[fd00:96::1]:80"]);
    // A slice may be handed to another Service.
    world.slice(slice("a-1", "b", [ready("10.1.0.1")]));
    assert_eq!(world.backends(), ["3"]);
}

#[test]
fn an_endpoint_of_two_slices_counts_once_and_the_better_way() {
    let leaving = slice("a-1", "a", [endpoint("10.1.0.1", Readiness::Terminating)]);
    let mut world = World::with(service("a"), [leaving, slice("a-2", "a", [ready("10.1.0.1")])]);
    assert_eq!(world.backends(), ["1"]);
    world.slice(slice("a-2", "a", [endpoint("10.1.0.1", Readiness::NotServing)]));
    assert_eq!(world.backends(), ["1"], "KEP-1669: the only one that answers");
    world.slice(slice("a-3", "a", [ready("10.1.0.2")]));
    assert_eq!(world.backends(), ["-1", "2"]);
}

#[test]
fn conditions_decide_who_takes_new_connections() {
    use Readiness::{NotServing, Ready, Stopping, Terminating};
    let cases: [(&[Readiness], bool, &[&str]); 6] = [
        (&[Ready, Terminating, NotServing, Stopping], false, &["1", "-2", "~3", "-4"]),
        // KEP-1669: none is ready, so that those still answering are used.
        (&[Terminating, NotServing, Terminating], false, &["1", "~2", "3"]),
        (&[NotServing, Stopping], false, &["~1", "-2"]),
        (&[Ready, NotServing, Stopping], true, &["1", "2", "-3"]),
        (&[Terminating, NotServing], true, &["-1", "2"]),
        (&[], false, &[]),
    ];
    for (readiness, publish_not_ready, expected) in cases {
        let endpoints: Vec<_> = (1..)
            .zip(readiness)
            .map(|(n, readiness)| endpoint(&format!("10.1.0.{n}"), *readiness))
            .collect();
        let service = ServiceObject { publish_not_ready, ..service("a") };
        let world = World::with(service, [slice("a-1", "a", endpoints)]);
        assert_eq!(world.backends(), expected, "{readiness:?}");
    }
}

#[test]
fn hints_count_if_every_ready_endpoint_has_one_and_one_fits() {
    type Hint = (Option<Arc<[Arc<str>]>>, Option<Arc<[Arc<str>]>>);
    let zone = |zone| -> Hint { (Some(list(&[zone])), None) };
    let node = |zone, node| -> Hint { (Some(list(&[zone])), Some(list(&[node]))) };
    let cases: [(&[Hint], &[&str]); 6] = [
        (&[zone("z1"), zone("z2"), zone("z1")], &["1", "~2", "3"]),
        (&[zone("z1"), (None, None)], &["1", "2"]),
        (&[zone("z2"), zone("z3")], &["1", "2"]),
        (&[node("z1", "node-a"), node("z1", "node-b")], &["1", "~2"]),
        (&[node("z2", "node-b"), node("z1", "node-c")], &["~1", "2"]),
        (&[(Some(list(&[])), None), zone("z1")], &["1", "2"]),
    ];
    for (hints, expected) in cases {
        let endpoints: Vec<_> = (1..)
            .zip(hints)
            .map(|(n, (zones, nodes))| SliceEndpoint {
                zones: zones.clone(),
                nodes: nodes.clone(),
                ..ready(&format!("10.1.0.{n}"))
            })
            .collect();
        let mut world = World::with(service("a"), [slice("a-1", "a", endpoints.clone())]);
        assert_eq!(world.backends(), expected, "{hints:?}");
        // One that is not ready has no say.
        let mut more = endpoints;
        more.push(endpoint("10.1.0.9", Readiness::NotServing));
        world.slice(slice("a-1", "a", more));
        assert_eq!(world.backends()[..expected.len()], *expected, "{hints:?}");
    }
}

#[test]
fn a_local_policy_keeps_to_this_node() {
    let on = |node: &str, address, readiness| SliceEndpoint {
        node: Some(node.into()),
        ..endpoint(address, readiness)
    };
    let local = ServiceObject { local_only: true, ..service("a") };
    let here = on("node-a", "10.1.0.1", Readiness::Ready);
    let there = on("node-b", "10.1.0.2", Readiness::Ready);
    let mut world = World::with(local, [slice("a-1", "a", [here, there.clone()])]);
    assert_eq!(world.backends(), ["1", "~2"]);
    let leaving = on("node-a", "10.1.0.1", Readiness::Terminating);
    world.slice(slice("a-1", "a", [leaving, there.clone()]));
    assert_eq!(world.backends(), ["1", "~2"], "KEP-1669 within the node");
    world.slice(slice("a-1", "a", [there]));
    assert_eq!(world.backends(), ["~2"], "no endpoint here: left untouched");
}

#[test]
fn pods_that_left_a_headless_service_stay_frontends_for_a_while() {
    let mut world =
        World::with(headless("a"), [slice("a-1", "a", [ready("10.1.0.1"), ready("10.1.0.2")])]);
    assert_eq!(world.frontends(), ["10.1.0.1:50051", "10.1.0.2:50051"]);
    assert_eq!(world.discovery.next_at(), None);
    world.slice(slice("a-1", "a", [ready("10.1.0.2")]));
    assert_eq!(world.frontends(), ["10.1.0.1:50051", "10.1.0.2:50051"]);
    assert_eq!(world.backends(), ["2"]);
    assert_eq!(world.discovery.next_at(), Some(START + GRACE));
    world.now = START + GRACE;
    assert_eq!(world.settle(), 1);
    assert_eq!(world.frontends(), ["10.1.0.2:50051"]);
    assert_eq!(world.discovery.next_at(), None);
}

#[test]
fn an_address_that_somebody_else_has_got_is_not_rescued() {
    let mut world = World::with(headless("a"), [slice("a-1", "a", [ready("10.1.0.1")])]);
    world.slice(slice("a-1", "a", [ready("10.1.0.2")]));
    assert_eq!(world.frontends(), ["10.1.0.1:50051", "10.1.0.2:50051"]);
    // A database, which nobody declared for balancing.
    world.slice(slice("db-1", "db", [ready("10.1.0.1")]));
    assert_eq!(world.frontends(), ["10.1.0.2:50051"]);
    world.discovery.slices(Message::Deleted(ObjectKey::new("shop", "db-1"), None));
    world.settle();
    assert_eq!(world.frontends(), ["10.1.0.1:50051", "10.1.0.2:50051"]);
}

#[test]
fn names_of_external_dns_are_frontends_of_every_port() {
    let hosts = vec![Arc::from("shop.example.com")];
    let world = World::new([ServiceObject { hosts: hosts.clone(), ..service("a") }]);
    assert_eq!(world.frontends(), ["10.96.0.1:80", "shop.example.com:80"]);
    let headless = ServiceObject { hosts, ..headless("a") };
    let world = World::with(headless, [slice("a-1", "a", [ready("10.1.0.1")])]);
    assert_eq!(world.frontends(), ["10.1.0.1:50051", "shop.example.com:50051"]);
}

#[test]
fn settings_come_from_annotations_then_the_service_then_the_defaults() {
    let some = NonZeroU32::new;
    let mut declared = ServiceObject { affinity_s: some(60), ..service("a") };
    let mut world = World::with(declared.clone(), [slice("a-1", "a", [ready("10.1.0.1")])]);
    let defaults =
        Behaviour { affinity_s: some(7), user_timeout_ms: some(9), ..Behaviour::default() };
    world.discovery.set_defaults(defaults);
    world.settle();
    let now = &world.services["shop/a:grpc"];
    assert_eq!((now.affinity_s, now.user_timeout_ms), (some(60), some(9)));
    declared.overrides = Overrides {
        affinity_s: Some(None),
        drain_timeout_s: Some(some(5)),
        weight: Some(3),
        ..Overrides::default()
    };
    world.service(declared);
    let now = &world.services["shop/a:grpc"];
    assert_eq!((now.affinity_s, now.drain_timeout_s), (None, some(5)));
    let weight = now.backends.iter().map(|backend| match backend {
        BackendSource::Fixed(endpoint) => endpoint.weight,
        BackendSource::Resolved { weight, .. } => *weight,
    });
    assert_eq!(weight.collect::<Vec<_>>(), [3]);
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_form_and_is_told_once() {
    let mut world = World::with(service("a"), [slice("a-1", "a", [ready("10.1.0.1")])]);
    let fault = Fault { field: "object".into(), cause: "garbage".into(), fix: "mend".into() };
    let malformed = Malformed {
        key: ObjectKey::new("shop", "a-1"),
        service: Some(ObjectKey::new("shop", "a")),
        fault,
    };
    let unreadable = || Observed { version: None, object: Err(malformed.clone()) };
    world.discovery.slices(Message::Applied(unreadable()));
    world.settle();
    assert_eq!(world.backends(), ["1"]);
    let news = world.discovery.take_news();
    assert_eq!(news.len(), 1);
    let text = news[0].to_string();
    assert_eq!(text, "EndpointSlice shop/a-1 of Service shop/a: object: garbage; mend");
    // A list with it still in.
    world.discovery.slices(Message::ListBegins);
    world.discovery.slices(Message::Listed(unreadable()));
    world.discovery.slices(Message::ListEnds);
    world.settle();
    assert_eq!(world.backends(), ["1"]);
    assert_eq!(world.discovery.take_news(), []);
    assert_eq!(world.discovery.counts().refused, 2);
    world.slice(slice("a-1", "a", [ready("10.1.0.2")]));
    assert_eq!(world.backends(), ["2"]);
    assert_eq!(world.discovery.problems().count(), 0);
}

#[test]
fn absurd_sizes_and_names_are_refused_by_themselves() {
    let long = "x".repeat(160);
    let ports = vec![port("grpc", 80, true), port(&long, 81, true), port("grpc", 82, true)];
    let endpoints: Vec<_> = (0..=ENDPOINTS_MAX)
        .map(|n| {
            ready(&std::net::Ipv4Addr::from(0x0a01_0000 + u32::try_from(n).unwrap()).to_string())
        })
        .collect();
    let world =
        World::with(ServiceObject { ports, ..service("a") }, [slice("a-1", "a", endpoints)]);
    assert_eq!(world.names(), ["shop/a:grpc"]);
    assert_eq!(world.backends().len(), ENDPOINTS_MAX);
    let problems: Vec<String> = world.discovery.problems().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[test]
fn old_and_repeated_changes_change_nothing() {
    let at = |version, object: SliceObject| {
        Message::Applied(Observed { version: Some(version), object: Ok(object) })
    };
    let mut world = World::new([service("a")]);
    let one = || slice("a-1", "a", [ready("10.1.0.1")]);
    let two = || slice("a-1", "a", [ready("10.1.0.2")]);
    world.discovery.slices(at(7, two()));
    assert_eq!(world.settle(), 1);
    world.discovery.slices(at(5, one()));
    world.discovery.slices(at(7, two()));
    assert_eq!(world.settle(), 0);
    world.discovery.slices(Message::Deleted(one().key, Some(9)));
    assert_eq!(world.settle(), 1);
    world.discovery.slices(at(8, two()));
    assert_eq!(world.settle(), 0, "it stays deleted");
    assert_eq!(world.discovery.counts().outdated, 2);
    // A complete list is the truth, whatever its versions: etcd may have been restored.
    world.discovery.slices(Message::ListBegins);
    world.discovery.slices(Message::Listed(Observed { version: Some(3), object: Ok(one()) }));
    assert_eq!(world.settle(), 0, "it is not complete");
    world.discovery.slices(Message::ListEnds);
    world.settle();
    assert_eq!(world.backends(), ["1"]);
}
