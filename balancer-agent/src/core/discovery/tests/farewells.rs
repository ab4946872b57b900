//! Pods that say by themselves that they leave.

use super::*;
use std::collections::BTreeSet;
use world::of_pod;

fn key(n: u32) -> PodKey {
    PodKey::new(&format!("00000000-0000-4000-8000-{n:012x}")).unwrap()
}

fn world() -> World {
    let endpoints = [of_pod(ready("10.1.0.1"), key(1)), of_pod(ready("10.1.0.2"), key(2))];
    World::with(service("a"), [slice("a-1", "a", endpoints)])
}

fn say(world: &mut World, pod: u32, farewell: Farewell) -> usize {
    world.discovery.pod(key(pod), farewell);
    world.settle()
}

#[test]
fn only_uuids_name_pods() {
    assert!(PodKey::new("3f9c8a1e-6a0b-4c5d-9e2f-0123456789ab").is_some());
    assert_eq!(
        PodKey::new("3F9C8A1E-6A0B-4C5D-9E2F-0123456789AB"),
        PodKey::new("3f9c8a1e-6a0b-4c5d-9e2f-0123456789ab")
    );
    for text in [
        "",
        "3f9c8a1e6a0b4c5d9e2f0123456789ab",
        "3f9c8a1e-6a0b-4c5d-9e2f-0123456789ag",
        "3f9c8a1e-6a0b-4c5d-9e2f-0123456789a-",
        "3f9c8a1e-6a0b-4c5d-9e2f-0123456789aé",
        "-f9c8a1e-6a0b-4c5d-9e2f-0123456789ab",
    ] {
        assert_eq!(PodKey::new(text), None, "{text}");
    }
}

#[test]
fn a_pod_that_leaves_drains_though_its_slice_is_silent() {
    let mut world = world();
    assert_eq!(world.backends(), ["1", "2"]);
    assert_eq!(say(&mut world, 1, Farewell::Terminating), 1);
    assert_eq!(world.backends(), ["-1", "2"]);
    assert_eq!(say(&mut world, 1, Farewell::Terminating), 0, "it was said before");
    // Its slice says the same, then that it does not serve any more.
    let with = |readiness| {
        let leaving = of_pod(endpoint("10.1.0.1", readiness), key(1));
        slice("a-1", "a", [leaving, of_pod(ready("10.1.0.2"), key(2))])
    };
    world.slice(with(Readiness::Terminating));
    world.slice(with(Readiness::Stopping));
    assert_eq!(world.backends(), ["-1", "2"]);
    assert_eq!(say(&mut world, 1, Farewell::Gone), 1, "it is told, and the same");
    assert_eq!(world.backends(), ["-1", "2"]);
    world.slice(slice("a-1", "a", [of_pod(ready("10.1.0.2"), key(2))]));
    assert_eq!(world.backends(), ["2"]);
}

#[test]
fn what_is_said_before_the_slice_is_known_counts() {
    let mut world = World::new([service("a")]);
    assert_eq!(say(&mut world, 1, Farewell::Terminating), 0);
    let endpoints = [of_pod(ready("10.1.0.1"), key(1)), of_pod(ready("10.1.0.2"), key(2))];
    world.slice(slice("a-1", "a", endpoints.clone()));
    assert_eq!(world.backends(), ["-1", "2"]);
    // A late slice brings a pod back that has gone.
    world.slice(slice("a-1", "a", [endpoints[1].clone()]));
    say(&mut world, 1, Farewell::Gone);
    world.slice(slice("a-1", "a", endpoints));
    assert_eq!(world.backends(), ["-1", "2"]);
}

#[test]
fn those_that_leave_serve_on_when_there_is_no_other() {
    let mut world = world();
    say(&mut world, 1, Farewell::Terminating);
    say(&mut world, 2, Farewell::Terminating);
    assert_eq!(world.backends(), ["1", "2"], "KEP-1669");
    say(&mut world, 1, Farewell::Gone);
    assert_eq!(world.backends(), ["-1", "2"], "nobody answers there any more");
    let unready = of_pod(endpoint("10.1.0.2", Readiness::NotServing), key(2));
    world.slice(slice("a-1", "a", [unready]));
    assert_eq!(world.backends(), ["-2"], "not ready, and terminating");
}

