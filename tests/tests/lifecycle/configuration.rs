//! The configuration file of a running agent: changed well, changed badly, and at the first start.

use crate::scene::{FRONTEND, Scene, reach};
use balancer_tests::{
    agent::{Agent, Launch, config_path, write_config},
    capability,
};
use nix::sys::signal::Signal;
use std::{collections::BTreeSet, fs, net::SocketAddr};

fn set(addresses: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    addresses.iter().copied().collect()
}

#[test]
fn changes_are_applied_however_they_are_written() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("changes", 4);
    let all = scene.addresses();
    let agent = Agent::start(&scene.world, &Scene::config_with(&all[..1], 4_096)).unwrap();
    let pod = scene.pod("pod");
    assert_eq!(reach(&pod, 4), set(&all[..1]));
    let changes = || agent.status().unwrap().work.changes;

    // Another file renamed over it, as editors and Kubernetes do.
    let before = changes();
    write_config(&scene.world, &Scene::config_with(&all[..2], 4_096)).unwrap();
    agent.until(|status| status.work.changes > before).unwrap();
    assert_eq!(reach(&pod, 4), set(&all[..2]));

    // Written in place.
    let before = changes();
    fs::write(config_path(&scene.world), Scene::config_with(&all[..3], 4_096)).unwrap();
    agent.until(|status| status.work.changes > before).unwrap();
    assert_eq!(reach(&pod, 6), set(&all[..3]));

    // Removed and made again, with SIGHUP.
    let before = changes();
    fs::remove_file(config_path(&scene.world)).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    agent.until(|status| status.config.rejected.is_some()).unwrap();
    assert_eq!(reach(&pod, 6), set(&all[..3]));
    write_config(&scene.world, &Scene::config_with(&all[1..], 4_096)).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    agent.until(|status| status.work.changes > before).unwrap();
    assert_eq!(reach(&pod, 6), set(&all[1..]));
    assert!(!agent.reload().unwrap(), "nothing is new");
}

#[test]
fn a_bad_file_keeps_the_last_good_one_in_force() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("bad", 2);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pod = scene.pod("pod");
    let open = pod.dial(FRONTEND.parse().unwrap()).unwrap();
    let backends = scene.kernel_backends();

    let bad = scene.config().replace("policy: round-robin", "policy: round-robbing");
    let line = 1 + bad.lines().position(|line| line.contains("robbing")).unwrap();
    write_config(&scene.world, &bad).unwrap();
    let status = agent.until(|status| status.config.rejected.is_some()).unwrap();
    let rejected = status.config.rejected.clone().unwrap();
    let place = format!("config.yaml:{line}");
    for words in [place.as_str(), "policy", "round-robbing", "round-robin", "hint"] {
        assert!(rejected.contains(words), "no `{words}` in: {rejected}");
    }
    assert_eq!(status.config.rejections, 1);
    assert!(!status.complaints().is_empty(), "that is not healthy");
    // Whoever asks for a reload is told, too.
    let refused = agent.reload().unwrap_err().to_string();
    assert!(refused.contains(&place), "{refused}");
    assert_eq!(scene.kernel_backends(), backends);
    scene.assert_balanced(&pod);

    agent.configure(&scene.config()).unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status.config.rejected, None);
    assert_eq!(status.complaints(), Vec::<String>::new());
    assert_eq!(scene.kernel_backends(), backends);
    pod.close(open.handle, false).unwrap();
}

#[test]
fn a_first_start_with_a_bad_file_is_refused() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("bad-first", 1);
    let refusal = Launch::new(&scene.world).refusal().unwrap();
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    let path = config_path(&scene.world).display().to_string();
    for words in [path.as_str(), "No such file", "config --example"] {
        assert!(refusal.stderr.contains(words), "no `{words}` in: {}", refusal.stderr);
    }

    write_config(&scene.world, "version: 1\nservice: []\n").unwrap();
    let refusal = Launch::new(&scene.world).refusal().unwrap();
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    for words in ["config.yaml:2", "service", "did you mean `services`?"] {
        assert!(refusal.stderr.contains(words), "no `{words}` in: {}", refusal.stderr);
    }
    assert!(!scene.world.pins().path().exists(), "nothing was pinned");
}
