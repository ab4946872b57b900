//! A backend as the kernel sees it, and what the kernel counts for it.

use crate::address::Address;
use bytemuck::{Pod, Zeroable};

/// The id that no backend has; a slot or record that holds it points at nothing.
pub const BACKEND_NONE: u32 = 0;

/// Takes new connections.
pub const STATE_ACTIVE: u32 = 1;
/// Shuts down: takes no new connections; live ones stay for as long as its service allows.
pub const STATE_DRAINING: u32 = 2;
/// Not asked for now: not ready, or meant for other nodes. Takes no new connections; live ones stay.
pub const STATE_INACTIVE: u32 = 3;
/// Has left its service; kept only while connections to it are counted.
pub const STATE_GONE: u32 = 4;

/// The name of a backend state, as commands and metrics print it.
pub const fn state_name(state: u32) -> &'static str {
    match state {
        STATE_ACTIVE => "active",
        STATE_DRAINING => "draining",
        STATE_INACTIVE => "inactive",
        STATE_GONE => "gone",
        _ => "unknown",
    }
}

/// An address and port that serves. All zero when the id is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Backend {
    /// Where connections go.
    pub address: Address,
    /// Port in network byte order.
    pub port_be: u16,
    /// [`crate::address::FAMILY_V4`] or [`crate::address::FAMILY_V6`].
    pub family: u16,
    /// One of the `STATE_*` values.
    pub state: u32,
    /// The service that this backend belongs to.
    pub service: u32,
    /// Raised each time the id is given to another backend, so that a remembered id is not
    /// mistaken for its successor.
    pub incarnation: u32,
    /// Relative share of connections, from 1.
    pub weight: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Backend>() == 40 && align_of::<Backend>() == 4);

/// What an active backend is called while it is ejected.
pub const EJECTED: &str = "ejected";

/// How long a backend is ejected for its first failed connection attempt; each further one in a row
/// doubles it. As gRPC's clients wait before they dial the same address again (gRPC's "connection
/// backoff": one second at first).
pub const EJECTION_NS: u64 = 1_000_000_000;
/// Doublings after which an ejection grows no longer: 32 seconds.
pub const EJECTION_DOUBLINGS_MAX: u64 = 5;

/// How long the failed attempt that makes them `failures` in a row ejects a backend, in nanoseconds.
pub const fn ejection_ns(failures: u64) -> u64 {
    let doublings = failures.saturating_sub(1);
    let capped =
        if doublings > EJECTION_DOUBLINGS_MAX { EJECTION_DOUBLINGS_MAX } else { doublings };
    EJECTION_NS << capped
}

/// Counters of one backend. The kernel adds to them atomically; only `active` ever falls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendStats {
    /// Connections that were sent here and have not ended: connecting or established.
    pub active: u64,
    /// Times this backend was chosen.
    pub picked: u64,
    /// Passed over until this time (`CLOCK_MONOTONIC`) while another backend serves; zero if it never
    /// failed. Beside the counters, since a pick touches those anyway.
    pub ejected_until_ns: u64,
    /// Failed connection attempts since the latest one that succeeded, but for those that were under
    /// way when it was ejected.
    pub failures: u64,
    /// Times it was ejected.
    pub ejections: u64,
    /// Connections that were established.
    pub established: u64,
    /// Established connections that the client closed.
    pub closed: u64,
    /// Established connections that ended by a reset, a time-out or an abort.
    pub reset: u64,
    /// Connection attempts answered by a reset or refused on the way.
    pub refused: u64,
    /// Connection attempts that ran out of SYN retries or out of `TCP_USER_TIMEOUT`.
    pub timed_out: u64,
    /// Connection attempts that the client gave up before an answer.
    pub abandoned: u64,
    /// Segments sent again on connections to this backend.
    pub retransmits: u64,
    /// Smoothed round-trip time of the latest sample, in microseconds; zero before the first.
    pub srtt_us: u64,
}

const _: () = assert!(size_of::<BackendStats>() == 104 && align_of::<BackendStats>() == 8);

impl BackendStats {
    /// Whether it is passed over at `now_ns` (`CLOCK_MONOTONIC`).
    pub const fn is_ejected(&self, now_ns: u64) -> bool {
        self.ejected_until_ns > now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_double_and_stay_bounded() {
        let seconds = |failures| ejection_ns(failures) / EJECTION_NS;
        let grown: Vec<u64> = (0..9).map(seconds).collect();
        assert_eq!(grown, [1, 1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(seconds(u64::MAX), 32);
    }
}
