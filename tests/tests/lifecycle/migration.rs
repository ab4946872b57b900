//! State that a new agent cannot use as it is: other limits, another ABI version, half a state.

use crate::scene::{FRONTEND, Scene, Weather};
use balancer_agent::{
    core::write::Limits,
    datapath::{bpffs::layout_of, loader},
};
use balancer_tests::{
    agent::{Agent, Launch, write_config},
    capability,
};
use std::fs;

#[test]
fn other_limits_carry_everything_over() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("limits", 4);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pod = scene.pod("pod");
    let to = FRONTEND.parse().unwrap();
    let open: Vec<_> = (0..8).map(|_| pod.dial(to).unwrap()).collect();
    let weather = Weather::start(scene.pod("storm"));

    // Limits are in force after a restart; until then the agent says so.
    let larger = Scene::config_with(&scene.addresses(), 8_192);
    agent.configure(&larger).unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status.config.restart_needed, ["limits"]);
    let layout = status.datapath.layout;
    agent.kill().unwrap();

    let agent = Launch::new(&scene.world).start().unwrap();
    weather.goes_on();
    drop(weather.end());
    let status = agent.status().unwrap();
    assert_ne!(status.datapath.layout, layout);
    let origin = &status.datapath.origin;
    assert!(origin.starts_with("migrated: 1 services and "), "{origin}");
    assert!(origin.ends_with("(0 did not fit)"), "{origin}");
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_eq!(scene.world.pins().layouts(), [status.datapath.layout]);
    assert_eq!(scene.counts(), (8, 8));
    for dialled in open {
        pod.close(dialled.handle, false).unwrap();
    }
    assert_eq!(scene.counts(), (0, 0));
    scene.assert_balanced(&pod);
}

#[test]
fn another_abi_version_is_left_behind_without_a_gap() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("abi", 4);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pod = scene.pod("pod");
    let before = pod.dial(FRONTEND.parse().unwrap()).unwrap();
    agent.terminate().unwrap();
    let pins = scene.world.pins();
    let layout = pins.layouts().pop().unwrap();
    let (_, sizes) = layout.split_once('-').unwrap();
    let other = format!("v999-{sizes}");
    fs::rename(pins.maps(&layout), pins.maps(&other)).unwrap();

    let weather = Weather::start(scene.pod("storm"));
    let agent = Launch::new(&scene.world).start().unwrap();
    weather.goes_on();
    drop(weather.end());
    let status = agent.status().unwrap();
    let origin = &status.datapath.origin;
    assert!(origin.starts_with("migrated from another ABI version (v999-"), "{origin}");
    assert!(agent.log().contains("migrated from another ABI version"));
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_eq!(pins.layouts(), [layout]);
    // Connections made before are alive, and not counted any more.
    assert_eq!(scene.counts(), (0, 0));
    pod.close(before.handle, false).unwrap();
    assert_eq!(scene.counts(), (0, 0));
    scene.assert_balanced(&pod);
}

#[test]
fn a_start_that_broke_off_leaves_nothing_to_be_adopted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("broken-off", 2);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    agent.kill().unwrap();
    // As far as a start with other limits gets before its programs take over.
    let larger = Limits { flows: 8_192, ..scene.maps().limits };
    drop(loader::load(scene.world.pins(), &larger, 0).unwrap());
    assert!(scene.world.pins().maps(&layout_of(&larger)).exists());
    let pod = scene.pod("pod");
    let open = pod.dial(FRONTEND.parse().unwrap()).unwrap();

    let config = Scene::config_with(&scene.addresses(), 8_192);
    write_config(&scene.world, &config).unwrap();
    let agent = Launch::new(&scene.world).start().unwrap();
    let status = agent.status().unwrap();
    let origin = &status.datapath.origin;
    assert!(origin.starts_with("migrated: 1 services and 1 connections"), "{origin}");
    assert_eq!(scene.counts(), (1, 1));
    pod.close(open.handle, false).unwrap();
    assert_eq!(scene.counts(), (0, 0));
    scene.assert_balanced(&pod);
}
