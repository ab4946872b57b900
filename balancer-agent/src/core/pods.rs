//! Pods of this node: what their cgroups' paths tell, who they are, and which of them are left alone.

pub mod cgroup_path;
pub mod registry;
#[cfg(test)]
mod registry_tests;

use self::cgroup_path::PodCgroup;
use balancer_common::hierarchy::Hierarchy;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Most bytes of a pod's UID. The API server makes UUIDs of 36; kubelet's own for static pods have 32.
const UID_BYTES_MAX: usize = 64;

/// The UID of a pod as its cgroup has it: that of its API object, but for static pods, whose
/// cgroups carry the hash of their manifest (annotation `kubernetes.io/config.hash`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodUid(String);

impl PodUid {
    /// Accepts letters, digits and dashes.
    pub fn new(text: &str) -> Option<Self> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let fits = (1..=UID_BYTES_MAX).contains(&text.len());
        (fits && text.bytes().all(is_fine)).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod that has a cgroup on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// What its cgroup's path tells.
    pub cgroup: PodCgroup,
    /// That path, below the root of cgroup v2.
    pub path: String,
}

/// What cgroupfs tells of this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCgroups {
    /// Where they are; all zero when there is no `kubepods` cgroup.
    pub hierarchy: Hierarchy,
    /// The pods by cgroup id.
    pub pods: BTreeMap<u64, LocalPod>,
}

/// What the API tells of a pod, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodObject {
    /// The UID that its cgroup carries.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it runs in the node's network namespace.
    pub host_network: bool,
    /// The container that is a service mesh's proxy.
    pub mesh_proxy: Option<String>,
    /// What it asked for.
    #[serde(default)]
    pub wishes: Wishes,
}

/// What a pod or a namespace asks for its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// Not to be balanced.
    pub opted_out: bool,
    /// Not to be followed as HTTP/2, nor moved while they live.
    pub http2_off: bool,
}

// === impl Wishes ===

impl Wishes {
    /// What either of two asks for.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            opted_out: self.opted_out || other.opted_out,
            http2_off: self.http2_off || other.http2_off,
        }
    }
}

/// What the API tells of all pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePods {
    /// By the UID that their cgroups carry.
    pub pods: BTreeMap<PodUid, PodObject>,
    /// What namespaces ask for their pods; those that ask for nothing are left out.
    pub namespaces: BTreeMap<String, Wishes>,
}
