//! Backends that fail, or that end connections by themselves, are passed over while others serve.

use balancer_common::{
    backend::EJECTION_NS,
    reason::Reason,
    service::{
        POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST, POLICY_MAGLEV, POLICY_RANDOM,
        POLICY_ROUND_ROBIN,
    },
};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::{Dialer, storm::now_ns},
    fixture::{
        Fixture,
        service::{Served, ServiceSpec},
    },
    trouble::Resetting,
};
use std::net::SocketAddr;

const POLICIES: [u32; 5] = [
    POLICY_ROUND_ROBIN,
    POLICY_LEAST_CONNECTION,
    POLICY_LEAST_REQUEST,
    POLICY_RANDOM,
    POLICY_MAGLEV,
];

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// An address on which nobody listens.
fn nobody() -> SocketAddr {
    Backend::start("127.0.0.1:0".parse().unwrap()).unwrap().address()
}

fn serve(
    fixture: &mut Fixture,
    backends: &[SocketAddr],
    policy: u32,
    adjust: impl FnOnce(&mut ServiceSpec),
) -> Served {
    let mut spec = ServiceSpec::new(frontend(), backends.iter().copied());
    spec.policy = policy;
    adjust(&mut spec);
    fixture.serve(spec).unwrap()
}

/// Dials and closes; returns what answered.
fn dial(pod: &Dialer) -> Option<SocketAddr> {
    let dialled = pod.dial(frontend()).unwrap();
    pod.close(dialled.handle, true).unwrap();
    dialled.reached
}

/// Lets every tracked connection have begun two seconds earlier.
fn grow_old(fixture: &mut Fixture) {
    let flows = fixture.maps().read_flows().unwrap();
    for (cookie, mut flow) in flows {
        flow.started_ns -= 2 * EJECTION_NS;
        assert!(fixture.maps().flows.update(cookie, &flow));
    }
}

#[test]
fn of_all_dials_one_finds_out_that_nobody_listens() {
    if !capability::can_load_ebpf() {
        return;
    }
    for policy in POLICIES {
        let mut fixture = Fixture::new("ejection").unwrap();
        let servers = Backend::start_many([127, 0, 0, 1].into(), 2).unwrap();
        let (silent, serving) = (nobody(), [servers[0].address(), servers[1].address()]);
        let all = [serving[0], silent, serving[1]];
        let shop = serve(&mut fixture, &all, policy, |_| ());
        let began_ns = now_ns();
        // Maglev leads a pod to one backend: of many pods some are led to the silent one, but for once in a
        // hundred million times.
        let count = if policy == POLICY_MAGLEV { 48 } else { 12 };
        let pods: Vec<Dialer> =
            (0..count).map(|number| fixture.pod(&format!("pod-{number}")).unwrap()).collect();
        let dials = 4 * count;
        let failed = (0..dials).filter(|turn| dial(&pods[turn % count]).is_none()).count();
        // Each ejection ends after a second or more, and the next dial tries anew.
        let ejections_max = 1 + (now_ns() - began_ns) / EJECTION_NS;
        let stats = fixture.stats(shop.id, silent).unwrap();
        assert!(failed as u64 <= ejections_max, "policy {policy}: {failed} of {dials} failed");
        assert!(failed > 0, "policy {policy}: the test has shown nothing");
        assert_eq!((stats.refused, stats.ejections), (failed as u64, failed as u64));
        assert_eq!(stats.failures, failed as u64);
        let passed_over = fixture.reasons().unwrap()[&Reason::EjectedPassedOver];
        // The least loaded are sought among those that are not ejected in the first place.
        let searches = [POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST].contains(&policy);
        assert_eq!(passed_over > 0, !searches, "policy {policy}");
        for address in serving {
            assert_eq!(fixture.stats(shop.id, address).unwrap().ejections, 0);
        }
    }
}

#[test]
fn where_all_are_ejected_the_first_choice_is_tried() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("ejection").unwrap();
    let silent = [nobody(), nobody()];
    let shop = serve(&mut fixture, &silent, POLICY_ROUND_ROBIN, |_| ());
    let pod = fixture.pod("pod").unwrap();
    for _ in 0..8 {
        assert_eq!(dial(&pod), None);
    }
    let refused = silent.map(|address| fixture.stats(shop.id, address).unwrap().refused);
    assert_eq!(refused, [4, 4], "nothing is left untouched, and nobody is spared");
}

