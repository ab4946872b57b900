//! What the kernel knows of a pod: whether it is skipped, its cursors and session affinities.

use crate::reason::Reason;
use bytemuck::{Pod, Zeroable};

/// Key of a pod's memory of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PodServiceKey {
    /// The cgroup (v2) id of the client: its pod's, or of a client outside all pods its own.
    pub pod: u64,
    /// The service.
    pub service: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<PodServiceKey>() == 16 && align_of::<PodServiceKey>() == 8);

/// Why a pod's connections are left alone, in [`crate::abi::map::SKIPPED_PODS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Skip {
    /// The code of [`Reason::PodOptedOut`] or [`Reason::MeshProxy`].
    pub reason: u32,
}

const _: () = assert!(size_of::<Skip>() == 4 && align_of::<Skip>() == 4);

impl Skip {
    /// For a pod that, or whose namespace, asked for it.
    pub const OPTED_OUT: Self = Self { reason: Reason::PodOptedOut as u32 };
    /// For a pod with a service mesh's proxy inside.
    pub const MESH_PROXY: Self = Self { reason: Reason::MeshProxy as u32 };

    /// What a connection that is skipped counts as. Every other code counts as the pod's wish.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs must not call out for a compare")]
    pub const fn reason(self) -> Reason {
        if self.reason == Self::MESH_PROXY.reason { Reason::MeshProxy } else { Reason::PodOptedOut }
    }
}

/// The backend that a pod keeps (Kubernetes `sessionAffinity: ClientIP`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Affinity {
    /// When the pod last connected, by `CLOCK_MONOTONIC`.
    pub used_ns: u64,
    /// The backend that was chosen.
    pub backend: u32,
    /// That backend's incarnation; another one means that the id was given away.
    pub incarnation: u32,
}

const _: () = assert!(size_of::<Affinity>() == 16 && align_of::<Affinity>() == 8);

impl Affinity {
    /// Whether the affinity still holds at `now_ns` for a timeout of `affinity_s` seconds.
    ///
    /// Kubernetes' `sessionAffinityConfig.clientIP.timeoutSeconds` counts from the client's last
    /// connection, so each use renews it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs must not call out for a compare")]
    pub const fn holds(&self, now_ns: u64, affinity_s: u32) -> bool {
        now_ns.wrapping_sub(self.used_ns) < affinity_s as u64 * 1_000_000_000
    }
}
