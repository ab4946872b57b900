//! Random histories: what is told step by step is what would be told of the end alone.

use super::*;
use crate::core::model::{Endpoint, EndpointState};
use proptest::prelude::*;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, ServiceObject),
    ServiceGone(u8),
    Slice(u8, SliceObject),
    SliceGone(u8),
    Node(Option<u8>),
    Farewell(u8, Farewell),
    /// Both kinds are listed anew, with whatever there is by now.
    Relist,
    /// A list begins and is cut.
    CutList,
    Settle,
}

fn some_service(n: u8) -> impl Strategy<Value = ServiceObject> {
    let balance = prop::sample::select(vec![None, Some(true), Some(false)]);
    (balance, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(balance, is_headless, publish_not_ready, local_only)| {
            let name = format!("s{n}");
            let base = if is_headless { headless(&name) } else { service(&name) };
            ServiceObject { balance, publish_not_ready, local_only, ..base }
        },
    )
}

fn pod(n: u8) -> PodKey {
    PodKey::new(&format!("00000000-0000-4000-8000-0000000000{n:02x}")).unwrap()
}

fn some_endpoint() -> impl Strategy<Value = SliceEndpoint> {
    use Readiness::{NotServing, Ready, Stopping, Terminating};
    let readiness = prop::sample::select(vec![Ready, Ready, Terminating, NotServing, Stopping]);
    let names = || prop::option::of(prop::sample::select(vec!["z1", "z2"]));
    let node = prop::option::of(prop::sample::select(vec!["node-a", "node-b"]));
    (1..6_u8, readiness, names(), node).prop_map(|(host, readiness, zone, node)| SliceEndpoint {
        // Every second one is a pod.
        pod: (host % 2 == 0).then(|| pod(host)),
        node: node.map(Arc::from),
        zones: zone.map(|zone| list(&[zone])),
        ..endpoint(&format!("10.1.0.{host}"), readiness)
    })
}

fn some_slice(n: u8) -> impl Strategy<Value = SliceObject> {
    (0..3_u8, prop::collection::vec(some_endpoint(), 0..5))
        .prop_map(move |(service, all)| slice(&format!("e{n}"), &format!("s{service}"), all))
}

fn step() -> impl Strategy<Value = Step> {
    let services =
        (0..3_u8).prop_flat_map(|n| some_service(n).prop_map(move |it| Step::Service(n, it)));
    let slices = (0..4_u8).prop_flat_map(|n| some_slice(n).prop_map(move |it| Step::Slice(n, it)));
    prop_oneof![
        3 => services,
        1 => (0..3_u8).prop_map(Step::ServiceGone),
        6 => slices,
        2 => (0..4_u8).prop_map(Step::SliceGone),
        1 => prop::option::of(1..3_u8).prop_map(Step::Node),
        2 => (1..6_u8, prop::sample::select(vec![Farewell::Terminating, Farewell::Gone]))
            .prop_map(|(n, farewell)| Step::Farewell(n, farewell)),
        1 => Just(Step::Relist),
        1 => Just(Step::CutList),
        4 => Just(Step::Settle),
    ]
}

/// What the API has.
#[derive(Default)]
struct Truth {
    services: BTreeMap<u8, ServiceObject>,
    slices: BTreeMap<u8, SliceObject>,
    zone: Option<u8>,
    farewells: BTreeMap<u8, Farewell>,
}

impl Truth {
    fn node(&self) -> Option<NodeObject> {
        self.zone.map(|zone| NodeObject { zone: Some(format!("z{zone}").into()) })
    }

    fn list(&self, world: &mut World) {
        world.list_services(self.services.values().cloned());
        world.list_slices(self.slices.values().cloned());
        world.discovery.node(self.node());
    }

    fn take(&mut self, step: Step, world: &mut World) {
        let discovery = &mut world.discovery;
        match step {
            Step::Service(n, service) => {
                self.services.insert(n, service.clone());
                discovery.services(applied(service));
            }
            Step::ServiceGone(n) => {
                if let Some(service) = self.services.remove(&n) {
                    discovery.services(Message::Deleted(service.key, None));
                }
            }
            Step::Slice(n, slice) => {
                self.slices.insert(n, slice.clone());
                discovery.slices(applied(slice));
            }
            Step::SliceGone(n) => {
                if let Some(slice) = self.slices.remove(&n) {
                    discovery.slices(Message::Deleted(slice.key, None));
                }
            }
            Step::Node(zone) => {
                self.zone = zone;
                discovery.node(self.node());
            }
            Step::Farewell(n, farewell) => {
                let said = self.farewells.entry(n).or_insert(farewell);
                *said = farewell.max(*said);
                discovery.pod(pod(n), farewell);
            }
            Step::Relist => self.list(world),
            Step::CutList => {
                discovery.slices(Message::ListBegins);
                if let Some(slice) = self.slices.values().next() {
                    discovery.slices(listed(slice.clone()));
                }
            }
            Step::Settle => {
                world.settle();
            }
        }
    }
}

proptest! {
    #[test]
    fn step_by_step_is_the_same_as_at_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new([]);
        // As `World::new` has it.
        let mut truth = Truth { zone: Some(1), ..Truth::default() };
        for step in steps {
            truth.take(step, &mut world);
        }
        // What has left is forgotten by then, so that memory makes no difference.
        world.settle();
        world.now += 2 * GRACE;
        world.settle();
        let mut fresh = World { discovery: Discovery::new(rules()), now: START, services: BTreeMap::new() };
        for (n, farewell) in &truth.farewells {
            fresh.discovery.pod(pod(*n), *farewell);
        }
        truth.list(&mut fresh);
        fresh.settle();
        prop_assert_eq!(&world.services, &fresh.services);
        prop_assert_eq!(world.discovery.next_at(), None);

        // What is said of a pod holds, whatever came before or after.
        let active = |it: &&BackendSource| matches!(it, BackendSource::Fixed(endpoint) if endpoint.state == EndpointState::Active);
        for service in world.services.values() {
            for backend in service.backends.iter().filter(active) {
                let BackendSource::Fixed(Endpoint { address, .. }) = backend else { continue };
                let IpAddr::V4(ip) = address.ip() else { continue };
                let gone = truth.farewells.get(&ip.octets()[3]) == Some(&Farewell::Gone);
                prop_assert!(!gone || ip.octets()[3] % 2 == 1, "{} is gone", address);
            }
        }

        // No backend that is not in a slice of its Service.
        for (name, service) in &world.services {
            for backend in &service.backends {
                let BackendSource::Fixed(endpoint) = backend else { continue };
                let known = truth.slices.values().any(|slice| {
                    name.starts_with(&format!("shop/{}:", slice.service))
                        && slice.endpoints.iter().any(|it| it.address == endpoint.address.ip())
                });
                prop_assert!(known, "{} has {}", name, endpoint.address);
            }
        }
    }
}
