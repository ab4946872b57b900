//! What the kernel is to know of this node's pods: where their cgroups are, and which are skipped.
//!
//! Like the rest of the core, its picture of the kernel changes only by writes that landed, and
//! what is not known yet is left as the kernel has it.

use super::{LocalPod, NodeCgroups, NodePods, PodObject, Wishes};
use balancer_common::{hierarchy::Hierarchy, pod::Skip};
use std::collections::{BTreeMap, BTreeSet};

/// Most pods of which state is to be freed that are remembered; what is beyond is left to the maps,
/// which forget what is least recently used.
const DEPARTED_MAX: usize = 4_096;

/// One write to the kernel's maps about pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodWrite {
    /// Where pods are.
    Hierarchy(Hierarchy),
    /// A pod's connections are left alone.
    Skip {
        /// Its cgroup's id.
        pod: u64,
        /// Why.
        skip: Skip,
    },
    /// A pod is not skipped any more, or has gone.
    SkipRemoved {
        /// Its cgroup's id.
        pod: u64,
    },
}

/// A pod with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its cgroup's id.
    pub id: u64,
    /// What its cgroup tells.
    pub local: &'a LocalPod,
    /// What the API tells; none before it was heard of.
    pub object: Option<&'a PodObject>,
    /// Why it is skipped, as the kernel has it.
    pub skip: Option<Skip>,
    /// What it and its namespace ask for.
    pub wishes: Wishes,
}

/// This node's pods.
#[derive(Debug, Default)]
pub struct Registry {
    /// None before the first scan.
    cgroups: Option<NodeCgroups>,
    /// None before the API has told of all pods; for ever, outside of Kubernetes.
    objects: Option<NodePods>,
    departed: BTreeSet<u64>,
    kernel_hierarchy: Hierarchy,
    kernel_skips: BTreeMap<u64, Skip>,
}

impl Registry {
    /// A registry that takes over what the kernel has.
    pub fn adopt(hierarchy: Hierarchy, skips: BTreeMap<u64, Skip>) -> Self {
        Self { kernel_hierarchy: hierarchy, kernel_skips: skips, ..Self::default() }
    }

    /// Takes in what cgroupfs tells now.
    pub fn observe_cgroups(&mut self, cgroups: NodeCgroups) {
        let known = self.cgroups.iter().flat_map(|known| known.pods.keys());
        self.departed.extend(known.filter(|id| !cgroups.pods.contains_key(id)));
        while self.departed.len() > DEPARTED_MAX {
            self.departed.pop_first();
        }
        self.cgroups = Some(cgroups);
    }

    /// Takes in what the API tells now.
    pub fn observe_pods(&mut self, pods: NodePods) {
        self.objects = Some(pods);
    }

    /// Pods that have gone since the last call, whose state in the kernel can be freed.
    pub fn take_departed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.departed)
    }

    /// Every pod that has a cgroup.
    pub fn pods(&self) -> impl Iterator<Item = Known<'_>> {
        let pods = self.cgroups.iter().flat_map(|cgroups| &cgroups.pods);
        pods.map(|(id, local)| {
            let object = self.object(local);
            let wishes = |object| self.objects.as_ref().map(|objects| objects.wishes(object));
            let skip = self.kernel_skips.get(id).copied();
            let wishes = object.and_then(wishes).unwrap_or_default();
            Known { id: *id, local, object, skip, wishes }
        })
    }

    /// How many pods have a cgroup, by how the kernel treats their connections.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::from(["balanced", "mesh-proxy", "opted-out"].map(|it| (it, 0)));
        for pod in self.pods() {
            let treatment = match pod.skip {
                None => "balanced",
                Some(skip) if skip == Skip::MESH_PROXY => "mesh-proxy",
                Some(_) => "opted-out",
            };
            *counts.entry(treatment).or_default() += 1;
        }
        counts
    }

    /// The path of a pod's cgroup below the root of cgroup v2.
    pub fn path(&self, pod: u64) -> Option<&str> {
        Some(&self.cgroups.as_ref()?.pods.get(&pod)?.path)
    }

    /// Whether the API has told of this node's pods.
    pub const fn knows_objects(&self) -> bool {
        self.objects.is_some()
    }

    fn object(&self, local: &LocalPod) -> Option<&PodObject> {
        self.objects.as_ref()?.pods.get(&local.cgroup.uid)
    }

    /// The writes that bring the kernel to what is wanted, in an order that never skips a pod for
    /// no reason: the flag that lets programs look goes up after the first entry, down before the last.
    pub fn plan(&self) -> Vec<PodWrite> {
        let Some(cgroups) = &self.cgroups else {
            return Vec::new();
        };
        let wanted = self.wanted_skips(cgroups);
        let hierarchy = Hierarchy { skipping: u32::from(!wanted.is_empty()), ..cgroups.hierarchy };
        let mut writes: Vec<_> = wanted
            .iter()
            .filter(|(pod, skip)| self.kernel_skips.get(*pod) != Some(*skip))
            .map(|(pod, skip)| PodWrite::Skip { pod: *pod, skip: *skip })
            .collect();
        if hierarchy != self.kernel_hierarchy {
            writes.push(PodWrite::Hierarchy(hierarchy));
        }
        let unwanted = self.kernel_skips.keys().filter(|pod| !wanted.contains_key(pod));
        writes.extend(unwanted.map(|pod| PodWrite::SkipRemoved { pod: *pod }));
        writes
    }

    /// Tells that a write has landed.
    pub fn landed(&mut self, write: PodWrite) {
        match write {
            PodWrite::Hierarchy(hierarchy) => self.kernel_hierarchy = hierarchy,
            PodWrite::Skip { pod, skip } => {
                self.kernel_skips.insert(pod, skip);
            }
            PodWrite::SkipRemoved { pod } => {
                self.kernel_skips.remove(&pod);
            }
        }
    }

    fn wanted_skips(&self, cgroups: &NodeCgroups) -> BTreeMap<u64, Skip> {
        let Some(objects) = &self.objects else {
            // Not told yet: pods that were skipped are, as long as they live.
            let kept = self.kernel_skips.iter().filter(|(pod, _)| cgroups.pods.contains_key(pod));
            return kept.map(|(pod, skip)| (*pod, *skip)).collect();
        };
        let pods = cgroups.pods.iter();
        pods.filter_map(|(id, local)| {
            Some((*id, objects.skip(objects.pods.get(&local.cgroup.uid)?)?))
        })
        .collect()
    }
}

impl NodePods {
    /// What a pod and its namespace ask for.
    fn wishes(&self, pod: &PodObject) -> Wishes {
        pod.wishes.or(self.namespaces.get(&pod.namespace).copied().unwrap_or_default())
    }

    /// Why a pod is to be skipped. Its owner's wish is told before what was found in it.
    fn skip(&self, pod: &PodObject) -> Option<Skip> {
        if self.wishes(pod).opted_out {
            Some(Skip::OPTED_OUT)
        } else {
            pod.mesh_proxy.as_ref().map(|_| Skip::MESH_PROXY)
        }
    }
}
