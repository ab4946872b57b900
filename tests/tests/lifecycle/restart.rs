//! Agents that end, and those that take over from them.
#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method itself is for one lifetime, the closure for all"
)]

use crate::scene::{FRONTEND, Scene, Weather, reach};
use balancer_tests::{
    agent::{Agent, Launch, write_config},
    capability,
};
use std::{collections::BTreeSet, os::unix::fs::MetadataExt};

/// Ends an agent in one of two ways while connections are open; the next one takes over.
fn survives(purpose: &str, end: fn(Agent<'_>) -> anyhow::Result<()>) {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new(purpose, 4);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let status = agent.status().unwrap();
    assert!(status.self_test.passed, "{:?}", status.self_test);
    assert_eq!(status.datapath.origin, "fresh");
    let first = agent.pid();

    let pod = scene.pod("pod");
    let to = FRONTEND.parse().unwrap();
    let open: Vec<_> = (0..8).map(|_| pod.dial(to).unwrap()).collect();
    let (programs, backends) = (scene.programs(), scene.kernel_backends());
    assert!(backends.values().all(|(_, active)| *active == 2), "{backends:?}");

    end(agent).unwrap();
    assert_eq!(scene.programs(), programs, "nothing is detached");
    scene.assert_balanced(&pod);
    // A connection ends while no agent runs; the kernel counts by itself.
    pod.close(open[0].handle, false).unwrap();
    assert_eq!(scene.counts(), (7, 7));

    let weather = Weather::start(scene.pod("storm"));
    let links = link_inodes(&scene);
    let agent = Launch::new(&scene.world).start().unwrap();
    weather.goes_on();
    let storm = weather.end();
    assert_eq!(
        storm.keys().copied().collect::<BTreeSet<_>>(),
        scene.addresses().into_iter().collect()
    );

    let status = agent.status().unwrap();
    assert_eq!(status.datapath.origin, "adopted from an earlier agent");
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_ne!(status.pid, first);
    let replaced = scene.programs();
    assert!(programs.iter().all(|(name, id)| replaced[name] != *id), "{programs:?} {replaced:?}");
    assert_eq!(link_inodes(&scene), links, "links stay, their programs change");
    assert_eq!(scene.counts(), (7, 7));
    let ids = |of: &std::collections::BTreeMap<_, (u32, u64)>| -> Vec<_> {
        of.iter().map(|(address, (id, _))| (*address, *id)).collect()
    };
    assert_eq!(ids(&scene.kernel_backends()), ids(&backends), "ids stay");

    // Every connection made before is alive.
    for dialled in &open[1..] {
        let options = pod.options(dialled.handle);
        assert!(options.is_ok(), "{options:?}");
        pod.close(dialled.handle, false).unwrap();
    }
    assert_eq!(scene.counts(), (0, 0));
}

fn link_inodes(scene: &Scene) -> BTreeSet<(String, u64)> {
    std::fs::read_dir(scene.world.pins().links())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, entry.metadata().unwrap().ino())
        })
        .collect()
}

#[test]
fn a_killed_agent_leaves_everything_balanced_and_the_next_adopts_it() {
    survives("killed", |agent| agent.kill());
}

#[test]
fn a_terminated_agent_leaves_everything_balanced_and_the_next_adopts_it() {
    survives("terminated", |agent| agent.terminate());
}

#[test]
fn what_changed_in_the_file_meanwhile_is_reconciled() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("reconciled", 4);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let before = scene.kernel_backends();
    agent.kill().unwrap();
    let kept = &scene.addresses()[1..];
    write_config(&scene.world, &Scene::config_with(kept, 4_096)).unwrap();
    let pod = scene.pod("pod");
    scene.assert_balanced(&pod);

    let agent = Launch::new(&scene.world).start().unwrap();
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
    assert_eq!(reach(&pod, 12), kept.iter().copied().collect());
    let after = scene.kernel_backends();
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|(address, (id, _))| before[address].0 == *id));
}
