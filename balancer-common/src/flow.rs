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

/// One TCP connection made to a frontend. Found by its socket's cookie.
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

/// Nobody's seat.
pub const SEAT_FREE: u64 = 0;
/// The seat of somebody who is about to sit down. No socket has this cookie: they count from 1.
pub const SEAT_CLAIMED: u64 = u64::MAX;

/// The place of a flow, at the low bits of its socket's cookie. Cookies are handed out in sequence, so
/// that neighbours in time share pages and cache lines, as they would not in a hash table. A flow
/// whose seat is taken goes to [`crate::abi::map::FLOWS`].
///
/// ```text
/// SEAT_FREE ──> SEAT_CLAIMED ──> the cookie of the flow ──> SEAT_FREE
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Seat {
    /// Whose it is. Changed by atomic instructions only: of two that end a flow, one succeeds.
    pub cookie: u64,
    /// Flows of this place that are in [`crate::abi::map::FLOWS`]. Zero spares every other socket of
    /// this place a look into it.
    pub elsewhere: u64,
    /// The flow.
    pub flow: Flow,
}

const _: () = assert!(size_of::<Seat>() == 88 && align_of::<Seat>() == 8);

/// How many seats there are for so many flows: a power of two, up to half of them, but at least one.
pub const fn seats_of(flows: u32) -> u32 {
    if flows < 2 { 1 } else { 1 << (flows / 2).ilog2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_a_power_of_two_and_at_most_half_of_the_flows() {
        let cases =
            [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (16_384, 8_192), (16_385, 8_192)];
        for (flows, seats) in cases {
            assert_eq!(seats_of(flows), seats, "{flows}");
        }
        assert_eq!(seats_of(u32::MAX), 1 << 30);
    }
}
