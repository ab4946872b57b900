//! The rules of the core, each in its smallest case.

mod lifetime;
mod spread;

use super::{
    Core,
    event::{Event, Source},
    fake::FakeDatapath,
    model::{
        BackendSource, Endpoint, EndpointState, FrontendSource, Lookup, Member, Policy, Presence,
        Service, ServiceName,
    },
    problem::Problem,
    write::Limits,
};
use balancer_common::backend::STATE_DRAINING;
use std::{collections::BTreeSet, net::SocketAddr};

const LIMITS: Limits = Limits {
    services: 100,
    backends: 2_000,
    frontends: 200,
    chunks: 10_000,
    flows: 100,
    pod_services: 100,
};
const VIP: &str = "10.96.0.1:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(n: u8) -> Endpoint {
    let address = SocketAddr::from(([10, 0, 0, n], 80));
    Endpoint { address, weight: 1, state: EndpointState::Active }
}

fn lookup() -> Lookup {
    Lookup::Host { host: "shop.test".into(), port: 80 }
}

fn member(n: u8, presence: Presence) -> Member {
    Member { address: endpoint(n).address, weight: 1, presence }
}

fn service(name: &str, frontend: &str, endpoints: impl IntoIterator<Item = Endpoint>) -> Service {
    Service {
        name: ServiceName::new(name).unwrap(),
        frontends: BTreeSet::from([FrontendSource::Fixed(at(frontend))]),
        backends: endpoints.into_iter().map(BackendSource::Fixed).collect(),
        policy: Policy::RoundRobin,
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

fn resolved(name: &str, frontend: &str) -> Service {
    let mut service = service(name, frontend, []);
    service.backends.insert(BackendSource::Resolved { lookup: lookup(), weight: 1 });
    service
}

/// A core with its maps.
struct Node {
    core: Core,
    maps: FakeDatapath,
}

impl Node {
    fn new(limits: Limits, rank: u32) -> Self {
        Self { core: Core::new(limits, rank, [Source::File]), maps: FakeDatapath::new(limits) }
    }

    fn with(services: impl IntoIterator<Item = Service>) -> Self {
        let mut node = Self::new(LIMITS, 0);
        node.declare(services);
        node
    }

    fn declare(&mut self, services: impl IntoIterator<Item = Service>) {
        let services = services.into_iter().collect();
        self.observe(Event::Snapshot { source: Source::File, services });
    }

    fn tell(&mut self, members: impl IntoIterator<Item = Member>) {
        let members = members.into_iter().collect();
        self.observe(Event::MembersChanged { lookup: lookup(), members });
    }

    fn observe(&mut self, event: Event) {
        self.core.observe(event);
        self.pass();
        assert_eq!(self.core.differences(&self.maps.read_back()), []);
    }

    fn pass(&mut self) {
        while let Some(change) = self.core.plan() {
            let landed = self.maps.apply_all(&change.writes, |_| false).unwrap();
            self.core.applied(change, landed);
        }
        assert!(self.core.plan().is_none(), "a second plan is empty");
    }

    fn restart(&mut self) {
        self.core = Core::new(LIMITS, 0, [Source::File]);
        self.core.adopt(&self.maps.read_back());
        self.pass();
    }

    fn sweep(&mut self) -> usize {
        let Some(change) = self.core.sweep(|id| self.maps.active(id)) else {
            return 0;
        };
        let landed = self.maps.apply_all(&change.writes, |_| false).unwrap();
        self.core.applied(change, landed);
        landed
    }

    fn reachable(&self, frontend: &str) -> BTreeSet<u8> {
        let last = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(v4) => v4.octets()[3],
            std::net::IpAddr::V6(v6) => v6.octets()[15],
        };
        self.maps.reachable(at(frontend)).into_iter().map(last).collect()
    }
}

#[test]
fn an_unknown_set_leaves_a_new_service_with_what_is_known() {
    let mut declared = resolved("a", VIP);
    declared.backends.insert(BackendSource::Fixed(endpoint(9)));
    let mut node = Node::with([declared]);
    assert_eq!(node.reachable(VIP), [9].into());
    node.tell([member(1, Presence::Present), member(2, Presence::Departed)]);
    assert_eq!(node.reachable(VIP), [1, 9].into());
}

#[test]
fn a_restart_keeps_the_backends_of_an_unknown_set_and_an_empty_set_does_not() {
    let mut node = Node::with([resolved("a", VIP)]);
    node.tell([member(1, Presence::Present), member(2, Presence::Present)]);
    node.restart();
    assert_eq!(node.reachable(VIP), [1, 2].into());
    node.declare([resolved("a", VIP)]);
    assert_eq!(node.reachable(VIP), [1, 2].into());
    node.tell([]);
    assert_eq!(node.reachable(VIP), [].into());
    assert!(node.maps.connect(at(VIP), 1).is_none(), "left untouched");
}

#[test]
fn an_undeclared_service_stays_until_the_first_snapshot() {
    let mut node = Node::with([service("a", VIP, [endpoint(1)])]);
    let id = node.maps.read_back().frontends[&at(VIP)];
    node.restart();
    assert_eq!(node.reachable(VIP), [1].into());
    node.declare([service("a", VIP, [endpoint(2)])]);
    assert_eq!(node.maps.read_back().frontends[&at(VIP)], id, "services keep their ids");
    node.restart();
    node.declare([]);
    let kernel = node.maps.read_back();
    assert!(kernel.frontends.is_empty() && kernel.services.is_empty());
}

#[test]
fn a_departed_member_drains_and_stays_a_frontend() {
    let mut declared = resolved("a", VIP);
    declared.frontends.insert(FrontendSource::Resolved(lookup()));
    let mut node = Node::with([declared]);
    node.tell([member(1, Presence::Present), member(2, Presence::Departed)]);
    assert_eq!(node.reachable("10.0.0.2:80"), [1].into());
    let draining = node.maps.read_back().backends.into_values();
    assert_eq!(draining.filter(|backend| backend.state == STATE_DRAINING).count(), 1);
}

#[test]
fn an_endpoint_named_twice_is_one_backend() {
    let heavy = Endpoint { weight: 3, state: EndpointState::Draining, ..endpoint(1) };
    let node = Node::with([service("a", VIP, [endpoint(1), heavy, endpoint(2)])]);
    let weights: Vec<u32> = node.maps.read_back().backends.values().map(|b| b.weight).collect();
    assert_eq!(weights, [3, 1]);
    assert_eq!(node.reachable(VIP), [1, 2].into());
}

#[test]
fn a_family_serves_itself_and_stands_in_for_the_other() {
    let v6 = Endpoint { address: at("[fd00::6]:80"), ..endpoint(0) };
    let mut both = service("a", VIP, [endpoint(4), v6.clone()]);
    both.frontends.insert(FrontendSource::Fixed(at("[fd00::f]:80")));
    let mut node = Node::with([both.clone()]);
    assert_eq!((node.reachable(VIP), node.reachable("[fd00::f]:80")), ([4].into(), [6].into()));
    both.backends = BTreeSet::from([BackendSource::Fixed(v6)]);
    node.declare([both]);
    assert_eq!((node.reachable(VIP), node.reachable("[fd00::f]:80")), ([6].into(), [6].into()));
}

#[test]
fn the_first_claimant_keeps_a_frontend_and_the_next_inherits_it() {
    let a = service("a", VIP, [endpoint(1)]);
    let b = service("b", VIP, [endpoint(2)]);
    let mut node = Node::with([b.clone()]);
    node.declare([a, b.clone()]);
    assert_eq!(node.reachable(VIP), [1].into());
    let problems = node.core.problems();
    assert!(
        matches!(&problems[..], [Problem::FrontendTaken { service, .. }] if *service == b.name)
    );
    node.declare([b]);
    assert_eq!(node.reachable(VIP), [2].into());
    assert_eq!(node.core.problems(), []);
}

#[test]
fn what_needs_counts_takes_turns_without_tracking_and_says_so() {
    for named in [Policy::LeastConnection, Policy::LeastRequest] {
        let mut declared = service("a", VIP, [endpoint(1), endpoint(2)]);
        (declared.policy, declared.tracked) = (named, false);
        let node = Node::with([declared]);
        let problems = node.core.problems();
        assert!(matches!(
            &problems[..],
            [Problem::Untracked { policy, .. }] if *policy == named.name()
        ));
        assert_eq!(node.reachable(VIP), [1, 2].into());
    }
}

#[test]
fn differences_are_told_in_words() {
    let node = Node::with([service("a", VIP, [endpoint(1), endpoint(2)])]);
    let mut kernel = node.maps.read_back();
    kernel.frontends.clear();
    kernel.services.values_mut().for_each(|service| service.slots_v4.truncate(1));
    let texts: Vec<String> =
        node.core.differences(&kernel).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "service `a`: IPv4 slots differ: 1 slots of 1 backends in the kernel, should be 2 of 2",
            "service `a`: frontend 10.96.0.1:80 is missing in the kernel",
        ]
    );
    kernel.services.clear();
    assert!(node.core.differences(&kernel).iter().any(|d| d.text == "is missing in the kernel"));
}

#[test]
fn a_report_says_what_a_service_waits_for() {
    let mut declared = resolved("a", VIP);
    declared.backends.insert(BackendSource::Fixed(endpoint(9)));
    let node = Node::with([declared]);
    let report = node.core.report();
    assert_eq!(report[0].waits_for, ["shop.test:80"]);
    assert_eq!((report[0].backends[0].state, report[0].backends[0].id), ("active", Some(1)));
}
