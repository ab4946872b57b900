//! Nothing of a test stays on the machine, also when it panics.

use crate::scene::{FRONTEND, Scene, Weather};
use balancer_tests::{agent::Agent, capability};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Longest wait for the kernel to let go of a namespace.
const RELEASE: Duration = Duration::from_secs(30);

/// What a test had.
struct Traces {
    paths: Vec<PathBuf>,
    agent: u32,
    namespace: PathBuf,
}

fn traces(scene: &Scene, agent: &Agent<'_>) -> Traces {
    let world = &scene.world;
    let paths = vec![world.cgroup().into(), world.pins().path().into(), world.runtime().into()];
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let agent = agent.pid();
    Traces { paths, agent, namespace }
}

/// Whether any thread of the machine is in a network namespace.
fn is_inhabited(namespace: &Path) -> bool {
    let directories = |path: &Path| -> Vec<PathBuf> {
        // Processes come and go while they are listed.
        fs::read_dir(path).into_iter().flatten().flatten().map(|it| it.path()).collect()
    };
    directories(Path::new("/proc"))
        .iter()
        .flat_map(|process| directories(&process.join("task")))
        .any(|task| fs::read_link(task.join("ns/net")).is_ok_and(|it| it == namespace))
}

fn assert_gone(traces: &Traces) {
    for path in &traces.paths {
        assert!(!path.exists(), "{} stays behind", path.display());
    }
    let process = PathBuf::from(format!("/proc/{}", traces.agent));
    assert!(!process.exists(), "{} stays behind", process.display());
    // Servers' threads end when they see that their clients have ended.
    let deadline = Instant::now() + RELEASE;
    while is_inhabited(&traces.namespace) {
        let namespace = traces.namespace.display();
        assert!(Instant::now() < deadline, "somebody stays in {namespace}");
        std::thread::yield_now();
    }
}

#[test]
fn nothing_stays_behind() {
    if !capability::can_load_ebpf() {
        return;
    }
    for panics in [false, true] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let test = std::thread::spawn(move || {
            let scene = Scene::new("leftovers", 2);
            let agent = Agent::start(&scene.world, &scene.config()).unwrap();
            let pod = scene.pod("pod");
            let _open = pod.dial(FRONTEND.parse().unwrap()).unwrap();
            let _weather = Weather::start(scene.pod("storm"));
            sender.send(traces(&scene, &agent)).unwrap();
            assert!(!panics, "on purpose, to see what stays behind");
        });
        assert_eq!(test.join().is_err(), panics);
        assert_gone(&receiver.recv().unwrap());
    }
}
