//! `check` names the programs of other owners that may lead connections elsewhere, and only those.

use super::{Agent, PAYMENTS, Scene};
use balancer_agent::datapath::sys::AttachType;
use balancer_tests::{
    backend::Backend,
    capability,
    foreign::{Act, ForeignProgram},
};
use serde_json::Value;
use std::net::SocketAddr;

impl Scene {
    /// What `check` says of hooks: findings that name this world's cgroup. Whatever it says, it passes.
    fn warnings(&self, expected: &[&str]) -> Vec<String> {
        let json = self.both("check", 0, expected);
        assert_eq!(json["passed"], true);
        let own = self.world.cgroup().to_str().unwrap();
        let checks = json["checks"].as_array().unwrap();
        let about_us = checks.iter().filter(|check| {
            check["check"] == "hooks" && check["finding"].as_str().unwrap().contains(own)
        });
        let finding = |check: &Value| {
            assert_eq!(check["verdict"], "warn");
            let hint = check["hint"].as_str().unwrap();
            assert!(hint.contains("keep their services apart"), "{hint}");
            check["finding"].as_str().unwrap().to_owned()
        };
        about_us.map(finding).collect()
    }

    /// How many programs of others are at hooks where they do no harm. Not said where a warning is, which on
    /// a machine with such a program above this world's cgroup is always.
    fn harmless(&self) -> Option<u32> {
        let json = self.both("check", 0, &[]);
        let checks = json["checks"].as_array().unwrap();
        let hooks = checks.iter().find(|check| check["check"] == "hooks").unwrap();
        let (_, counts) = hooks["finding"].as_str().unwrap().split_once("6 of 6 are ours; ")?;
        let (count, _) = counts.split_once(" of others leave destinations alone").unwrap();
        Some(count.parse().unwrap())
    }

    fn attach(&self, hook: AttachType, act: Act) -> ForeignProgram {
        ForeignProgram::attach(self.world.cgroup(), hook, act).unwrap()
    }

    /// The only warning is of this program.
    fn warns_of(&self, hook: &str, program: &ForeignProgram) {
        let found = self.warnings(&["another owner", program.name(), "0 failures"]);
        let [finding] = &found[..] else { panic!("{found:?}") };
        for part in [&format!("`{hook}` of "), &format!("({}) of another owner", program.name())] {
            assert!(finding.contains(part), "`{part}` is not in `{finding}`");
        }
    }

    fn reaches(&self) -> Result<SocketAddr, i32> {
        let dialled = self.pod.dial(PAYMENTS.parse().unwrap()).unwrap();
        dialled.reached.ok_or(dialled.errno)
    }

    fn reaches_a_backend(&self) {
        let reached = self.reaches().unwrap();
        assert!(self.backends[..2].iter().any(|backend| backend.address() == reached));
    }
}

#[test]
fn programs_of_other_owners_are_named() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("cli-others");
    let elsewhere = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let SocketAddr::V4(address) = elsewhere.address() else { panic!("an IPv4 address") };
    let _agent = Agent::start(&scene.world, &scene.config).unwrap();
    assert_eq!(scene.warnings(&[]), [] as [&str; 0], "our own programs are known by their links");

    // It sees TCP events only: it can lead nothing elsewhere.
    let before = scene.harmless();
    let watching = scene.attach(AttachType::SockOps, Act::LetBy);
    assert_eq!(scene.warnings(&[]), [] as [&str; 0]);
    assert_eq!(scene.harmless(), before.map(|count| count + 1));
    scene.reaches_a_backend();

    // What a program at connect() does cannot be known, so that one which lets all by is named, too.
    let program = scene.attach(AttachType::Connect4, Act::LetBy);
    scene.warns_of("connect4", &program);
    scene.reaches_a_backend();
    drop(program);

    // The two kinds of harm that the warning is for: it runs after ours.
    let program = scene.attach(AttachType::Connect4, Act::LeadTo(address));
    scene.warns_of("connect4", &program);
    assert_eq!(scene.reaches(), Ok(elsewhere.address()));
    drop(program);
    let program = scene.attach(AttachType::Connect4, Act::Refuse);
    scene.warns_of("connect4", &program);
    assert_eq!(scene.reaches(), Err(libc::EPERM));
    drop(program);
    let program = scene.attach(AttachType::Connect6, Act::Refuse);
    scene.warns_of("connect6", &program);
    scene.reaches_a_backend();

    // Each of several has a line of its own; those of hooks without harm have none.
    let other = scene.attach(AttachType::Connect4, Act::LetBy);
    assert_eq!(scene.warnings(&[program.name(), other.name()]).len(), 2);
    drop((program, other, watching));
    assert_eq!(scene.warnings(&[]), [] as [&str; 0]);
    scene.reaches_a_backend();
}
