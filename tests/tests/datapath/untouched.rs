//! What is no declared TCP traffic, or cannot be balanced, goes where the application asked.

use balancer_agent::core::write::{Limits, Write};
use balancer_common::{
    backend::{STATE_DRAINING, STATE_INACTIVE},
    reason::Reason,
    service::{SERVICE_VALID, Service},
};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::protocol::Socket,
    fixture::{
        Fixture, LIMITS,
        service::{BackendSpec, ServiceSpec},
    },
};
use std::net::SocketAddr;

/// Breaks a service, told by its id, record and frontend.
type Break = fn(&mut Fixture, u32, Service, SocketAddr);

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn other_destinations_and_protocols_are_left_alone() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("others").unwrap();
    let backend = Backend::start(here(0)).unwrap();
    let direct = Backend::start(here(0)).unwrap();
    let direct_v6 = Backend::start("[::1]:0".parse().unwrap()).unwrap();
    let frontend = direct.address();
    // The frontend's address with another port, and another address, are no frontends.
    let other_port = here(1);
    let unknown = "10.96.7.7:80".parse().unwrap();
    let frontend_v6: SocketAddr = "[::1]:9".parse().unwrap();
    let mut spec = ServiceSpec::new("127.0.0.9:80".parse().unwrap(), [backend.address()]);
    spec.frontends.push(frontend_v6);
    fixture.serve(spec).unwrap();
    let udp = "127.0.0.9:80".parse().unwrap();
    let cases = [
        ("direct", frontend, Socket::V4, 0, Some(frontend), Reason::NotFrontend),
        (
            "direct v6",
            direct_v6.address(),
            Socket::V6,
            0,
            Some(direct_v6.address()),
            Reason::NotFrontend,
        ),
        ("refused", other_port, Socket::V4, libc::ECONNREFUSED, None, Reason::NotFrontend),
        ("unknown", unknown, Socket::V4, libc::ENETUNREACH, None, Reason::NotFrontend),
        ("udp", udp, Socket::UdpV4, 0, None, Reason::NotTcp),
        ("udp v6", frontend_v6, Socket::UdpV6, 0, None, Reason::NotTcp),
    ];
    let pod = fixture.pod("pod").unwrap();
    for (case, to, socket, errno, reached, reason) in cases {
        let before = fixture.reasons().unwrap();
        let dialled = pod.dial_with(to, socket).unwrap();
        assert_eq!((dialled.errno, dialled.reached), (errno, reached), "{case}");
        assert_eq!(dialled.peer, (errno == 0).then_some(to), "{case}");
        let reasons = fixture.reasons_since(&before).unwrap();
        assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [(reason, 1)], "{case}");
    }
    assert_eq!(backend.accepted(), 0);
    assert_eq!(fixture.flows().unwrap(), 0);
}

#[test]
fn a_service_that_cannot_be_balanced_is_left_alone() {
    if !capability::can_load_ebpf() {
        return;
    }
    let cases: [(&str, Break, Reason); 5] = [
        (
            "an invalid service",
            |fixture, id, record, _| {
                let record = Service { flags: record.flags & !SERVICE_VALID, ..record };
                fixture.write(&[Write::Service { id, record }]).unwrap();
            },
            Reason::ServiceMissing,
        ),
        (
            "a frontend of a service beyond the map",
            |fixture, _, _, address| {
                fixture.write(&[Write::Frontend { address, service: LIMITS.services }]).unwrap();
            },
            Reason::ServiceMissing,
        ),
        (
            "a slot to a backend that is free",
            |fixture, _, _, _| {
                let record = balancer_common::backend::Backend::default();
                fixture.write(&[Write::Backend { id: 1, record }]).unwrap();
            },
            Reason::BackendMissing,
        ),
        (
            "a schedule beyond the map",
            |fixture, id, mut record, _| {
                record.banks[0].v4.chunk = LIMITS.chunks;
                record.banks[1].v4.chunk = LIMITS.chunks;
                fixture.write(&[Write::Service { id, record }]).unwrap();
            },
            Reason::BackendMissing,
        ),
        (
            "a schedule of impossible length",
            |fixture, id, mut record, _| {
                record.banks[0].v4.slots = u32::MAX;
                record.banks[1].v4.slots = u32::MAX;
                fixture.write(&[Write::Service { id, record }]).unwrap();
            },
            Reason::NoBackend,
        ),
    ];
    for (case, make_bad, reason) in cases {
        let mut fixture = Fixture::new("broken").unwrap();
        let backend = Backend::start(here(0)).unwrap();
        let frontend: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let served = fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
        make_bad(&mut fixture, served.id, served.record, frontend);
        let pod = fixture.pod("pod").unwrap();
        let before = fixture.reasons().unwrap();
        assert_eq!(pod.dial(frontend).unwrap().errno, libc::ENETUNREACH, "{case}");
        let reasons = fixture.reasons_since(&before).unwrap();
        assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [(reason, 1)], "{case}");
    }
}

