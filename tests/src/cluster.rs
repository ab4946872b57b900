//! A real Kubernetes control plane for tests, with nodes, kubelets and pods that are played.
//!
//! Everything is in one world: the control plane and the agent in its namespace, on loopback, and
//! the pods in namespaces of their own behind its bridge, with cgroups below its cgroup.

pub mod background;
mod briefly;
pub mod caller;
pub mod certificates;
pub mod cgroup_name;
pub mod control_plane;
pub mod kubeconfig;
pub mod kubelet;
pub mod network;
pub mod node;
pub mod objects;
pub mod sandbox;
pub mod server;
pub mod token;
pub mod version;
pub mod workload;

use self::{
    control_plane::ControlPlane, kubelet::Kubelet, network::Network, node::Node, version::Version,
};
use crate::world::World;
use anyhow::Context;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use std::{
    cell::{Ref, RefCell},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

/// The address of the nodes, as their objects and pods have it.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// A cluster in a world of its own. All of it ends when this is dropped.
pub struct Cluster {
    // Dropped in this order: pods, servers, the threads that serve both, and what they were in.
    kubelet: Kubelet,
    control_plane: RefCell<ControlPlane>,
    runtime: Runtime,
    world: World,
}

impl Cluster {
    /// Starts one with these nodes. The calling thread moves into the world's namespace.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn start(purpose: &str, version: Version, nodes: Vec<Node>) -> anyhow::Result<Self> {
        let started = Self::start_unless(std::future::pending(), purpose, version, nodes)?;
        started.context("nobody gave it up")
    }

    /// The same, given up without a trace when `stop` comes first: that takes seconds.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn start_unless(
        stop: impl Future<Output = ()>,
        purpose: &str,
        version: Version,
        nodes: Vec<Node>,
    ) -> anyhow::Result<Option<Self>> {
        let world = World::new(purpose)?;
        let network = Network::new()?;
        // Its threads inherit the namespace of the thread that makes them.
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("start the runtime")?;
        let directory = world.runtime().join("control-plane");
        let start = async {
            let control_plane = ControlPlane::start(version, &directory).await?;
            for node in &nodes {
                node.register(control_plane.client()).await?;
            }
            let cgroups = world.cgroup().to_owned();
            let kubelet = Kubelet::start(control_plane.client(), nodes, network, cgroups);
            anyhow::Ok((control_plane, kubelet))
        };
        let started = runtime.block_on(async {
            tokio::select! {
                started = start => started.map(Some),
                () = stop => Ok(None),
            }
        })?;
        Ok(started.map(|(control_plane, kubelet)| {
            let control_plane = RefCell::new(control_plane);
            Self { kubelet, control_plane, runtime, world }
        }))
    }

    /// Runs what a test does, on the calling thread.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.control_plane.borrow().client()
    }

    /// Where everything is.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Where the pods are.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// etcd, the API server and the controllers.
    pub fn control_plane(&self) -> Ref<'_, ControlPlane> {
        self.control_plane.borrow()
    }

    /// What the API server says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn server_version(&self) -> anyhow::Result<Info> {
        self.run(self.control_plane.borrow().server_version())
    }

    /// A kubeconfig for exactly the rights of a service account.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        self.run(self.control_plane.borrow().account_kubeconfig(namespace, name))
    }

    /// A token of a service account that is taken for `life` from now on.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn brief_token(
        &self,
        namespace: &str,
        name: &str,
        life: Duration,
    ) -> anyhow::Result<String> {
        self.run(self.control_plane.borrow().brief_token(namespace, name, life))
    }

    /// Ends the API server by SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_api_server(&self) -> anyhow::Result<()> {
        self.control_plane.borrow_mut().kill_api_server()
    }

    /// Ends the controllers by SIGKILL.
    ///
    /// # Errors
    /// When they are not running.
    pub fn kill_controller_manager(&self) -> anyhow::Result<()> {
        self.control_plane.borrow_mut().kill_controller_manager()
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart_api_server(&self) -> anyhow::Result<()> {
        self.run(self.control_plane.borrow_mut().restart_api_server())
    }
}
