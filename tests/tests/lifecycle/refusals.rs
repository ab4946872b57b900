//! Agents that must not start: each says why and what to do, and does no harm.

use crate::scene::Scene;
use balancer_tests::{
    agent::{Agent, Launch, Refusal, write_config},
    capability,
};

/// A refusal is an exit with code 2, one error, and its hint.
fn assert_refused(refusal: &Refusal, wanted: &[&str]) {
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    let errors = refusal.stderr.matches("error: ").count();
    assert_eq!(errors, 1, "{}", refusal.stderr);
    for words in wanted.iter().chain(&["hint: "]) {
        assert!(refusal.stderr.contains(words), "no `{words}` in: {}", refusal.stderr);
    }
}

#[test]
fn a_second_agent_is_refused_and_the_first_unharmed() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("second", 2);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let programs = scene.programs();
    let elsewhere = scene.world.runtime().join("second");
    let other_pins =
        scene.world.pins().path().with_file_name(format!("{}-second", scene.world.name()));

    let same_pins = Launch::new(&scene.world).runtime(&elsewhere).refusal().unwrap();
    let pin_root = scene.world.pins().path().display().to_string();
    assert_refused(
        &same_pins,
        &["another balancer-agent already manages", &pin_root, "--pin-root"],
    );

    let same_runtime = Launch::new(&scene.world).pin_root(&other_pins).refusal().unwrap();
    assert_refused(&same_runtime, &["another agent listens on", "admin.sock", "--runtime-dir"]);
    assert!(!other_pins.exists(), "it has touched nothing");

    let same_both = Launch::new(&scene.world).refusal().unwrap();
    assert_refused(&same_both, &["another"]);

    assert_eq!(scene.programs(), programs);
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
    scene.assert_balanced(&scene.pod("pod"));
}

#[test]
fn a_wrong_place_is_named() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("wrong", 1);
    write_config(&scene.world, &scene.config()).unwrap();
    let launch = || Launch::new(&scene.world);

    let outside = scene.world.runtime().join("pins");
    let refusal = launch().pin_root(&outside).refusal().unwrap();
    let outside = outside.display().to_string();
    assert_refused(&refusal, &[&outside, "on no BPF file system", "/sys/fs/bpf"]);

    let dotted = format!("/sys/fs/bpf/{}.d", scene.world.name());
    let refusal = launch().pin_root(&dotted).refusal().unwrap();
    assert_refused(&refusal, &[&dotted, "dot"]);

    let refusal = launch().cgroup("/proc").refusal().unwrap();
    assert_refused(&refusal, &["`/proc` is no cgroup v2 directory", "cgroup.procs"]);

    let missing = scene.world.cgroup().join("missing");
    let refusal = launch().cgroup(&missing).refusal().unwrap();
    let missing = missing.display().to_string();
    assert_refused(&refusal, &[&missing, "No such file"]);

    let file = scene.world.runtime().join("file");
    std::fs::write(&file, "").unwrap();
    let refusal = launch().runtime(&file).refusal().unwrap();
    assert_refused(&refusal, &[&file.display().to_string(), "--runtime-dir"]);

    assert!(!scene.world.pins().path().exists(), "nothing was pinned");
}

#[test]
fn bpffs_that_is_not_mounted_is_mounted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("unmounted", 1);
    write_config(&scene.world, &scene.config()).unwrap();
    // A mount namespace of its own, where a plain directory hides bpffs.
    let hidden = ["unshare", "--mount", "sh", "-c"];
    let script = "mount -t tmpfs tmpfs /sys/fs/bpf && exec \"$0\" \"$@\"";
    let wrapper: Vec<_> = hidden.into_iter().chain([script]).collect();
    let agent = Launch::new(&scene.world).through(&wrapper).start().unwrap();
    assert!(agent.log().contains("mounted bpffs"), "{}", agent.log());
    let status = agent.status().unwrap();
    assert!(status.self_test.passed, "{:?}", status.self_test);
    agent.terminate().unwrap();
}

#[test]
fn a_missing_capability_is_named() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("capability", 1);
    write_config(&scene.world, &scene.config()).unwrap();
    for (dropped, named) in [
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-net_admin,-sys_admin", "CAP_NET_ADMIN"),
        ("-perfmon,-sys_admin", "CAP_PERFMON"),
    ] {
        let wrapper = ["setpriv", "--bounding-set", dropped];
        let refusal = Launch::new(&scene.world).through(&wrapper).refusal().unwrap();
        assert_refused(&refusal, &[&format!("lacks {named},"), &format!("grant {named} ")]);
    }
    assert!(!scene.world.pins().path().exists(), "nothing was pinned");

    // The three that the error asks for are enough.
    let wrapper = ["setpriv", "--bounding-set", "-sys_admin"];
    let agent = Launch::new(&scene.world).through(&wrapper).start().unwrap();
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
}
