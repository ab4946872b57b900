//! What a kubelet makes for one pod before anything runs in it: its network and its cgroup.

use super::{
    HOST_ADDRESS, cgroup_name,
    network::{Network, PodNetwork},
    node::Node,
    workload::{self, ECHO_IMAGE, Inside, LISTENING},
};
use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use rand::RngCore;
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// What of a Pod object decides about its sandbox.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    qos: String,
    host_network: bool,
    /// The containers: name and image.
    pub containers: Vec<(String, String)>,
    /// The port of its echo server, if it has one.
    pub echo_port: Option<u16>,
}

/// A pod's place on its node.
pub struct Sandbox {
    /// None in the host's network.
    network: Option<PodNetwork>,
    world: PathBuf,
    cgroup: PathBuf,
    /// Its first process, which is there before any container is.
    pause: Child,
    pause_cgroup: PathBuf,
    /// The ids of its containers, in their order.
    pub containers: Vec<String>,
}

// === impl Plan ===

impl Plan {
    /// Reads it from the object.
    ///
    /// # Errors
    /// When the API server has left out what it always sets.
    pub fn of(pod: &Pod) -> anyhow::Result<Self> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref().context("a Pod has a spec")?;
        let status = pod.status.as_ref();
        let echo = spec.containers.iter().find(|it| it.image.as_deref() == Some(ECHO_IMAGE));
        let port = echo.and_then(|it| it.ports.as_ref()?.first());
        let image = |image: &Option<String>| image.clone().unwrap_or_default();
        Ok(Self {
            namespace: meta.namespace.clone().context("a Pod has a namespace")?,
            name: meta.name.clone().context("a Pod has a name")?,
            uid: meta.uid.clone().context("a Pod has a uid")?,
            qos: status.and_then(|it| it.qos_class.clone()).unwrap_or_else(|| "BestEffort".into()),
            host_network: spec.host_network.unwrap_or(false),
            containers: spec
                .containers
                .iter()
                .map(|it| (it.name.clone(), image(&it.image)))
                .collect(),
            echo_port: port.map(|port| u16::try_from(port.container_port)).transpose()?,
        })
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Makes it, with the cgroups below `root`. To be called in the world's namespace.
    ///
    /// # Errors
    /// Names what the kernel refused.
    pub fn create(
        plan: &Plan,
        node: &Node,
        network: &Network,
        root: &Path,
    ) -> anyhow::Result<Self> {
        let containers: Vec<String> = plan.containers.iter().map(|_| container_id()).collect();
        let mut cgroup = root.to_path_buf();
        // The last one is where processes go.
        for id in &containers {
            let path = cgroup_name::path(node.driver, node.runtime, &plan.qos, &plan.uid, id);
            cgroup = root.join(path);
            fs::create_dir_all(&cgroup)
                .with_context(|| format!("create cgroup {}", cgroup.display()))?;
        }
        let connected = (!plan.host_network).then(|| network.connect()).transpose()?;
        let world = network.world();
        let path =
            cgroup_name::path(node.driver, node.runtime, &plan.qos, &plan.uid, &container_id());
        let pause_cgroup = root.join(path);
        let pause = pause(
            connected.as_ref().map_or_else(|| world.clone(), PodNetwork::path),
            &pause_cgroup,
        )?;
        Ok(Self { network: connected, world, cgroup, pause, pause_cgroup, containers })
    }

    /// Its addresses, that of the node's own family first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.network {
            Some(network) => vec![network.addresses.0.into(), network.addresses.1.into()],
            None => vec![HOST_ADDRESS.into()],
        }
    }

    /// Where its processes shall be.
    pub fn inside(&self) -> Inside {
        let namespace = self.network.as_ref().map_or_else(|| self.world.clone(), PodNetwork::path);
        Inside { namespace, cgroup: self.cgroup.clone() }
    }

    /// Cuts it off, as the death of its node does: nobody is told anything.
    ///
    /// # Errors
    /// When the interface is gone already.
    pub fn cut_off(&self) -> anyhow::Result<()> {
        self.network.as_ref().map_or(Ok(()), PodNetwork::cut)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Some(pod) = self.cgroup.parent() else { return };
        let _ = self.pause.kill();
        let _ = self.pause.wait();
        let _ = fs::remove_dir(&self.pause_cgroup);
        let containers = fs::read_dir(pod).into_iter().flatten().flatten();
        let own = |name: &str| self.containers.iter().any(|id| name.contains(id.as_str()));
        for container in containers.filter(|it| it.file_name().to_str().is_some_and(own)) {
            // One with a process in it goes with the world.
            let _ = fs::remove_dir(container.path());
        }
        let _ = fs::remove_dir(pod);
    }
}

/// Starts the process that holds a pod's namespace, and waits until it is there.
fn pause(namespace: PathBuf, cgroup: &Path) -> anyhow::Result<Child> {
    fs::create_dir_all(cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
    let program = workload::binary()?;
    let inside = Inside { namespace, cgroup: cgroup.to_owned() };
    let mut pause = Command::new(&program)
        .arg("pause")
        .args(inside.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut line = String::new();
    BufReader::new(pause.stdout.take().context("the output of a pause process")?)
        .read_line(&mut line)?;
    ensure!(line.trim() == LISTENING, "a pod's pause process ended: {line:?}");
    Ok(pause)
}

/// As runtimes make them: 32 random bytes.
fn container_id() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
