//! `pods`, and the names of pods elsewhere: in a tree of cgroups as kubelet makes it, with the daemon up
//! from before the first pod, and down.

use super::agent::{Agent, Outcome, run};
use balancer_agent::{
    core::pods::{
        PodUid,
        cgroup_path::{ContainerCgroup, Driver, PodCgroup, QosClass, Runtime},
    },
    datapath::{cgroup, maps::Maps},
};
use balancer_tests::{backend::Backend, capability, dialer::Dialer, world::World};
use serde_json::Value;
use std::{fs, net::SocketAddr, path::Path};

const FRONTEND: &str = "10.96.0.1:80";
const UID: &str = "7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51";

/// Waits until the agent has told the kernel of this pod's tree, which it does when it sees it made.
fn await_hierarchy(world: &World, kubepods: u64, burstable: u64) {
    let maps = Maps::open_loaded(world.pins()).unwrap();
    loop {
        let hierarchy = maps.read_hierarchy().unwrap();
        if (hierarchy.kubepods, hierarchy.burstable) == (kubepods, burstable) {
            return;
        }
        std::thread::yield_now();
    }
}

fn json(world: &World, line: &str) -> Value {
    let outcome: Outcome = run(world, &format!("{line} --output json"));
    assert_eq!(outcome.code, 0, "{line}: {}", outcome.stderr);
    outcome.json()
}

/// The rows of `pods` for this pod.
fn row(world: &World) -> Value {
    let report = json(world, "pods");
    let rows = report["pods"].as_array().unwrap();
    rows.iter().find(|row| row["uid"] == UID).unwrap_or(&Value::Null).clone()
}

/// The pod with two connections to a backend, and one other client, as every command shows them.
fn look(world: &World, backend: SocketAddr, pod: &Path, container: &Path) {
    let id = cgroup::id(pod).unwrap();
    let report = json(world, "pods");
    let rows = report["pods"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{report}");
    assert_eq!((&rows[0]["uid"], &rows[0]["id"]), (&UID.into(), &id.into()));
    assert_eq!((&rows[0]["qos"], &rows[0]["connections"]), (&"burstable".into(), &2.into()));
    let service = &rows[0]["services"][0];
    assert_eq!(service["service"], "payments");
    let to = &service["backends"][0];
    assert_eq!(to["backend"], backend.to_string());
    assert_eq!((&to["connections"], &rows[0]["skipped"]), (&2.into(), &Value::Null));
    assert_eq!((&rows[1]["uid"], &rows[1]["connections"]), (&Value::Null, &1.into()));
    let table = run(world, "pods").stdout;
    assert!(table.contains(UID) && table.contains("payments"), "{table}");

    let of_pod = json(world, &format!("connections --pod {UID}"));
    assert_eq!(of_pod["total"], 2);
    for name in [UID, container.to_str().unwrap(), &id.to_string()] {
        assert_eq!(json(world, &format!("pods {name}"))["pods"][0], rows[0], "{name}");
        let explained = json(world, &format!("explain {name} payments"));
        assert_eq!(explained["pod"]["uid"], UID, "{name}");
    }
    assert!(run(world, &format!("explain {UID} payments")).stdout.contains(UID));
}

#[test]
fn pods_are_shown_with_the_daemon_up_and_down() {
    if !capability::can_load_ebpf() {
        return;
    }
    let world = World::new("cli-pods").unwrap();
    let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = format!(
        "version: 1\n\
         limits: {{services: 16, backends: 64, frontends: 16, slots: 4096, connections: 256}}\n\
         services:\n- {{name: payments, frontends: [{FRONTEND}], backends: [{}]}}\n",
        backend.address()
    );
    let agent = Agent::start(&world, &config).unwrap();
    assert_eq!(json(&world, "pods"), serde_json::json!({"pods": []}));

    // Kubelet starts after the agent.
    let pod = PodCgroup { uid: PodUid::new(UID).unwrap(), qos: QosClass::Burstable };
    let path = world.pod(&pod.path(Driver::Systemd, &[])).unwrap();
    let id = |path: &Path| cgroup::id(path).unwrap();
    let class = path.parent().unwrap();
    await_hierarchy(&world, id(class.parent().unwrap()), id(class));
    let runtime = Some(Runtime::Containerd);
    let container = ContainerCgroup { pod, runtime, id: "c0ffee".into() };
    let container = world.pod(&container.path(Driver::Systemd, &[])).unwrap();
    let client = Dialer::start(&container).unwrap();
    for _ in 0..2 {
        let dialled = client.dial(FRONTEND.parse().unwrap()).unwrap();
        assert_eq!(dialled.reached, Some(backend.address()));
    }
    // Another client, outside of all pods.
    let host = Dialer::start(&world.pod("system.slice").unwrap()).unwrap();
    host.dial(FRONTEND.parse().unwrap()).unwrap();

    let look = || look(&world, backend.address(), &path, &container);
    look();
    agent.kill();
    look();

    // A pod that goes is gone from what a new agent tells.
    let agent = Agent::start(&world, &config).unwrap();
    look();
    drop(client);
    fs::remove_dir(&container).unwrap();
    fs::remove_dir(&path).unwrap();
    while row(&world) != Value::Null {
        std::thread::yield_now();
    }
    agent.kill();
    assert_eq!(row(&world), Value::Null);
}
