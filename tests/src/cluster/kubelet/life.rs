//! One pod from its binding to a node until its object is gone.

use super::{Places, container::Container, status};
use crate::cluster::{
    network::Network,
    node::Node,
    sandbox::{Plan, Sandbox},
};
use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// Longest time that the API server may be away.
const AWAY_S_MAX: u64 = 120;
/// Pause before a request is made again.
const AGAIN_MS: u64 = 200;

/// What the API wants of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Whether its readiness probe would succeed.
    pub(super) is_ready: bool,
    /// Its grace period, once it is being deleted.
    pub(super) terminate: Option<Duration>,
    /// Its object is gone, and nobody has told it before.
    pub(super) is_gone: bool,
}

/// What a kubelet asks of the API server for a pod.
#[derive(Clone, Copy)]
enum Request<'a> {
    Status(&'a Value),
    Delete(&'a DeleteParams),
}

/// What a life needs.
pub(super) struct Life {
    pub(super) client: Client,
    pub(super) plan: Plan,
    pub(super) node: Node,
    pub(super) network: Arc<Network>,
    pub(super) cgroups: PathBuf,
    pub(super) places: Places,
    pub(super) wanted: watch::Receiver<Wanted>,
}

impl Life {
    /// Lives it.
    pub(super) async fn live(mut self) -> anyhow::Result<()> {
        let lived = self.live_in_sandbox().await;
        self.places.remove(&self.plan);
        lived
    }

    async fn live_in_sandbox(&mut self) -> anyhow::Result<()> {
        let sandbox = {
            let (plan, node) = (self.plan.clone(), self.node.clone());
            let (network, cgroups) = (Arc::clone(&self.network), self.cgroups.clone());
            spawn_blocking(move || Sandbox::create(&plan, &node, &network, &cgroups)).await??
        };
        let mut container = match self.plan.echo_port {
            Some(port) => Some(Container::echo(&self.plan.name, port, &sandbox.inside()).await?),
            None => None,
        };
        self.places.put(&self.plan, &sandbox);
        if let Some(exit_code) = self.serve(&sandbox, container.as_mut()).await? {
            return self.bury(&sandbox, exit_code).await;
        }
        // The kernel tells nobody of a process that dies behind a cut cable.
        let sandbox = spawn_blocking(|| sandbox.cut_off().map(|()| sandbox)).await??;
        if let Some(mut container) = container {
            container.kill().await?;
        }
        drop(sandbox);
        Ok(())
    }

    /// Returns the exit code, or nothing if the pod's object is gone.
    async fn serve(
        &mut self,
        sandbox: &Sandbox,
        mut container: Option<&mut Container>,
    ) -> anyhow::Result<Option<i32>> {
        loop {
            let wanted = *self.wanted.borrow_and_update();
            match (wanted.terminate, &mut container) {
                _ if wanted.is_gone => return Ok(None),
                (Some(grace), Some(container)) => return container.stop(grace).await.map(Some),
                (Some(_), None) => return Ok(Some(0)),
                (None, _) => {}
            }
            let status = status::running(&self.plan, sandbox, &self.node, wanted.is_ready);
            self.write_status(&status).await?;
            let changed = self.wanted.changed();
            match &mut container {
                None => changed.await?,
                Some(container) => tokio::select! {
                    changed = changed => changed?,
                    // A real kubelet restarts it; here its ReplicaSet makes another one.
                    exit_code = container.ended() => return exit_code.map(Some),
                },
            }
        }
    }

    /// Says that it has ended, and lets the API server forget it.
    async fn bury(&self, sandbox: &Sandbox, exit_code: i32) -> anyhow::Result<()> {
        self.write_status(&status::ended(&self.plan, sandbox, &self.node, exit_code)).await?;
        let uid = Some(self.plan.uid.clone());
        let precondition = Preconditions { uid, ..Preconditions::default() };
        let parameters = DeleteParams::default().grace_period(0).preconditions(precondition);
        self.persist(Request::Delete(&parameters)).await
    }

    async fn write_status(&self, status: &Value) -> anyhow::Result<()> {
        self.persist(Request::Status(status)).await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.plan.namespace)
    }

    /// Makes a request until the API server has answered it.
    async fn persist(&self, request: Request<'_>) -> anyhow::Result<()> {
        let (pods, name) = (self.pods(), &self.plan.name);
        let deadline = Instant::now() + Duration::from_secs(AWAY_S_MAX);
        loop {
            let result = match request {
                Request::Status(status) => {
                    let patch = Patch::Strategic(status);
                    pods.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
                }
                Request::Delete(parameters) => pods.delete(name, parameters).await.map(drop),
            };
            match result {
                Ok(()) => return Ok(()),
                // It is gone, or another one of the same name is there.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the API server stays away");
                }
                Err(_) => sleep(Duration::from_millis(AGAIN_MS)).await,
            }
        }
    }
}
