//! Address families: which socket reaches which backend through which frontend, and what peer it sees.

use balancer_common::reason::Reason;
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::protocol::Socket,
    fixture::{Fixture, service::ServiceSpec},
};
use std::net::SocketAddr;

/// Where a dial is led.
#[derive(Clone, Copy, Debug)]
enum Leads {
    ToV4,
    ToV6,
    /// Left as it was, for this reason; nothing answers at a frontend itself.
    Nowhere(Reason),
}

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00::1]:80";

/// `getpeername()` of an AF_INET6 socket that dialled [`V4`].
const V4_MAPPED: &str = "[::ffff:10.96.0.1]:80";

/// Description, socket, frontend, backends, where it leads, and the peer that is seen.
type Case = (&'static str, Socket, &'static str, &'static [Leads], Leads, &'static str);

const CASES: [Case; 8] = [
    ("v4 socket, v4 frontend", Socket::V4, V4, &[Leads::ToV4], Leads::ToV4, V4),
    ("v6 socket, v6 frontend", Socket::V6, V6, &[Leads::ToV6], Leads::ToV6, V6),
    ("v6 socket, mapped frontend", Socket::V6, V4, &[Leads::ToV4], Leads::ToV4, V4_MAPPED),
    ("v6 frontend, v4 backend", Socket::V6, V6, &[Leads::ToV4], Leads::ToV4, V6),
    ("mapped frontend, v6 backend", Socket::V6, V4, &[Leads::ToV6], Leads::ToV6, V4_MAPPED),
    ("v4 frontend, both kinds", Socket::V4, V4, &[Leads::ToV6, Leads::ToV4], Leads::ToV4, V4),
    (
        "v4 socket, v6 backend",
        Socket::V4,
        V4,
        &[Leads::ToV6],
        Leads::Nowhere(Reason::FamilyMismatch),
        "",
    ),
    ("no backend", Socket::V4, V4, &[], Leads::Nowhere(Reason::NoBackend), ""),
];

#[test]
fn every_family_reaches_what_it_can_and_sees_what_it_dialled() {
    if !capability::can_load_ebpf() {
        return;
    }
    for (case, socket, frontend, backends, leads, peer) in CASES {
        let mut fixture = Fixture::new("families").unwrap();
        let v4 = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let v6 = Backend::start("[::1]:0".parse().unwrap()).unwrap();
        let address = |leads: &Leads| match leads {
            Leads::ToV4 => v4.address(),
            _ => v6.address(),
        };
        let frontend: SocketAddr = frontend.parse().unwrap();
        let spec = ServiceSpec::new(frontend, backends.iter().map(address));
        let served = fixture.serve(spec).unwrap();
        let pod = fixture.pod("pod").unwrap();
        let before = fixture.reasons().unwrap();
        let dialled = pod.dial_with(frontend, socket).unwrap();
        let reasons: Vec<_> = fixture.reasons_since(&before).unwrap().into_iter().collect();
        if let Leads::Nowhere(reason) = leads {
            assert_eq!(dialled.errno, libc::ENETUNREACH, "{case}");
            assert_eq!(reasons, [(reason, 1)], "{case}");
            assert_eq!(fixture.service_stats(served.id).unwrap().untouched, 1, "{case}");
            continue;
        }
        let expected =
            [(Reason::Picked, 1), (Reason::Established, 1), (Reason::PeernameRestored, 1)];
        assert_eq!(dialled.reached, Some(address(&leads)), "{case}: {dialled:?}");
        assert_eq!(dialled.peer, Some(peer.parse().unwrap()), "{case}");
        assert_eq!(reasons, expected, "{case}");
        let stats = fixture.stats(served.id, address(&leads)).unwrap();
        assert_eq!((stats.picked, stats.active, stats.established), (1, 1, 1), "{case}");
    }
}
