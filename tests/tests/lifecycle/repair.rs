//! Hooks that fail or vanish: the agent says so, and mends what it can.

use crate::scene::Scene;
use balancer_agent::{core::write::Write, datapath::hooks::HOOKS};
use balancer_tests::{
    agent::{Agent, Launch},
    capability,
    world::run,
};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn hooks_that_somebody_removed_are_attached_again() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("unlinked", 2);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pod = scene.pod("pod");
    scene.assert_balanced(&pod);
    for name in ["connect4", "tcp_events"] {
        fs::remove_file(scene.world.pins().link(name)).unwrap();
    }
    // The agent looks after its hooks every 30 seconds, and at once on SIGHUP.
    agent.signal(Signal::SIGHUP).unwrap();
    let status = agent.until(|status| status.datapath.hooks_repaired > 0).unwrap();
    assert_eq!(status.datapath.hooks_repaired, 2);
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_eq!(scene.programs().len(), HOOKS.len());
    scene.assert_balanced(&pod);
    assert_eq!(scene.counts(), (0, 0));
    assert!(agent.log().contains("hooks are gone; attaching them again"));
}

#[test]
fn a_failed_self_test_is_told_with_cause_and_hint_until_it_passes() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("self-test", 1);
    run("ip", &["link", "set", "lo", "down"]).unwrap();
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let status = agent.status().unwrap();
    assert!(!status.self_test.passed);
    let hint = status.self_test.hint.clone().unwrap();
    assert!(hint.contains("loopback"), "{:?}", status.self_test);
    let complaints = status.complaints();
    assert!(complaints[0].starts_with("the self-test failed: "), "{complaints:?}");
    assert!(complaints[0].contains("hint: "), "{complaints:?}");

    run("ip", &["link", "set", "lo", "up"]).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    let status = agent.until(|status| status.self_test.passed).unwrap();
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_eq!(status.datapath.hooks_repaired, 0);
    scene.assert_balanced(&scene.pod("pod"));
}

/// Only damage does this; the agent that finds it must start all the same, and mend it.
#[test]
fn a_record_that_leads_out_of_its_table_is_written_anew() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("damage", 2);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pod = scene.pod("pod");
    scene.assert_balanced(&pod);
    agent.kill().unwrap();
    let mut maps = scene.maps();
    for chunk in [maps.limits.chunks - 1, maps.limits.chunks, u32::MAX] {
        let services = maps.read_state().unwrap().services;
        let (id, mut record) =
            services.into_iter().map(|(id, service)| (id, service.record)).next().unwrap();
        for bank in &mut record.banks {
            (bank.v4.chunk, bank.v6.chunk) = (chunk, chunk);
        }
        maps.write(&Write::Service { id, record }).unwrap();
        let agent = Launch::new(&scene.world).start().unwrap();
        assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new(), "{chunk}");
        scene.assert_balanced(&pod);
        agent.kill().unwrap();
    }
}
