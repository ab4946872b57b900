//! Connections that are destroyed in the network namespace of their pod, and those that must not be.

use balancer_agent::datapath::destroy::{self, DestroyError, Destroyed, Target};
use balancer_common::{backend::BackendStats, reason::Reason};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::{
        Dialer,
        protocol::{Dialled, Socket},
    },
    fixture::{Fixture, service::ServiceSpec},
    world::run,
};
use nix::sched::{CloneFlags, unshare};
use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

/// Where the client's end of every connection is, in each namespace.
const CLIENT_PORT: u16 = 40_000;

/// Whether this kernel destroys sockets; if not, that must be said as it is.
fn can_destroy() -> bool {
    match destroy::check() {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error, DestroyError::Unsupported), "{error}");
            assert!(error.to_string().contains("CONFIG_INET_DIAG_DESTROY"), "{error}");
            println!("skipped: {error}");
            false
        }
    }
}

fn frontend() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// Lets sockets of the calling thread's namespace dial from one port only.
fn bind_clients() {
    let range = format!("{CLIENT_PORT} {CLIENT_PORT}");
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
}

fn cookies(fixture: &mut Fixture) -> Vec<u64> {
    fixture.maps().read_flows().unwrap().into_keys().collect()
}

fn targets(cookies: &[u64], backend: SocketAddr) -> BTreeMap<u64, Target> {
    cookies.iter().map(|cookie| (*cookie, Target { backend })).collect()
}

fn destroyed(cookies: &[u64]) -> Destroyed {
    Destroyed { destroyed: cookies.to_vec(), ..Destroyed::default() }
}

/// A server and a client in a network namespace of their own; the client has dialled.
fn elsewhere(cgroup: &Path, backend: SocketAddr) -> (Backend, Dialer, Dialled) {
    let start = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]).unwrap();
        let backend = Backend::start(backend).unwrap();
        bind_clients();
        let client = Dialer::start(cgroup).unwrap();
        let dialled = client.dial(frontend()).unwrap();
        (backend, client, dialled)
    };
    std::thread::scope(|scope| scope.spawn(start).join().unwrap())
}

#[test]
fn one_connection_is_destroyed_and_its_twin_in_another_namespace_is_not() {
    if !capability::can_load_ebpf() || !can_destroy() {
        return;
    }
    let mut fixture = Fixture::new("destroy").unwrap();
    let backend = Backend::start("127.0.0.1:50051".parse().unwrap()).unwrap();
    let address = backend.address();
    let served = fixture.serve(ServiceSpec::new(frontend(), [address])).unwrap();
    let [here, there] = ["here", "there"].map(|name| fixture.world().pod(name).unwrap());
    bind_clients();
    let client = Dialer::start(&here).unwrap();
    let dialled = client.dial(frontend()).unwrap();
    let own = cookies(&mut fixture)[0];
    let (_twin_backend, twin_client, twin) = elsewhere(&there, address);
    assert_eq!((dialled.local, dialled.reached), (twin.local, twin.reached));
    assert_eq!(dialled.local.unwrap().port(), CLIENT_PORT);
    let both = cookies(&mut fixture);
    let twins = *both.iter().find(|cookie| **cookie != own).unwrap();

    // The twin is not in this pod, though a connection with its addresses is.
    let result = destroy::destroy(Some(&here), targets(&[twins], address));
    assert_eq!(result, Destroyed { not_found: vec![twins], ..Destroyed::default() });
    // Neither is a connection to elsewhere.
    let elsewhere = "127.0.0.2:50051".parse().unwrap();
    let result = destroy::destroy(Some(&here), targets(&[own], elsewhere));
    assert_eq!(result, Destroyed { not_found: vec![own], ..Destroyed::default() });
    assert_eq!(cookies(&mut fixture), both);

    let result = destroy::destroy(Some(&there), targets(&[twins], address));
    assert_eq!(result, destroyed(&[twins]), "in a namespace that is not the agent's");
    assert_eq!(twin_client.await_end(twin.handle).unwrap(), libc::ECONNABORTED);
    assert_eq!(cookies(&mut fixture), [own]);
    let stats = fixture.stats(served.id, address).unwrap();
    assert_eq!((stats.active, stats.reset), (1, 1));
    // The one here works on, and ends as it should.
    client.close(dialled.handle, false).unwrap();
    let stats = fixture.stats(served.id, address).unwrap();
    let expected =
        BackendStats { picked: 2, established: 2, closed: 1, reset: 1, ..BackendStats::default() };
    let counted =
        BackendStats { srtt_us: 0, retransmits: 0, ejected_until_ns: 0, ejections: 0, ..stats };
    assert_eq!(counted, expected);
    assert_eq!(fixture.reasons().unwrap()[&Reason::Reset], 1);

    // What is over is not found.
    let result = destroy::destroy(Some(&there), targets(&[twins], address));
    assert_eq!(result, Destroyed { not_found: vec![twins], ..Destroyed::default() });
}

