//! Session affinity: kept while the backend serves and the pod comes back in time.

use balancer_common::{reason::Reason, service::POLICY_ROUND_ROBIN};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::{Dialer, storm::now_ns},
    fixture::{
        Fixture,
        service::{BackendSpec, Served, ServiceSpec},
    },
};
use std::{collections::BTreeSet, net::SocketAddr};

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

fn serve(fixture: &mut Fixture, servers: &[Backend], affinity_s: u32) -> Served {
    let mut spec = ServiceSpec::new(frontend(), servers.iter().map(Backend::address));
    spec.policy = POLICY_ROUND_ROBIN;
    spec.affinity_s = affinity_s;
    fixture.serve(spec).unwrap()
}

fn dial(pod: &Dialer) -> SocketAddr {
    pod.dial(frontend()).unwrap().reached.unwrap()
}

#[test]
fn a_pod_keeps_its_backend_until_that_leaves() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("affinity").unwrap();
    let servers = Backend::start_many([127, 0, 0, 1].into(), 4).unwrap();
    let mut served = serve(&mut fixture, &servers, 3_600);
    let (one, other) = (fixture.pod("one").unwrap(), fixture.pod("other").unwrap());
    let before = fixture.reasons().unwrap();
    let kept: BTreeSet<_> = (0..6).map(|_| dial(&one)).collect();
    let others: BTreeSet<_> = (0..6).map(|_| dial(&other)).collect();
    assert_eq!((kept.len(), others.len()), (1, 1));
    assert_ne!(kept, others, "each pod has an affinity of its own");
    let reasons = fixture.reasons_since(&before).unwrap();
    assert_eq!((reasons[&Reason::Picked], reasons[&Reason::AffinityKept]), (2, 10));

    let lost = *kept.first().unwrap();
    let all = served.spec.backends.clone();
    let rest: Vec<BackendSpec> = all.iter().copied().filter(|it| it.address != lost).collect();
    fixture.swap(&mut served, rest).unwrap();
    let next: BTreeSet<_> = (0..3).map(|_| dial(&one)).collect();
    assert!(next.len() == 1 && !next.contains(&lost), "{next:?}");
    assert_eq!(dial(&other), *others.first().unwrap(), "others keep theirs");
}

#[test]
fn an_id_that_was_given_away_is_no_affinity() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("incarnation").unwrap();
    let servers = Backend::start_many([127, 0, 0, 1].into(), 2).unwrap();
    let mut served = serve(&mut fixture, &servers, 3_600);
    let pod = fixture.pod("pod").unwrap();
    let lost = dial(&pod);
    let all = served.spec.backends.clone();
    let rest = all.iter().copied().filter(|it| it.address != lost).collect();
    fixture.swap(&mut served, rest).unwrap();
    // Back again under the same id, as a new incarnation.
    fixture.swap(&mut served, all).unwrap();
    let before = fixture.reasons().unwrap();
    dial(&pod);
    let reasons = fixture.reasons_since(&before).unwrap();
    assert_eq!(reasons.get(&Reason::Picked), Some(&1), "{reasons:?}");
}

#[test]
fn an_affinity_ends_when_the_pod_stays_away() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("expiry").unwrap();
    let servers = Backend::start_many([127, 0, 0, 1].into(), 2).unwrap();
    serve(&mut fixture, &servers, 1);
    let (pod, waiting) = (fixture.pod("pod").unwrap(), fixture.pod("waiting").unwrap());
    dial(&pod);
    // Time passes in the kernel's clock: another pod is busy until a second is over.
    let until_ns = now_ns() + 1_000_000_000;
    while now_ns() <= until_ns {
        let dialled = waiting.dial(frontend()).unwrap();
        waiting.close(dialled.handle, true).unwrap();
    }
    let before = fixture.reasons().unwrap();
    dial(&pod);
    let reasons = fixture.reasons_since(&before).unwrap();
    assert_eq!(reasons.get(&Reason::Picked), Some(&1), "{reasons:?}");
}
