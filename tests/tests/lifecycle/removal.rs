//! `unload`: everything of ours goes, nothing of others does.

use crate::scene::{FRONTEND, Scene};
use balancer_agent::datapath::{
    bpffs::PinRoot,
    hooks::{self, HOOKS, link_info},
    loader, sys,
};
use balancer_tests::{
    agent::{self, Agent},
    capability,
    fixture::LIMITS,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::{Command, Output},
};

/// Programs of another owner on the very same hooks; gone when this is dropped.
struct Foreign(PinRoot);

impl Foreign {
    fn attach(scene: &Scene) -> Self {
        let name = format!("{}-foreign", scene.world.name());
        let foreign = Self(PinRoot::new(scene.world.pins().path().with_file_name(name)));
        foreign.0.create().unwrap();
        let mut loaded = loader::load(&foreign.0, &LIMITS, 0).unwrap();
        hooks::attach(&mut loaded, &foreign.0, scene.world.cgroup()).unwrap();
        foreign
    }

    fn programs(&self) -> BTreeMap<&'static str, Vec<u32>> {
        let program = |name| link_info(&self.0, name).unwrap().unwrap().program_id;
        HOOKS.iter().map(|(name, _)| (*name, vec![program(name)])).collect()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

/// All programs of the world's cgroup.
fn attached(scene: &Scene) -> BTreeMap<&'static str, Vec<u32>> {
    let cgroup = File::open(scene.world.cgroup()).unwrap();
    HOOKS.iter().map(|(name, hook)| (*name, sys::query_programs(&cgroup, *hook).unwrap())).collect()
}

fn unload(scene: &Scene) -> Output {
    Command::new(agent::binary().unwrap())
        .arg("unload")
        .arg("--pin-root")
        .arg(scene.world.pins().path())
        .output()
        .unwrap()
}

#[test]
fn unload_removes_everything_of_ours_and_nothing_of_others() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("unload", 2);
    let foreign = Foreign::attach(&scene);
    assert_eq!(attached(&scene), foreign.programs());
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    assert!(attached(&scene).values().all(|programs| programs.len() == 2));

    // Not under a running agent, which would attach them again.
    let refused = unload(&scene);
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("already manages") && stderr.contains("stop it first"), "{stderr}");
    let pod = scene.pod("pod");
    scene.assert_balanced(&pod);
    let open = pod.dial(FRONTEND.parse().unwrap()).unwrap();

    agent.terminate().unwrap();
    // What somebody else keeps in our directory is not ours.
    let strange = scene.world.pins().path().join("strange");
    fs::create_dir(&strange).unwrap();
    let done = unload(&scene);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(attached(&scene), foreign.programs());
    assert!(strange.exists());
    fs::remove_dir(&strange).unwrap();

    let done = unload(&scene);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!scene.world.pins().path().exists());
    // Connections go where the application asks, and live ones live on.
    let plain = pod.dial(FRONTEND.parse().unwrap()).unwrap();
    assert_eq!((plain.errno, plain.reached), (libc::ENETUNREACH, None));
    pod.close(open.handle, false).unwrap();
    let done = unload(&scene);
    assert_eq!(done.status.code(), Some(0), "a second unload has nothing to do");
}
