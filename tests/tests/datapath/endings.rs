//! How connections begin and end, and what is counted for it: every ending takes one off `active`.

use balancer_common::{backend::BackendStats, reason::Reason};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::{Dialer, protocol::Dialled},
    fixture::{
        Fixture,
        service::{Served, ServiceSpec},
    },
    trouble::{Deaf, Resetting},
};
use std::net::SocketAddr;

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

struct Stage {
    fixture: Fixture,
    served: Served,
    pod: Dialer,
    backend: SocketAddr,
}

impl Stage {
    /// Takes a fixture since servers must be started after it: inside its namespace.
    fn new(
        mut fixture: Fixture,
        backend: SocketAddr,
        adjust: impl FnOnce(&mut ServiceSpec),
    ) -> Self {
        let mut spec = ServiceSpec::new(frontend(), [backend]);
        adjust(&mut spec);
        let served = fixture.serve(spec).unwrap();
        let pod = fixture.pod("pod").unwrap();
        Self { fixture, served, pod, backend }
    }

    fn dial(&self) -> Dialled {
        self.pod.dial(frontend()).unwrap()
    }

    fn stats(&self) -> BackendStats {
        self.fixture.stats(self.served.id, self.backend).unwrap()
    }

    /// The counters, without those that time decides and without ejections.
    fn counts(&self) -> BackendStats {
        let (ejected_until_ns, failures, ejections) = (0, 0, 0);
        let stats = self.stats();
        BackendStats { srtt_us: 0, retransmits: 0, ejected_until_ns, failures, ejections, ..stats }
    }

    fn count(&self, reason: Reason) -> u64 {
        self.fixture.reasons().unwrap()[&reason]
    }
}

