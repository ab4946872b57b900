//! A flow: one TCP connection made to a frontend, from `connect()` to its end.
//!
//! ```text
//!              established           closed by either side
//! CONNECTING ──────────────> ESTABLISHED ──────────> (removed)
//!      └── refused, timed out, abandoned ──────────────^
//! ```

use crate::address::Address;
use bytemuck::{Pod, Zeroable};

/// `connect()` was sent to a backend; no answer yet.
pub const FLOW_CONNECTING: u32 = 1;
/// The three-way handshake is complete.
pub const FLOW_ESTABLISHED: u32 = 2;

/// The name of a flow state, as commands print it.
pub const fn state_name(state: u32) -> &'static str {
    match state {
        FLOW_CONNECTING => "connecting",
        FLOW_ESTABLISHED => "established",
        _ => "unknown",
    }
}

/// The retransmission timer gave the connection up: its end is a time-out.
pub const FLOW_EXPIRED: u32 = 1;

/// Its first segment was about to be sent: [`crate::abi::map::DIALLING`] no longer counts it, and its
/// socket reports its TCP events.
pub const FLOW_FOLLOWED: u32 = 2;

/// One TCP connection made to a frontend. Keyed by its socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// The client, as [`crate::pod::PodServiceKey::pod`] tells it.
    pub pod: u64,
    /// When `connect()` was called, by `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// The address that the client dialled.
    pub frontend: Address,
    /// The port that the client dialled, network byte order.
    pub frontend_port_be: u16,
    /// The family of the dialled address.
    pub frontend_family: u16,
    /// The service that the frontend stands for.
    pub service: u32,
    /// The backend that the connection went to.
    pub backend: u32,
    /// That backend's incarnation.
    pub incarnation: u32,
    /// `FLOW_CONNECTING` or `FLOW_ESTABLISHED`.
    pub state: u32,
    /// `FLOW_*` flags.
    pub flags: u32,
    /// Smoothed round-trip time of the latest sample, in microseconds.
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Round-trip samples seen since the start or since a segment was sent again.
    pub samples: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Flow>() == 72 && align_of::<Flow>() == 8);
