//! A new agent takes over under load, and one that unloads takes away only what is its own.

use balancer_agent::datapath::{
    bpffs::PinRoot,
    hooks::{self, HOOKS, Taken},
    loader,
    sys::query_programs,
};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::protocol::{Outcome, Storm},
    fixture::{Fixture, LIMITS, service::ServiceSpec},
    greeter::Greeter,
};
use std::{fs::File, path::Path};

/// Takes a second owner's pins away, also when the test panics.
struct Other(PinRoot);

impl Drop for Other {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            eprintln!("{error}");
        }
    }
}

#[test]
fn programs_are_replaced_under_load_without_an_unbalanced_connect() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("restart").unwrap();
    let greeter = Greeter::start(2).unwrap();
    let backends: Vec<_> = (0..4).map(|number| greeter.backend(number)).collect();
    let frontend = "10.96.0.1:80".parse().unwrap();
    let served = fixture.serve(ServiceSpec::new(frontend, backends.iter().copied())).unwrap();
    let held = fixture.pod("held").unwrap();
    let holding = held.dial(frontend).unwrap();
    let pod = fixture.pod("pod").unwrap();
    let storm = Storm { to: vec![frontend], threads: 2, connects: 20_000 };
    let mut restarts = 0;
    let stormed = std::thread::scope(|scope| {
        let storm = scope.spawn(move || pod.storm(storm));
        while !storm.is_finished() {
            assert_eq!(fixture.restart().unwrap(), [Taken::Replaced; HOOKS.len()]);
            restarts += 1;
        }
        storm.join().unwrap().unwrap()
    });
    println!("{} connects, {restarts} restarts", stormed.connects.len());
    assert!(restarts > 0);
    let failed: Vec<_> =
        stormed.connects.iter().filter(|it| matches!(it.outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let active = |fixture: &Fixture| -> u64 {
        backends.iter().map(|it| fixture.stats(served.id, *it).unwrap().active).sum()
    };
    assert_eq!((active(&fixture), fixture.flows().unwrap()), (1, 1), "the one that is held");
    held.close(holding.handle, false).unwrap();
    assert_eq!((active(&fixture), fixture.flows().unwrap()), (0, 0));
}

#[test]
fn removal_takes_our_programs_and_leaves_others() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("removal").unwrap();
    let server = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let frontend = "10.96.0.1:80".parse().unwrap();
    fixture.serve(ServiceSpec::new(frontend, [server.address()])).unwrap();
    let other = Other(PinRoot::new(
        Path::new("/sys/fs/bpf").join(format!("{}-other", fixture.world().name())),
    ));
    other.0.create().unwrap();
    let cgroup = File::open(fixture.world().cgroup()).unwrap();
    let attached = |hook| query_programs(&cgroup, hook).unwrap();
    let mut foreign = loader::load(&other.0, &LIMITS, 0).unwrap();
    hooks::attach(&mut foreign, &other.0, fixture.world().cgroup()).unwrap();
    let pod = fixture.pod("pod").unwrap();
    assert_eq!(pod.dial(frontend).unwrap().reached, Some(server.address()));
    for (name, hook) in HOOKS {
        assert_eq!(attached(hook).len(), 2, "{name}");
    }
    assert!(fixture.world().pins().remove().unwrap());
    for (name, hook) in HOOKS {
        let theirs = hooks::link_info(&other.0, name).unwrap().unwrap().program_id;
        assert_eq!(attached(hook), [theirs], "{name}");
    }
    assert_eq!(pod.dial(frontend).unwrap().errno, libc::ENETUNREACH, "no longer balanced");
    assert!(!fixture.world().pins().remove().unwrap(), "nothing is left to remove");
    assert!(!fixture.world().pins().path().exists());
}

#[test]
fn a_world_leaves_nothing_behind_also_when_its_test_panics() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let fixture = Fixture::new("panics").unwrap();
        let pod = fixture.pod("pod").unwrap();
        let world = fixture.world();
        let procs = world.cgroup().join("pod/cgroup.procs");
        let pid = std::fs::read_to_string(procs).unwrap().trim().to_owned();
        let places = [
            world.cgroup().to_owned(),
            world.pins().path().to_owned(),
            world.runtime().to_owned(),
            Path::new("/proc").join(pid),
        ];
        assert!(places.iter().all(|place| place.exists()), "{places:?}");
        sender.send(places).unwrap();
        let _held = pod;
        panic!("as a failed assertion would");
    })
    .join();
    assert!(panicked.is_err());
    for place in receiver.recv().unwrap() {
        assert!(!place.exists(), "{} is left behind", place.display());
    }
}
