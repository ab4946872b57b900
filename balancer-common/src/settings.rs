//! The one record that says what the pinned maps are and what the kernel programs shall do.

use bytemuck::{Pod, Zeroable};

/// Runtime settings of the kernel programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// [`crate::abi::ABI_VERSION`] of whoever made the maps. Stays the first field for ever.
    pub abi_version: u32,
    /// Kept zero.
    pub reserved: u32,
    /// Decisions are traced until this time (`CLOCK_MONOTONIC`); zero is off. A tracer renews it,
    /// so that one that was killed stops costing anything by itself.
    pub trace_until_ns: u64,
}

const _: () = assert!(size_of::<Settings>() == 16 && align_of::<Settings>() == 8);