#[test]
fn sockets_of_every_kind_are_destroyed() {
    if !capability::can_load_ebpf() || !can_destroy() {
        return;
    }
    let frontend_v6: SocketAddr = "[fd00::10]:80".parse().unwrap();
    let cases = [
        ("IPv4", "127.0.0.1:0", frontend(), Socket::V4),
        ("IPv4-mapped", "127.0.0.1:0", frontend(), Socket::V6),
        ("IPv6", "[::1]:0", frontend_v6, Socket::V6),
    ];
    for (case, backend, frontend, socket) in cases {
        let mut fixture = Fixture::new("destroy").unwrap();
        let backend = Backend::start(backend.parse().unwrap()).unwrap();
        fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
        let cgroup = fixture.world().pod("pod").unwrap();
        // Processes in containers are found, and those of the pod's own cgroup are not needed.
        let client = Dialer::start(&fixture.world().pod("pod/container").unwrap()).unwrap();
        let dials = [0; 3].map(|_| client.dial_with(frontend, socket).unwrap());
        let all = cookies(&mut fixture);
        assert_eq!(all.len(), 3, "{case}");
        let result = destroy::destroy(Some(&cgroup), targets(&all[..2], backend.address()));
        assert_eq!(result, destroyed(&all[..2]), "{case}");
        assert_eq!(cookies(&mut fixture), all[2..], "{case}");
        // The pod is gone: what it left is looked for in the node's namespace.
        let result = destroy::destroy(None, targets(&all[2..], backend.address()));
        assert_eq!(result, destroyed(&all[2..]), "{case}");
        for dialled in dials {
            assert_eq!(client.await_end(dialled.handle).unwrap(), libc::ECONNABORTED, "{case}");
        }
    }
}

#[test]
fn a_connection_that_is_not_established_is_destroyed() {
    if !capability::can_load_ebpf() || !can_destroy() {
        return;
    }
    let mut fixture = Fixture::new("destroy").unwrap();
    let deaf = balancer_tests::trouble::Deaf::start().unwrap();
    fixture.serve(ServiceSpec::new(frontend(), [deaf.address()])).unwrap();
    let cgroup = fixture.world().pod("pod").unwrap();
    let client = Dialer::start(&cgroup).unwrap();
    let dialling = std::thread::scope(|scope| {
        let dialling = scope.spawn(move || client.dial(frontend()).unwrap());
        while cookies(&mut fixture).is_empty() {
            std::thread::yield_now();
        }
        let all = cookies(&mut fixture);
        // Its first segment may still have to be sent.
        while destroy::destroy(Some(&cgroup), targets(&all, deaf.address())).destroyed != all {
            std::thread::yield_now();
        }
        dialling.join().unwrap()
    });
    assert_eq!(dialling.errno, libc::ECONNABORTED);
    assert_eq!(fixture.flows().unwrap(), 0);
}
