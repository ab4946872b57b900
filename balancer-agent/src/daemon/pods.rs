//! The pods of this node: from what cgroupfs and the API tell to what the kernel is to know of them.

use super::{Daemon, Options};
use crate::{
    admin::PodStatus,
    core::pods::{
        NodePods,
        registry::{Known, Registry},
    },
    datapath::{cgroup, maps::Maps},
    sources::{
        kubernetes::pods::Told,
        pods::{
            CgroupSource,
            scan::{Places, Scan, scan},
        },
    },
};
use anyhow::Context;
use std::sync::Arc;
use tokio::sync::watch;

/// The registry, and how it fares with the maps.
pub(super) struct Pods {
    pub(super) registry: Registry,
    /// The last refusal of the kernel, so that it is logged once.
    failing: Option<String>,
}

/// Looks at the cgroups of pods, and starts to follow them.
pub(super) fn watch_cgroups(options: &Options) -> anyhow::Result<watch::Receiver<Arc<Scan>>> {
    let places = Places { root: cgroup::root()?, balanced: options.cgroup.clone() };
    // Programs that take over know the pods from their first run on.
    let first = scan(&places, None).context("read the cgroups of pods")?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(CgroupSource::new(places).run(sender));
    Ok(receiver)
}

impl Pods {
    /// Takes over what the maps hold.
    pub(super) fn adopt(maps: &Maps) -> anyhow::Result<Self> {
        let hierarchy = maps.read_hierarchy().context("read where pods are")?;
        let skips = maps.read_skips().context("read which pods are skipped")?;
        Ok(Self { registry: Registry::adopt(hierarchy, skips), failing: None })
    }

    /// Takes in the picture of the cgroups.
    pub(super) fn cgroups_changed(
        &mut self,
        pictures: &mut watch::Receiver<Arc<Scan>>,
        maps: &mut Maps,
    ) {
        let cgroups = pictures.borrow_and_update().cgroups.clone();
        self.registry.observe_cgroups(cgroups);
        self.settle(maps);
    }

    /// Takes in what the API tells.
    pub(super) fn objects_changed(&mut self, told: &mut watch::Receiver<Told>, maps: &mut Maps) {
        if let Some(pods) = &*told.borrow_and_update() {
            self.registry.observe_pods(NodePods::clone(pods));
        }
        self.settle(maps);
    }

    /// Frees what is remembered of pods that have gone, and tries again what failed.
    pub(super) fn sweep(&mut self, maps: &mut Maps) {
        let departed = self.registry.take_departed();
        if !departed.is_empty() {
            match maps.forget_pods(&departed) {
                Ok(entries) => tracing::debug!(pods = departed.len(), entries, "pods forgotten"),
                // What stays is forgotten by the maps themselves when they need the room.
                Err(error) => tracing::warn!(%error, "forget pods that have gone"),
            }
        }
        self.settle(maps);
    }

    /// Every pod that has a cgroup, for commands.
    pub(super) fn status(&self) -> Vec<PodStatus> {
        let status = |pod: Known<'_>| PodStatus {
            id: pod.id,
            path: pod.local.path.clone().into(),
            uid: pod.local.cgroup.uid.clone(),
            qos: pod.local.cgroup.qos,
            object: pod.object.cloned(),
        };
        self.registry.pods().map(status).collect()
    }

    fn settle(&mut self, maps: &mut Maps) {
        for write in self.registry.plan() {
            if let Err(error) = maps.write_pod(write) {
                let error = error.to_string();
                if self.failing.as_ref() != Some(&error) {
                    tracing::error!(error, "it will be tried again");
                    self.failing = Some(error);
                }
                return;
            }
            self.registry.landed(write);
        }
        if self.failing.take().is_some() {
            tracing::info!("writes about pods work again");
        }
    }
}

// === impl Daemon ===

impl Daemon {
    /// Cgroups of pods have come or gone.
    pub(super) fn cgroups_changed(&mut self, pictures: &mut watch::Receiver<Arc<Scan>>) {
        self.pods.cgroups_changed(pictures, &mut self.engine.maps);
        self.pods_changed();
    }

    /// The API has told of this node's pods.
    pub(super) fn pod_objects_changed(&mut self, told: &mut watch::Receiver<Told>) {
        self.pods.objects_changed(told, &mut self.engine.maps);
        self.pods_changed();
    }
}
