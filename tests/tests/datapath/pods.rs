//! Clients in a tree of cgroups as kubelet makes it: each is told by its pod, known to an agent or not.

use balancer_agent::{
    core::pods::{
        NodeCgroups, PodUid,
        cgroup_path::{ContainerCgroup, Driver, PodCgroup, QosClass, Runtime},
        registry::PodWrite,
    },
    datapath::cgroup,
    sources::pods::scan::{Places, scan},
};
use balancer_common::{
    hierarchy::{Hierarchy, SEARCH_LEVELS_MAX},
    pod::Skip,
    reason::Reason,
};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::{Dialer, protocol::Dialled},
    fixture::{Fixture, service::ServiceSpec},
    world::World,
};
use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf};

const DRIVERS: [(Driver, Runtime); 2] =
    [(Driver::Systemd, Runtime::Containerd), (Driver::Cgroupfs, Runtime::Crio)];

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

fn pod(uid: &str, qos: QosClass) -> PodCgroup {
    PodCgroup { uid: PodUid::new(uid).unwrap(), qos }
}

/// A node: a world whose cgroups are named as one driver and one runtime do.
struct Node {
    fixture: Fixture,
    driver: Driver,
    runtime: Runtime,
}

impl Node {
    fn new((driver, runtime): (Driver, Runtime)) -> Self {
        Self { fixture: Fixture::new("pods").unwrap(), driver, runtime }
    }

    fn cgroup(&self, below: &str) -> PathBuf {
        self.fixture.world().pod(below).unwrap()
    }

    fn cgroup_of(&self, pod: &PodCgroup) -> PathBuf {
        self.cgroup(&pod.path(self.driver, &[]))
    }

    fn container(&self, pod: &PodCgroup, id: &str) -> Dialer {
        let runtime = Some(self.runtime);
        let container = ContainerCgroup { pod: pod.clone(), runtime, id: id.into() };
        Dialer::start(&self.cgroup(&container.path(self.driver, &[]))).unwrap()
    }

    fn look(&self) -> NodeCgroups {
        let balanced = self.fixture.world().cgroup().to_owned();
        scan(&Places { root: cgroup::root().unwrap(), balanced }, None).unwrap().cgroups
    }

    fn tell(&mut self, hierarchy: Hierarchy) {
        self.fixture.maps().write_pod(PodWrite::Hierarchy(hierarchy)).unwrap();
    }

    /// Dials, and returns which cgroup the kernel took for the client's pod.
    fn pod_seen(&mut self, client: &Dialer) -> u64 {
        let dialled = client.dial(frontend()).unwrap();
        let flows = self.fixture.maps().read_flows().unwrap();
        assert_eq!(flows.len(), 1);
        client.close(dialled.handle, false).unwrap();
        flows.into_values().next().unwrap().pod
    }
}

fn id(path: &std::path::Path) -> u64 {
    cgroup::id(path).unwrap()
}

#[test]
fn a_container_belongs_to_its_pod_from_its_first_moment_on() {
    if !capability::can_load_ebpf() {
        return;
    }
    for naming in DRIVERS {
        let mut node = Node::new(naming);
        let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        node.fixture.serve(ServiceSpec::new(frontend(), [backend.address()])).unwrap();
        // Kubelet makes the classes when it starts.
        let first = pod("7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51", QosClass::Burstable);
        let other = pod("c6d1f6f2-61a5-4f0e-9d8e-1f57e6f3a3b4", QosClass::BestEffort);
        node.cgroup_of(&other);
        let first_path = node.cgroup_of(&first);
        let before = node.container(&first, "aa");
        assert_ne!(node.pod_seen(&before), id(&first_path), "nothing was told of pods yet");

        let known = node.look();
        assert_eq!((known.hierarchy.level, known.hierarchy.search_levels), (2, 0));
        assert_eq!(known.pods.len(), 2);
        node.tell(known.hierarchy);
        assert_eq!(node.pod_seen(&before), id(&first_path));
        // Made now: no agent has looked since.
        for qos in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let new = pod("0e7f3f9a3a1c4b0f8a52f0e0a6b9d111", qos);
            let path = node.cgroup_of(&new);
            for container in ["bb", "cc"] {
                let client = node.container(&new, container);
                assert_eq!(node.pod_seen(&client), id(&path), "{}", path.display());
            }
        }
        // A cgroup of the container's own making does not change whose it is.
        let nested = node.cgroup(&format!("{}/aa/nested/deep", first.path(node.driver, &[])));
        let client = Dialer::start(&nested).unwrap();
        assert_eq!(node.pod_seen(&client), id(&first_path));

        // In a cgroup namespace the level is searched for.
        let search_levels = SEARCH_LEVELS_MAX;
        for level in [0, 1, 2] {
            node.tell(Hierarchy { level, search_levels, ..known.hierarchy });
            assert_eq!(node.pod_seen(&before), id(&first_path), "from level {level}");
        }
        node.tell(Hierarchy { level: 1, ..known.hierarchy });
        assert_ne!(node.pod_seen(&before), id(&first_path), "a level that is not searched");
    }
}

#[test]
fn clients_outside_of_pods_are_told_by_their_own_cgroup() {
    if !capability::can_load_ebpf() {
        return;
    }
    for naming in DRIVERS {
        let mut node = Node::new(naming);
        let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        node.fixture.serve(ServiceSpec::new(frontend(), [backend.address()])).unwrap();
        let path = node.cgroup_of(&pod("a", QosClass::Burstable));
        let class = path.parent().unwrap();
        let known = node.look();
        for search_levels in [0, SEARCH_LEVELS_MAX] {
            node.tell(Hierarchy { search_levels, ..known.hierarchy });
            let service = node.cgroup("system.slice/sshd.service");
            let kubepods = class.parent().unwrap();
            let world = node.fixture.world().cgroup().to_owned();
            for own in [service.as_path(), world.as_path(), kubepods, class] {
                let client = Dialer::start(own).unwrap();
                assert_eq!(node.pod_seen(&client), id(own), "{}", own.display());
            }
        }
    }
}

