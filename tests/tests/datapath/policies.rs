//! How each policy spreads connections: over one pod's and over many pods'.

use balancer_common::service::{
    POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST, POLICY_MAGLEV, POLICY_RANDOM, POLICY_ROUND_ROBIN,
};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::Dialer,
    fixture::{
        Fixture,
        service::{BackendSpec, ServiceSpec},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// Connections of each backend, in the backends' order.
fn spread(reached: &[SocketAddr], backends: &[SocketAddr]) -> Vec<usize> {
    backends.iter().map(|it| reached.iter().filter(|to| *to == it).count()).collect()
}

fn dial(pod: &Dialer) -> SocketAddr {
    let dialled = pod.dial(frontend()).unwrap();
    dialled.reached.unwrap_or_else(|| panic!("not served: {dialled:?}"))
}

struct Stage {
    // Servers and fixture go in this order: a world ends with what it served.
    _servers: Vec<Backend>,
    fixture: Fixture,
    backends: Vec<SocketAddr>,
}

fn stage(policy: u32, weights: &[u32], affinity_s: u32) -> Stage {
    let mut fixture = Fixture::new("policies").unwrap();
    let servers = Backend::start_many([127, 0, 0, 1].into(), weights.len()).unwrap();
    let backends: Vec<_> = servers.iter().map(Backend::address).collect();
    let mut spec = ServiceSpec::new(frontend(), []);
    spec.policy = policy;
    spec.affinity_s = affinity_s;
    spec.backends = backends
        .iter()
        .zip(weights)
        .map(|(address, weight)| BackendSpec { weight: *weight, ..(*address).into() })
        .collect();
    fixture.serve(spec).unwrap();
    Stage { _servers: servers, fixture, backends }
}

#[test]
fn fair_policies_are_exact_for_one_pod_and_for_many() {
    if !capability::can_load_ebpf() {
        return;
    }
    for policy in [POLICY_ROUND_ROBIN, POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST] {
        {
            let stage = stage(policy, &[1; 4], 0);
            let pod = stage.fixture.pod("pod").unwrap();
            let reached: Vec<_> = (0..32).map(|_| dial(&pod)).collect();
            assert_eq!(spread(&reached, &stage.backends), [8; 4], "policy {policy}, one pod");
        }
        let stage = stage(policy, &[1; 4], 0);
        let pods: Vec<_> =
            (0..32).map(|pod| stage.fixture.pod(&format!("pod-{pod}")).unwrap()).collect();
        let reached: Vec<_> = pods.iter().map(dial).collect();
        assert_eq!(spread(&reached, &stage.backends), [8; 4], "policy {policy}, 32 pods");
    }
}

#[test]
fn a_pod_reaches_as_many_backends_as_it_makes_connections() {
    if !capability::can_load_ebpf() {
        return;
    }
    let stage = stage(POLICY_ROUND_ROBIN, &[1; 5], 0);
    let pods: Vec<_> =
        (0..3).map(|pod| stage.fixture.pod(&format!("pod-{pod}")).unwrap()).collect();
    let mut reached = vec![BTreeSet::new(); pods.len()];
    // Interleaved, so that a cursor of the service alone would give some pod a backend twice.
    for round in 0..5 {
        for (number, pod) in pods.iter().enumerate() {
            reached[number].insert(dial(pod));
            if (round + number) % 2 == 0 {
                let passer_by = stage.fixture.pod(&format!("passer-by-{round}-{number}")).unwrap();
                dial(&passer_by);
            }
        }
    }
    assert!(reached.iter().all(|backends| backends.len() == 5), "{reached:?}");
}

#[test]
fn weights_are_kept() {
    if !capability::can_load_ebpf() {
        return;
    }
    for policy in [POLICY_ROUND_ROBIN, POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST] {
        let stage = stage(policy, &[1, 3], 0);
        let pod = stage.fixture.pod("pod").unwrap();
        let reached: Vec<_> = (0..40).map(|_| dial(&pod)).collect();
        assert_eq!(spread(&reached, &stage.backends), [10, 30], "policy {policy}");
    }
}

#[test]
fn random_reaches_all_and_favours_none() {
    if !capability::can_load_ebpf() {
        return;
    }
    let stage = stage(POLICY_RANDOM, &[1; 4], 0);
    let pod = stage.fixture.pod("pod").unwrap();
    let reached: Vec<_> = (0..400).map(|_| dial(&pod)).collect();
    let spread = spread(&reached, &stage.backends);
    // A binomial of mean 100 and deviation 8.7: seven deviations either way, 1 in 10^11.
    assert!(spread.iter().all(|count| (40..=160).contains(count)), "{spread:?}");
    assert_ne!(spread, [100; 4], "a schedule, not chance");
}

#[test]
fn least_connection_prefers_who_has_become_idle() {
    if !capability::can_load_ebpf() {
        return;
    }
    let stage = stage(POLICY_LEAST_CONNECTION, &[1; 4], 0);
    let pod = stage.fixture.pod("pod").unwrap();
    let dialled: Vec<_> = (0..8).map(|_| pod.dial(frontend()).unwrap()).collect();
    let idle = stage.backends[2];
    for it in dialled.iter().filter(|it| it.reached == Some(idle)) {
        pod.close(it.handle, false).unwrap();
    }
    assert_eq!([dial(&pod), dial(&pod)], [idle, idle]);
    let next: BTreeSet<_> = (0..4).map(|_| dial(&pod)).collect();
    assert_eq!(next.len(), 4, "balanced again: everybody gets one");
}

#[test]
fn least_connection_of_many_backends_compares_two() {
    if !capability::can_load_ebpf() {
        return;
    }
    // Beyond sixteen slots two candidates are compared, not all.
    let stage = stage(POLICY_LEAST_CONNECTION, &[1; 20], 0);
    let pod = stage.fixture.pod("pod").unwrap();
    let reached: Vec<_> = (0..100).map(|_| dial(&pod)).collect();
    let spread = spread(&reached, &stage.backends);
    // The mean is 5; two choices stay within log log n of it (Mitzenmacher 2001).
    assert!(spread.iter().all(|count| (1..=8).contains(count)), "{spread:?}");
}

#[test]
fn maglev_binds_pods_to_backends_and_spreads_them() {
    if !capability::can_load_ebpf() {
        return;
    }
    let stage = stage(POLICY_MAGLEV, &[1; 4], 0);
    let mut pods_of = BTreeMap::<SocketAddr, usize>::new();
    for number in 0..32 {
        let pod = stage.fixture.pod(&format!("pod-{number}")).unwrap();
        let reached: BTreeSet<_> = (0..3).map(|_| dial(&pod)).collect();
        assert_eq!(reached.len(), 1, "pod {number} reached several");
        *pods_of.entry(*reached.first().unwrap()).or_default() += 1;
    }
    assert_eq!(pods_of.len(), 4, "{pods_of:?}");
    assert!(pods_of.values().all(|pods| *pods < 20), "{pods_of:?}");
}
