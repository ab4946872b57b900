//! A node: its object in the API, and how its kubelet is set up.

use super::cgroup_name::{Driver, Runtime};
use anyhow::Context;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The label that names a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A node whose kubelet is played.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Who manages its cgroups.
    pub driver: Driver,
    /// What runs its containers.
    pub runtime: Runtime,
}

impl Node {
    /// One with systemd and containerd, as most clouds have them.
    pub fn new(name: &str, zone: &str) -> Self {
        let (name, zone) = (name.to_owned(), zone.to_owned());
        Self { name, zone, driver: Driver::default(), runtime: Runtime::default() }
    }

    /// Another manager of cgroups and another container runtime.
    #[must_use]
    pub fn with(mut self, driver: Driver, runtime: Runtime) -> Self {
        (self.driver, self.runtime) = (driver, runtime);
        self
    }

    /// Registers it as its kubelet does: ready, with room for pods.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn register(&self, client: Client) -> anyhow::Result<()> {
        let nodes: Api<NodeObject> = Api::all(client);
        let object: NodeObject = serde_json::from_value(json!({
            "metadata": {"name": self.name, "labels": {
                "kubernetes.io/hostname": self.name,
                "kubernetes.io/os": "linux",
                ZONE: self.zone,
            }},
        }))?;
        let created = nodes.create(&PostParams::default(), &object).await;
        created.with_context(|| format!("create node {}", self.name))?;
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "250"});
        let status = json!({"status": {
            "allocatable": room, "capacity": room,
            "addresses": [{"type": "InternalIP", "address": super::HOST_ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }});
        let patched =
            nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status)).await;
        patched.with_context(|| format!("say that node {} is ready", self.name)).map(drop)
    }
}