#[test]
fn a_successor_of_the_same_name_or_address_is_another_pod() {
    let mut world = world();
    say(&mut world, 1, Farewell::Terminating);
    // A StatefulSet's next pod, whose slice still has its predecessor.
    world.slice(slice("a-2", "a", [of_pod(ready("10.1.0.1"), key(3))]));
    assert_eq!(world.backends(), ["1", "2"], "the better one counts");
    world.slice(slice("a-1", "a", [of_pod(ready("10.1.0.2"), key(2))]));
    assert_eq!(world.backends(), ["1", "2"]);
    let no_pod = ready("10.1.0.9");
    world.slice(slice("a-3", "a", [no_pod]));
    assert_eq!(world.backends(), ["1", "2", "9"], "no pod says anything of it");
}

#[test]
fn every_service_of_the_pod_is_told() {
    let mut world = world();
    world.service(ServiceObject {
        kind: ServiceKind::Cluster(vec!["10.96.0.2".parse().unwrap()]),
        ..service("b")
    });
    world.slice(slice("b-1", "b", [of_pod(ready("10.1.0.1"), key(1)), ready("10.1.0.8")]));
    assert_eq!(say(&mut world, 1, Farewell::Terminating), 2);
    assert_eq!(world.backends(), ["-1", "2", "-1", "8"]);
    // One of its slices goes, the other one stays.
    world.discovery.slices(Message::Deleted(ObjectKey::new("shop", "b-1"), None));
    world.settle();
    assert_eq!(say(&mut world, 1, Farewell::Gone), 1);
}

#[test]
fn memory_is_bounded_by_the_endpoints_and_a_limit_on_others() {
    let mut farewells = Farewells::default();
    let one = slice("a-1", "a", [of_pod(ready("10.1.0.1"), key(1))]);
    farewells.change(None, Some(&one));
    assert_eq!(farewells.take(key(1), Farewell::Terminating), [one.owner()]);
    for n in 2..20_000 {
        assert!(farewells.take(key(n), Farewell::Gone).is_empty());
    }
    assert_eq!(farewells.len(), 4_097);
    let leaving = |farewells: &Farewells, n| {
        farewells.readiness(Some(key(n)), Readiness::Ready) != Readiness::Ready
    };
    assert!(leaving(&farewells, 1) && leaving(&farewells, 19_999) && !leaving(&farewells, 2));
    // Without its endpoint it is one of the others.
    farewells.change(Some(&one), None);
    assert!(leaving(&farewells, 1));
    for n in 20_000..30_000 {
        farewells.take(key(n), Farewell::Gone);
    }
    assert_eq!((farewells.len(), leaving(&farewells, 1)), (4_096, false));
}

#[test]
fn nobody_is_followed_where_pods_are_not_watched() {
    let rules = Rules { watch_pods: false, ..rules() };
    let mut world =
        World { discovery: Discovery::new(rules), now: START, services: BTreeMap::new() };
    world.list_services([service("a")]);
    world.list_slices([slice("a-1", "a", [of_pod(ready("10.1.0.1"), key(1)), ready("10.1.0.2")])]);
    world.discovery.node(None);
    world.settle();
    assert_eq!(say(&mut world, 1, Farewell::Terminating), 0);
}

#[test]
fn namespaces_are_those_of_balanced_services() {
    let namespaces = |world: &World| -> BTreeSet<String> {
        world.discovery.namespaces().map(ToString::to_string).collect()
    };
    let in_bank = |name: &str| ServiceObject { key: ObjectKey::new("bank", name), ..service(name) };
    let mut world = World::new([service("a"), headless("h"), in_bank("b")]);
    assert_eq!(namespaces(&world), ["bank", "shop"].map(String::from).into());
    world.service(in_bank("c"));
    world.service(ServiceObject { balance: Some(false), ..in_bank("b") });
    assert_eq!(namespaces(&world).len(), 2);
    world.discovery.services(Message::Deleted(ObjectKey::new("bank", "c"), None));
    world.settle();
    assert_eq!(namespaces(&world), ["shop".to_owned()].into());
}