#[test]
fn who_serves_again_is_readmitted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("ejection").unwrap();
    let address = nobody();
    let shop = serve(&mut fixture, &[address], POLICY_ROUND_ROBIN, |_| ());
    let pod = fixture.pod("pod").unwrap();
    assert_eq!(dial(&pod), None);
    assert!(fixture.stats(shop.id, address).unwrap().is_ejected(now_ns()));
    let server = Backend::start(address).unwrap();
    assert_eq!(dial(&pod), Some(server.address()));
    let stats = fixture.stats(shop.id, address).unwrap();
    assert_eq!((stats.failures, stats.ejected_until_ns, stats.ejections), (0, 0, 1));
}

#[test]
fn an_affinity_ends_where_nobody_listens() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("ejection").unwrap();
    let mut servers = Backend::start_many([127, 0, 0, 1].into(), 2).unwrap();
    let all = [servers[0].address(), servers[1].address()];
    serve(&mut fixture, &all, POLICY_ROUND_ROBIN, |spec| spec.affinity_s = 3_600);
    let pod = fixture.pod("pod").unwrap();
    let kept = dial(&pod).unwrap();
    servers.retain(|server| server.address() != kept);
    assert_eq!(dial(&pod), None, "nobody could know");
    assert_eq!(dial(&pod), Some(servers[0].address()));
    let before = fixture.reasons().unwrap();
    assert_eq!(dial(&pod), Some(servers[0].address()));
    assert_eq!(fixture.reasons_since(&before).unwrap()[&Reason::AffinityKept], 1);
}

#[test]
fn a_service_without_ejection_passes_over_nobody() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("ejection").unwrap();
    let server = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let (silent, serving) = (nobody(), server.address());
    let all = [silent, serving];
    let shop = serve(&mut fixture, &all, POLICY_ROUND_ROBIN, |spec| spec.ejects = false);
    let pod = fixture.pod("pod").unwrap();
    for _ in 0..8 {
        dial(&pod);
    }
    let stats = fixture.stats(shop.id, silent).unwrap();
    assert_eq!((stats.refused, stats.ejections, stats.failures), (4, 0, 0));
}

#[test]
fn a_backend_that_ends_connections_by_itself_is_spared_for_a_while() {
    if !capability::can_load_ebpf() {
        return;
    }
    for (policy, affinity_s, is_old, is_ejected) in [
        (POLICY_ROUND_ROBIN, 0, true, true),
        (POLICY_LEAST_CONNECTION, 0, true, true),
        (POLICY_LEAST_REQUEST, 0, true, true),
        // A connection for each call may end from either side.
        (POLICY_ROUND_ROBIN, 0, false, false),
        // A pod is not led away from its backend for this.
        (POLICY_MAGLEV, 0, true, false),
        (POLICY_ROUND_ROBIN, 60, true, false),
    ] {
        let mut fixture = Fixture::new("ejection").unwrap();
        let server = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address();
        let shop = serve(&mut fixture, &[address], policy, |spec| spec.affinity_s = affinity_s);
        let pod = fixture.pod("pod").unwrap();
        let dialled = pod.dial(frontend()).unwrap();
        if is_old {
            grow_old(&mut fixture);
        }
        // It reads what comes, and ends the connection then: a FIN, and no reset.
        pod.send(dialled.handle).unwrap();
        assert_eq!(pod.await_end(dialled.handle).unwrap(), 0);
        let stats = fixture.stats(shop.id, address).unwrap();
        let now_ns = now_ns();
        assert_eq!((stats.ejections, stats.failures), (u64::from(is_ejected), 0));
        assert!(stats.ejected_until_ns <= now_ns + EJECTION_NS);
        drop(server);
        pod.close(dialled.handle, false).unwrap();
    }
    let mut fixture = Fixture::new("ejection").unwrap();
    let resetting = Resetting::start().unwrap();
    let shop = serve(&mut fixture, &[resetting.address()], POLICY_ROUND_ROBIN, |_| ());
    let pod = fixture.pod("pod").unwrap();
    pod.await_end(pod.dial(frontend()).unwrap().handle).unwrap();
    let stats = fixture.stats(shop.id, resetting.address()).unwrap();
    assert_eq!((stats.reset, stats.ejections, stats.failures), (1, 0, 0), "a young one");
}
