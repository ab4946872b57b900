//! The agent in a container as the DaemonSet has it: its root file system, capabilities, mounts and arguments
//! are read from the manifest.
//!
//! `BALANCER_IMAGE_ROOT` names the root file system that `cargo xtask image` has laid out (target/image/root). Without
//! it the same is laid out here around the agent under test, with the libraries that it is linked to.

use crate::{texts, yaml};
use anyhow::Context;
use balancer_tests::{
    agent::{self, Launch, write_config},
    backend::Backend,
    capability,
    container::{self, Confinement, Mount, Plan},
    dialer::Dialer,
    scrape,
    world::World,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FRONTEND: &str = "10.96.0.1:80";
/// Where the image has the agent, as `ENTRYPOINT` of the Containerfile says.
const AGENT: &str = "/usr/local/bin/balancer-agent";

/// Copies a root file system.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a file of this machine into a root file system, at the path that it has here or another one.
fn put(root: &Path, file: &Path, at: &str) {
    let to = root.join(at.trim_start_matches('/'));
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(file, to).unwrap();
}

/// Lays the container's root file system out in a directory of the world's.
fn root(world: &World) -> PathBuf {
    let root = world.runtime().join("root");
    if let Some(image) = std::env::var_os("BALANCER_IMAGE_ROOT") {
        copy(Path::new(&image), &root);
        return root;
    }
    let agent = agent::binary().unwrap();
    put(&root, &agent, AGENT);
    // `libc.so.6 => /lib/libc.so.6 (0x...)`, and the loader by its path alone; nothing of a static one.
    let output = Command::new("ldd").arg(&agent).output().context("run ldd").unwrap();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        for library in line.split_whitespace().filter(|word| word.starts_with('/')) {
            put(&root, Path::new(library), library);
        }
    }
    root
}

fn mount(from: impl Into<PathBuf>, to: &str, read_only: bool, recursive: bool) -> Mount {
    Mount { from: from.into(), to: to.into(), read_only, recursive }
}

/// The mounts of the manifest's container, behind what runtimes mount into each container.
fn mounts(pod: &Value, container: &Value, world: &World) -> Vec<Mount> {
    let mut mounts = vec![
        // The manifest's `hostPID`.
        mount("/proc", "/proc", false, true),
        mount("/dev", "/dev", false, true),
        mount("/sys", "/sys", true, false),
    ];
    assert_eq!((&pod["hostPID"], &pod["hostNetwork"]), (&true.into(), &true.into()));
    let volumes = pod["volumes"].as_array().unwrap();
    for wanted in container["volumeMounts"].as_array().unwrap() {
        let volume = volumes.iter().find(|volume| volume["name"] == wanted["name"]).unwrap();
        let from = match (volume["hostPath"]["path"].as_str(), volume["configMap"].is_object()) {
            // The node's own is the world's here.
            (Some("/run/balancer"), _) => world.runtime().to_owned(),
            (Some(path), _) => path.into(),
            (None, true) => world.runtime().join("config"),
            (None, false) => panic!("{volume}"),
        };
        let read_only = wanted["readOnly"] == true;
        mounts.push(mount(from, wanted["mountPath"].as_str().unwrap(), read_only, true));
    }
    mounts
}

/// What a manifest's container comes to in this world.
fn plan(world: &World) -> Plan {
    let manifest = yaml("deploy/base/daemon-set.yaml");
    let pod = &manifest["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    // The world's cgroup instead of the root of all, by its path in the container.
    let own = world.cgroup().strip_prefix("/sys/fs/cgroup").unwrap().to_str().unwrap();
    let arguments = texts(&container["args"]).into_iter().map(|argument| match argument {
        "/host/cgroup" => format!("{argument}/{own}"),
        other => other.to_owned(),
    });
    let pins = format!("--pin-root={}", world.pins().path().display());
    Plan {
        root: root(world),
        mounts: mounts(pod, container, world),
        confinement: Confinement::of_manifest().unwrap(),
        command: [AGENT.to_owned()].into_iter().chain(arguments).chain([pins]).collect(),
    }
}

/// A line of `/proc/PID/status`.
fn status_of(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.unwrap().to_owned()
}

#[test]
fn the_agent_works_in_the_container_of_the_manifest() {
    if !capability::can_load_ebpf() {
        return;
    }
    let world = World::new("container").unwrap();
    let backends = Backend::start_many("127.0.0.1".parse().unwrap(), 2).unwrap();
    let metrics = scrape::free_address().unwrap();
    let config = format!(
        "version: 1\nhttp: {{listen: \"{metrics}\"}}\n\
         limits: {{services: 16, backends: 64, frontends: 16, slots: 4096, connections: 256}}\n\
         services:\n- {{name: shop, frontends: [{FRONTEND}], backends: [{}, {}], policy: round-robin}}\n",
        backends[0].address(),
        backends[1].address(),
    );
    write_config(&world, &config).unwrap();
    fs::create_dir(world.runtime().join("config")).unwrap();
    fs::copy(agent::config_path(&world), world.runtime().join("config/config.yaml")).unwrap();
    let plan = plan(&world);
    let (wrapper, text) = (container::binary().unwrap(), serde_json::to_string(&plan).unwrap());
    let agent = Launch::new(&world).through(&[wrapper.to_str().unwrap(), &text]).start().unwrap();

    // It is confined as the manifest says.
    let capabilities = format!("{:016x}", container::mask(&plan.confinement.capabilities).unwrap());
    for key in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status_of(agent.pid(), key), capabilities, "{key}");
    }
    assert!(plan.confinement.has_default_seccomp);
    assert_eq!(status_of(agent.pid(), "Seccomp"), "2", "a filter (proc_pid_status(5))");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", agent.pid())).unwrap();
    let has = |place: &str, options: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.any(|line| line[1] == place && line[3].split(',').next() == Some(options))
    };
    assert!(has("/", "ro") && has("/etc/balancer", "ro") && has("/sys", "ro"), "{mounts}");
    assert!(has("/run/balancer", "rw") && has("/sys/fs/bpf", "rw"), "{mounts}");

    // It works all the same: ready, connections of pods outside are balanced, and it obeys.
    let (code, body) = scrape::get(metrics, "/readyz").unwrap();
    assert_eq!(code, 200, "{body}");
    let status = agent.status().unwrap();
    assert!(status.self_test.passed, "{:?}", status.self_test);
    let pod = Dialer::start(&world.pod("pod").unwrap()).unwrap();
    let dial = |_| pod.dial(FRONTEND.parse().unwrap()).unwrap().reached.unwrap();
    let mut reached: Vec<_> = (0..2).map(dial).collect();
    reached.sort_unstable();
    let mut expected: Vec<_> = backends.iter().map(Backend::address).collect();
    expected.sort_unstable();
    assert_eq!(reached, expected);
    let log = agent.log();
    let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
    assert!(!log.is_empty() && log.lines().all(is_json), "as `--log-format json` says: {log}");
    agent.terminate().unwrap();
    assert!(pod.dial(FRONTEND.parse().unwrap()).unwrap().reached.is_some(), "what is pinned stays");
}
