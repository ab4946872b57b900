//! Where the cgroups of pods are, so that the kernel tells a client's pod by an ancestor's id.
//!
//! ```text
//! level L      kubepods
//! level L+1    ├── a pod (guaranteed)          ├── burstable           └── besteffort
//! level L+2    │   └── its containers          │   └── a pod               └── a pod
//! ```

use bytemuck::{Pod, Zeroable};

/// Levels that are searched where the level of `kubepods` is not known for sure.
pub const SEARCH_LEVELS_MAX: u32 = 8;

/// The cgroups that kubelet makes for its pods. A record of its own rather than a part of the
/// settings: those are written by whoever traces, too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Hierarchy {
    /// The id of the cgroup that holds all pods; zero when there is none, and each client is told by
    /// its own cgroup.
    pub kubepods: u64,
    /// The id of its child for burstable pods; zero when there is none.
    pub burstable: u64,
    /// The id of its child for best-effort pods; zero when there is none.
    pub besteffort: u64,
    /// The level of `kubepods` below the root of cgroup v2, which is level 0; at least this, when
    /// `search_levels` is not zero.
    pub level: u32,
    /// How many further levels are to be searched for `kubepods`, at most [`SEARCH_LEVELS_MAX`]: in
    /// a cgroup namespace (kind's nodes, for example) the true level is not seen.
    pub search_levels: u32,
    /// Whether any pod is skipped: not zero when [`crate::abi::map::SKIPPED_PODS`] is to be asked.
    pub skipping: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Hierarchy>() == 40 && align_of::<Hierarchy>() == 8);
