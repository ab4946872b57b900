//! Backend sets that change as fast as they can while thousands of connections are made.

use balancer_common::{
    abi,
    reason::Reason,
    service::{POLICY_LEAST_CONNECTION, POLICY_ROUND_ROBIN, Service},
};
use balancer_tests::{
    capability,
    dialer::{
        protocol::{Outcome, Storm, Stormed},
        storm::now_ns,
    },
    fixture::{Fixture, service::ServiceSpec},
    flood,
    greeter::Greeter,
};
use std::{collections::BTreeMap, net::SocketAddr};

/// Backends that take turns, of which [`WINDOW`] serve at any time.
const BACKENDS: u16 = 64;
const WINDOW: u16 = 4;
const THREADS: u32 = 4;
const CONNECTS: u32 = 100_000;
/// Storms after which at least one pick must have been overtaken.
const ROUNDS: u32 = 40;

/// From the moment when an update had removed a backend to the moment before one brought it back.
struct Absence {
    from_ns: u64,
    until_ns: u64,
}

fn frontends() -> Vec<SocketAddr> {
    (1..=4).map(|last| SocketAddr::from(([10, 96, 0, last], 80))).collect()
}

#[test]
fn no_connect_fails_or_reaches_a_backend_that_an_update_had_removed() {
    if !capability::can_load_ebpf() {
        return;
    }
    for policy in [POLICY_ROUND_ROBIN, POLICY_LEAST_CONNECTION] {
        let mut fixture = Fixture::new("races").unwrap();
        let greeter = Greeter::start(2).unwrap();
        let window = |first: u16| {
            (first..first + WINDOW)
                .map(|number| greeter.backend(number % BACKENDS))
                .collect::<Vec<_>>()
        };
        let mut spec = ServiceSpec::new(frontends()[0], window(0));
        spec.frontends = frontends();
        spec.policy = policy;
        let mut served = fixture.serve(spec).unwrap();
        let pod = fixture.pod("pod").unwrap();
        let storm = Storm { to: frontends(), threads: THREADS, connects: CONNECTS / 2 / THREADS };
        let mut absences = BTreeMap::<SocketAddr, Vec<Absence>>::new();
        let mut updates = 0_u64;
        let stormed = std::thread::scope(|scope| {
            let storm = scope.spawn(move || pod.storm(storm));
            let mut first = 0_u16;
            while !storm.is_finished() {
                let before = window(first);
                first = (first + 1) % BACKENDS;
                let after = window(first);
                let started_ns = now_ns();
                fixture.swap(&mut served, after.iter().copied().map(Into::into).collect()).unwrap();
                let returned_ns = now_ns();
                updates += 1;
                for address in &after {
                    if let Some(last) = absences.get_mut(address).and_then(|it| it.last_mut()) {
                        last.until_ns = last.until_ns.min(started_ns);
                    }
                }
                for address in before.iter().filter(|it| !after.contains(it)) {
                    let absence = Absence { from_ns: returned_ns, until_ns: u64::MAX };
                    absences.entry(*address).or_default().push(absence);
                }
            }
            storm.join().unwrap().unwrap()
        });
        check(&stormed, &absences);
        println!("policy {policy}: {} connects, {updates} updates", stormed.connects.len());
        assert!(updates > 1_000, "only {updates} updates: nothing was proved");
        assert_eq!(fixture.flows().unwrap(), 0, "policy {policy}");
        let mut picked = 0;
        for number in 0..BACKENDS {
            let stats = fixture.stats(served.id, greeter.backend(number)).unwrap();
            assert_eq!(stats.active, 0, "policy {policy}, backend {number}: {stats:?}");
            picked += stats.picked;
        }
        assert_eq!(picked, u64::from(CONNECTS / 2), "policy {policy}");
    }
}

fn check(stormed: &Stormed, absences: &BTreeMap<SocketAddr, Vec<Absence>>) {
    for connect in &stormed.connects {
        let server = match connect.outcome {
            Outcome::Server(index) => stormed.servers[index as usize],
            Outcome::Failed(errno) => panic!("{connect:?}: {}", nix::errno::Errno::from_raw(errno)),
        };
        let Some(absences) = absences.get(&server) else {
            continue;
        };
        // The only absence that may hold the connect is the last that began before it.
        let began = absences.partition_point(|it| it.from_ns <= connect.started_ns);
        if let Some(last) = began.checked_sub(1).map(|index| &absences[index]) {
            assert!(connect.ended_ns >= last.until_ns, "{connect:?} reached {server}, removed");
        }
    }
}

#[test]
fn a_set_that_never_stands_still_leaves_connections_alone() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("flood").unwrap();
    let greeter = Greeter::start(1).unwrap();
    // The frontend is a server by itself, so that an untouched connection reaches that.
    let frontend = greeter.backend(u16::MAX);
    let backends: Vec<_> = (0..16).map(|number| greeter.backend(number)).collect();
    let mut spec = ServiceSpec::new(frontend, backends.iter().copied());
    spec.policy = POLICY_LEAST_CONNECTION;
    let served = fixture.serve(spec).unwrap();
    let mut pod = fixture.pod("pod").unwrap();
    // Both banks hold the same set: only the generation moves, faster than a pick.
    let bank = *served.record.bank();
    let record = Service { banks: [bank; 2], ..served.record };
    let records: Vec<_> = (0..4_096).map(|generation| Service { generation, ..record }).collect();
    let layout = &fixture.world().pins().layouts()[0];
    let services = fixture.world().pins().maps(layout).join(abi::map::SERVICES);
    for _ in 0..ROUNDS {
        let storm = Storm { to: vec![frontend], threads: 1, connects: 2_000 };
        let stormed = std::thread::scope(|scope| {
            let pod = &mut pod;
            let storm = scope.spawn(move || pod.storm(storm));
            while !storm.is_finished() {
                flood::write_all(&services, served.id, &records).unwrap();
            }
            storm.join().unwrap().unwrap()
        });
        let raced = fixture.reasons().unwrap()[&Reason::GenerationRaced];
        if raced > 0 {
            assert_eq!(fixture.service_stats(served.id).unwrap().untouched, raced);
            assert!(stormed.servers.contains(&frontend));
            return;
        }
    }
    panic!("no pick of {} was overtaken", ROUNDS * 2_000);
}