#[test]
fn a_connection_whose_seat_is_taken_is_tracked_as_any_other() {
    if !capability::can_load_ebpf() {
        return;
    }
    // Eight seats for nine connections at least, in whatever order the ends come.
    let limits = Limits { flows: 16, ..LIMITS };
    let mut fixture = Fixture::with_limits("seats", limits).unwrap();
    let backend = Backend::start(here(0)).unwrap();
    let frontend = SocketAddr::from(([10, 96, 0, 1], 80));
    let served = fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
    let pod = fixture.pod("pod").unwrap();
    for turn in 0..4 {
        let held: Vec<_> = (0..10).map(|_| pod.dial(frontend).unwrap()).collect();
        assert!(held.iter().all(|dialled| dialled.peer == Some(frontend)), "turn {turn}");
        assert_eq!(fixture.flows().unwrap(), 10, "turn {turn}");
        let (first, last) = held.split_at(5);
        for dialled in last.iter().chain(first) {
            pod.close(dialled.handle, turn % 2 == 0).unwrap();
        }
        assert_eq!(fixture.flows().unwrap(), 0, "turn {turn}");
    }
    let stats = fixture.stats(served.id, backend.address()).unwrap();
    assert_eq!((stats.active, stats.established, stats.closed), (0, 40, 40));
}

#[test]
fn a_full_flow_table_leaves_connections_unbalanced_and_says_so() {
    if !capability::can_load_ebpf() {
        return;
    }
    let limits = Limits { flows: 2, ..LIMITS };
    let mut fixture = Fixture::with_limits("full", limits).unwrap();
    let backend = Backend::start(here(0)).unwrap();
    let itself = Backend::start(here(0)).unwrap();
    let frontend = itself.address();
    let served = fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
    let pod = fixture.pod("pod").unwrap();
    let held: Vec<_> = (0..2).map(|_| pod.dial(frontend).unwrap()).collect();
    assert!(held.iter().all(|dialled| dialled.reached == Some(backend.address())));
    let before = fixture.reasons().unwrap();
    // The frontend is a server by itself here: an untouched connection reaches it.
    let third = pod.dial(frontend).unwrap();
    assert_eq!((third.reached, third.peer), (Some(frontend), Some(frontend)));
    let reasons = fixture.reasons_since(&before).unwrap();
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [(Reason::FlowTableFull, 1)]);
    assert_eq!(fixture.service_stats(served.id).unwrap().untouched, 1);
    assert_eq!(fixture.stats(served.id, backend.address()).unwrap().active, 2);
    // Room again as soon as a connection has ended.
    pod.close(held[0].handle, false).unwrap();
    assert_eq!(pod.dial(frontend).unwrap().reached, Some(backend.address()));
}

#[test]
fn draining_and_ejected_backends_get_no_new_connections() {
    if !capability::can_load_ebpf() {
        return;
    }
    for state in [STATE_DRAINING, STATE_INACTIVE] {
        let mut fixture = Fixture::new("draining").unwrap();
        let backends = Backend::start_many([127, 0, 0, 1].into(), 2).unwrap();
        let [leaving, staying] = [backends[0].address(), backends[1].address()];
        let frontend = "10.96.0.1:80".parse().unwrap();
        let mut served = fixture.serve(ServiceSpec::new(frontend, [leaving, staying])).unwrap();
        let pod = fixture.pod("pod").unwrap();
        for _ in 0..2 {
            assert_eq!(pod.dial(frontend).unwrap().errno, 0);
        }
        let spec = vec![BackendSpec { state, ..leaving.into() }, staying.into()];
        fixture.swap(&mut served, spec).unwrap();
        for _ in 0..8 {
            assert_eq!(pod.dial(frontend).unwrap().reached, Some(staying));
        }
        // What it had before stays.
        assert_eq!(fixture.stats(served.id, leaving).unwrap().active, 1);
        assert_eq!(fixture.stats(served.id, staying).unwrap().active, 9);
    }
}