#[test]
fn containers_of_a_pod_take_turns_together() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut node = Node::new(DRIVERS[0]);
    let start = |_| Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let backends: Vec<_> = (0..4).map(start).collect();
    let addresses: BTreeSet<_> = backends.iter().map(Backend::address).collect();
    node.fixture.serve(ServiceSpec::new(frontend(), addresses.clone())).unwrap();
    let one = pod("a", QosClass::Guaranteed);
    let containers = ["aa", "bb", "cc", "dd"].map(|id| node.container(&one, id));
    let hierarchy = node.look().hierarchy;
    node.tell(hierarchy);
    let reached = containers.iter().map(|it| it.dial(frontend()).unwrap().reached.unwrap());
    assert_eq!(reached.collect::<BTreeSet<_>>(), addresses);
}

#[test]
fn skipped_pods_are_left_alone_and_counted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut node = Node::new(DRIVERS[0]);
    let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    // The frontend is a server by itself: an untouched connection reaches it.
    let itself = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let frontend = itself.address();
    let served = node.fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
    let unwilling = pod("a", QosClass::Burstable);
    let willing = node.container(&pod("b", QosClass::Burstable), "bb");
    let client = node.container(&unwilling, "aa");
    let pod = id(&node.cgroup_of(&unwilling));
    let hierarchy = node.look().hierarchy;
    let skipping = Hierarchy { skipping: 1, ..hierarchy };
    let dial = |client: &Dialer| -> Dialled { client.dial(frontend).unwrap() };
    for (skip, reason) in
        [(Skip::OPTED_OUT, Reason::PodOptedOut), (Skip::MESH_PROXY, Reason::MeshProxy)]
    {
        node.fixture.maps().write_pod(PodWrite::Skip { pod, skip }).unwrap();
        node.tell(hierarchy);
        assert_eq!(dial(&client).reached, Some(backend.address()), "the flag is down");
        node.tell(skipping);
        let before = node.fixture.reasons().unwrap();
        let untouched = node.fixture.service_stats(served.id).unwrap().untouched;
        let flows = node.fixture.flows().unwrap();
        let dialled = dial(&client);
        assert_eq!((dialled.reached, dialled.peer), (Some(frontend), Some(frontend)));
        let reasons = node.fixture.reasons_since(&before).unwrap();
        assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [(reason, 1)]);
        assert_eq!(node.fixture.service_stats(served.id).unwrap().untouched, untouched + 1);
        assert_eq!(node.fixture.flows().unwrap(), flows);
        assert_eq!(dial(&willing).reached, Some(backend.address()));
    }
    node.fixture.maps().write_pod(PodWrite::SkipRemoved { pod }).unwrap();
    assert_eq!(dial(&client).reached, Some(backend.address()));
    // Removing what is not there is fine.
    node.fixture.maps().write_pod(PodWrite::SkipRemoved { pod }).unwrap();
}

#[test]
fn what_is_remembered_of_a_pod_is_freed_with_it() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut node = Node::new(DRIVERS[1]);
    let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut spec = ServiceSpec::new(frontend(), [backend.address()]);
    spec.affinity_s = 60;
    node.fixture.serve(spec.clone()).unwrap();
    spec.affinity_s = 0;
    spec.frontends = vec!["10.96.0.2:80".parse().unwrap()];
    node.fixture.serve(spec.clone()).unwrap();
    let (leaving, staying) = (pod("a", QosClass::Burstable), pod("b", QosClass::Burstable));
    let paths = [&leaving, &staying].map(|pod| node.cgroup_of(pod));
    let clients = [&leaving, &staying].map(|pod| node.container(pod, "c"));
    let hierarchy = node.look().hierarchy;
    node.tell(hierarchy);
    for client in &clients {
        client.dial(frontend()).unwrap();
        client.dial(spec.frontends[0]).unwrap();
    }
    let known = |node: &mut Node| -> (BTreeSet<u64>, BTreeSet<u64>) {
        let maps = node.fixture.maps();
        let cursors = maps.pod_cursors.keys().map(|key| key.unwrap().0.pod).collect();
        (cursors, maps.affinities.keys().map(|key| key.unwrap().0.pod).collect())
    };
    let [leaving, staying] = paths.map(|path| id(&path));
    let both = BTreeSet::from([leaving, staying]);
    assert_eq!(known(&mut node), (both.clone(), both));
    let freed = node.fixture.maps().forget_pods(&BTreeSet::from([leaving])).unwrap();
    // Each service's cursor, and the affinity to one.
    assert_eq!(freed, 3);
    let left = BTreeSet::from([staying]);
    assert_eq!(known(&mut node), (left.clone(), left));
}

#[test]
fn the_cgroup_of_a_pod_can_be_removed_while_it_is_watched() {
    let world = World::new("pods-gone").unwrap();
    let one = pod("a", QosClass::Guaranteed);
    let path = world.pod(&one.path(Driver::Systemd, &[])).unwrap();
    let places = Places { root: cgroup::root().unwrap(), balanced: world.cgroup().to_owned() };
    let found = scan(&places, None).unwrap();
    assert_eq!(found.cgroups.pods.keys().copied().collect::<Vec<_>>(), [id(&path)]);
    fs::remove_dir(&path).unwrap();
    let found = scan(&places, found.kubepods.as_deref()).unwrap();
    assert!(found.cgroups.pods.is_empty());
    assert_ne!(found.cgroups.hierarchy.kubepods, 0);
}