fn start() -> Backend {
    Backend::start("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// An address on which nobody listens.
fn nobody() -> SocketAddr {
    start().address()
}

#[test]
fn a_client_that_closes() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let server = start();
    let stage = Stage::new(fixture, server.address(), |_| ());
    for reset in [false, true] {
        let dialled = stage.dial();
        assert_eq!(stage.stats().active, 1);
        assert!(stage.stats().srtt_us > 0, "the handshake is a round trip");
        stage.pod.close(dialled.handle, reset).unwrap();
    }
    let expected = BackendStats { picked: 2, established: 2, closed: 2, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert_eq!((stage.count(Reason::Closed), stage.fixture.flows().unwrap()), (2, 0));
}

/// Half-closing first is how HTTP/2 clients part: hyper sends GOAWAY, shuts its side, and reads on.
#[test]
fn a_client_that_closes_its_side_and_waits() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let server = start();
    let stage = Stage::new(fixture, server.address(), |spec| spec.ejects = true);
    let dialled = stage.dial();
    stage.pod.shut(dialled.handle).unwrap();
    assert_eq!(stage.pod.await_end(dialled.handle).unwrap(), 0);
    stage.pod.close(dialled.handle, false).unwrap();
    let expected = BackendStats { picked: 1, established: 1, closed: 1, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert_eq!((stage.count(Reason::Reset), stage.count(Reason::Closed)), (0, 1));
    assert_eq!(stage.stats().ejections, 0, "it did nothing by itself");
    assert_eq!(stage.fixture.flows().unwrap(), 0);
}

#[test]
fn a_server_that_resets() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let server = Resetting::start().unwrap();
    let stage = Stage::new(fixture, server.address(), |_| ());
    let dialled = stage.dial();
    stage.pod.await_end(dialled.handle).unwrap();
    let expected = BackendStats { picked: 1, established: 1, reset: 1, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    // Closing what is over already counts nothing more.
    stage.pod.close(dialled.handle, false).unwrap();
    assert_eq!(stage.counts(), expected);
    assert_eq!(stage.count(Reason::Reset), 1);
}

#[test]
fn a_backend_that_refuses_and_a_socket_that_tries_again() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let stage = Stage::new(fixture, nobody(), |_| ());
    let dialled = stage.dial();
    assert_eq!(dialled.errno, libc::ECONNREFUSED);
    let again = stage.pod.dial_again(dialled.handle, frontend()).unwrap();
    assert_eq!(again.errno, libc::ECONNREFUSED);
    let expected = BackendStats { picked: 2, refused: 2, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert_eq!((stage.count(Reason::Refused), stage.fixture.flows().unwrap()), (2, 0));
}

#[test]
fn a_backend_without_a_route_and_a_socket_that_tries_again() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let stage = Stage::new(fixture, "192.0.2.1:80".parse().unwrap(), |_| ());
    let dialled = stage.dial();
    assert_eq!(dialled.errno, libc::ENETUNREACH);
    stage.pod.dial_again(dialled.handle, frontend()).unwrap();
    assert_eq!((stage.count(Reason::Redialled), stage.stats().active), (1, 1));
    // The first dial's flow is gone.
    assert_eq!(stage.fixture.flows().unwrap(), 1);
    stage.pod.close(dialled.handle, false).unwrap();
    let expected = BackendStats { picked: 2, abandoned: 2, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert_eq!((stage.count(Reason::Abandoned), stage.fixture.flows().unwrap()), (1, 0));
}

#[test]
fn a_client_that_gives_up() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let deaf = Deaf::start().unwrap();
    let stage = Stage::new(fixture, deaf.address(), |_| ());
    assert_eq!(stage.pod.abandon(frontend()).unwrap().errno, libc::EINPROGRESS);
    let expected = BackendStats { picked: 1, abandoned: 1, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert_eq!((stage.count(Reason::Abandoned), stage.fixture.flows().unwrap()), (1, 0));
}

#[test]
fn a_backend_that_does_not_answer() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let deaf = Deaf::start().unwrap();
    let stage = Stage::new(fixture, deaf.address(), |spec| spec.user_timeout_ms = 200);
    assert_eq!(stage.dial().errno, libc::ETIMEDOUT);
    let expected = BackendStats { picked: 1, timed_out: 1, ..BackendStats::default() };
    assert_eq!(stage.counts(), expected);
    assert!(stage.stats().retransmits > 0 && stage.count(Reason::Retransmitted) > 0);
    assert_eq!((stage.count(Reason::TimedOut), stage.fixture.flows().unwrap()), (1, 0));
}

#[test]
fn socket_options_are_set_and_refusals_counted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let server = start();
    let stage = Stage::new(fixture, server.address(), |spec| {
        spec.user_timeout_ms = 30_000;
        spec.keepalive = [20, 5, 4];
    });
    let options = stage.pod.options(stage.dial().handle).unwrap();
    assert_eq!(options.user_timeout_ms, 30_000);
    assert!(options.keepalive);
    let keepalive =
        [options.keepalive_idle_s, options.keepalive_interval_s, options.keepalive_probes];
    assert_eq!(keepalive, [20, 5, 4]);
    assert_eq!(stage.count(Reason::SocketOptionRefused), 0);

    // More probes than MAX_TCP_KEEPCNT (127) are refused; the connection is made all the same.
    let frontend = "10.96.0.2:80".parse().unwrap();
    let mut spec = ServiceSpec::new(frontend, [server.address()]);
    spec.keepalive = [20, 5, 1_000];
    let mut fixture = stage.fixture;
    let refusing = fixture.serve(spec).unwrap();
    assert_eq!(stage.pod.dial(frontend).unwrap().reached, Some(server.address()));
    assert_eq!(fixture.reasons().unwrap()[&Reason::SocketOptionRefused], 1);
    let stats = fixture.service_stats(refusing.id).unwrap();
    assert_eq!(stats.socket_option_failures, 1);
}

#[test]
fn an_untracked_service_leaves_no_trace() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("endings").unwrap();
    let server = start();
    let stage = Stage::new(fixture, server.address(), |spec| spec.tracked = false);
    let dialled = stage.dial();
    assert_eq!(dialled.reached, Some(server.address()));
    assert_eq!(dialled.peer, Some(server.address()), "nothing remembers what was dialled");
    assert_eq!(stage.fixture.flows().unwrap(), 0);
    stage.pod.close(dialled.handle, false).unwrap();
    let expected = BackendStats { picked: 1, ..BackendStats::default() };
    assert_eq!(stage.stats(), expected);
}
