//! What is counted of requests: for a live connection, and for all closed connections of a backend.

use bytemuck::{Pod, Zeroable};

/// Buckets of [`Http2Counts::latency`].
pub const LATENCY_BUCKETS: usize = 64;
/// Counters of error codes: [`CODES_KNOWN`] of them, one for all others, one that stays zero.
pub const CODES: usize = 16;
/// Error codes from 0x0 (`NO_ERROR`) to 0xd (`HTTP_1_1_REQUIRED`) (RFC 9113, section 7).
pub const CODES_KNOWN: u32 = 14;

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident, $word:ty) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
        pub struct $name {
            /// Streams that ended by the server's END_STREAM. Changed under `LOCKED_IN`, as all up to
            /// `server_goaways`.
            pub ended: $word,
            /// Streams that ended by the server's RST_STREAM.
            pub reset_by_server: $word,
            /// GOAWAY frames that the server sent by itself.
            pub goaways_by_server: $word,
            /// Kept zero.
            pub reserved: $word,
            /// Of `reset_by_server`, by error code; see [`code_index`]. A code that went by unseen, though
            /// its head was seen, is in none.
            pub server_resets: [$word; CODES],
            /// Of `goaways_by_server`, by error code.
            pub server_goaways: [$word; CODES],
            /// Streams that ended or were reset, by the time since the client's HEADERS; see
            /// [`latency_bucket`]. Changed by atomic additions, since either side ends streams.
            pub latency: [$word; LATENCY_BUCKETS],
            /// Of `reset_by_client`, by error code. Changed under `LOCKED_OUT`, as all that follow.
            pub client_resets: [$word; CODES],
            /// Of `goaways_by_client`, by error code.
            pub client_goaways: [$word; CODES],
            /// Streams that the client opened.
            pub opened: $word,
            /// Those that found no slot: their ends are not seen, and they are never in flight.
            pub uncounted: $word,
            /// Streams that ended by the client's RST_STREAM.
            pub reset_by_client: $word,
            /// GOAWAY frames of the client.
            pub goaways_by_client: $word,
        }

        impl $name {
            /// Streams that are open now.
            #[must_use]
            pub const fn in_flight(&self) -> $word {
                let reset = self.reset_by_client.wrapping_add(self.reset_by_server);
                self.opened.wrapping_sub(self.uncounted).wrapping_sub(self.ended).wrapping_sub(reset)
            }
        }
    };
}

counts!(
    /// Counters of one connection. A connection has less than 2^30 streams, since it has no more ids.
    Http2Counts,
    u32
);
counts!(
    /// The same counters, added up over connections; the kernel adds to them atomically.
    ///
    /// Of connections that are closed, [`Self::in_flight`] are the streams that were still open then.
    Http2Sums,
    u64
);

/// How many counters there are.
pub const COUNTS_WORDS: usize = size_of::<Http2Counts>() / size_of::<u32>();

const _: () = assert!(COUNTS_WORDS == 8 + 4 * CODES + LATENCY_BUCKETS);
const _: () = assert!(size_of::<Http2Sums>() == COUNTS_WORDS * size_of::<u64>());

impl Http2Sums {
    /// Adds a connection's counters.
    pub fn add(&mut self, counts: &Http2Counts) {
        let own = bytemuck::cast_slice_mut::<Self, u64>(core::slice::from_mut(self));
        let other = bytemuck::cast_slice::<Http2Counts, u32>(core::slice::from_ref(counts));
        for (own, other) in own.iter_mut().zip(other) {
            *own = own.wrapping_add(u64::from(*other));
        }
    }

    /// Adds other sums.
    pub fn merge(&mut self, sums: &Self) {
        let own = bytemuck::cast_slice_mut::<Self, u64>(core::slice::from_mut(self));
        let other = bytemuck::cast_slice::<Self, u64>(core::slice::from_ref(sums));
        for (own, other) in own.iter_mut().zip(other) {
            *own = own.wrapping_add(*other);
        }
    }
}

/// A backend of a service. Its incarnation tells it from the one that had its id before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Http2TotalsKey {
    /// The service.
    pub service: u32,
    /// The backend.
    pub backend: u32,
    /// That backend's incarnation.
    pub incarnation: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Http2TotalsKey>() == 16);

/// What the connections of a backend counted whose counting has come to its end: they closed, or could
/// not be followed any more.
///
/// Invariant: a connection is added once, under both of its locks and together with the bit `SETTLED` of
/// its gate, after which it counts nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Http2Totals {
    /// Connections that were added.
    pub connections: u64,
    /// Connections that were not followed, since their pod had too many, or there was no room.
    pub refused: u64,
    /// Bytes that clients sent.
    pub sent_bytes: u64,
    /// Bytes that the backend sent.
    pub received_bytes: u64,
    /// Their counters.
    pub sums: Http2Sums,
}

const _: () = assert!(size_of::<Http2Totals>() == 32 + size_of::<Http2Sums>());

/// The counter of an error code.
#[inline(always)]
#[must_use]
pub const fn code_index(code: u32) -> usize {
    (if code < CODES_KNOWN { code } else { CODES_KNOWN }) as usize
}

/// The name of the error code that a counter is for (RFC 9113, section 7).
#[must_use]
pub const fn code_name(index: usize) -> &'static str {
    const NAMES: [&str; CODES_KNOWN as usize] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    if index < NAMES.len() { NAMES[index] } else { "other" }
}

/// Exponent of the shortest time that is told apart: 2^10 ns.
const LATENCY_EXPONENT: u32 = 10;

/// The bucket of a time: two for each power of two, from 1.024 µs on. The first begins at zero, the last
/// has no end.
#[inline(always)]
#[must_use]
pub const fn latency_bucket(ns: u64) -> usize {
    let units = if ns < 1 << LATENCY_EXPONENT { 1 << LATENCY_EXPONENT } else { ns };
    let exponent = floor_log2(units);
    let half = (units >> (exponent - 1)) & 1;
    let bucket = 2 * (exponent - LATENCY_EXPONENT) as usize + half as usize;
    if bucket < LATENCY_BUCKETS { bucket } else { LATENCY_BUCKETS - 1 }
}

/// Where a bucket ends, in nanoseconds; the next one begins there.
#[must_use]
pub const fn latency_bound_ns(bucket: usize) -> u64 {
    let power = 1 << (LATENCY_EXPONENT as usize + bucket / 2);
    if bucket.is_multiple_of(2) { power + power / 2 } else { power * 2 }
}

/// VERIFIER: without branches, each of which would double the paths behind it.
#[inline(always)]
const fn floor_log2(number: u64) -> u32 {
    // All bits below the highest one, too; then there is one more of them than the exponent.
    let mut bits = number;
    bits |= bits >> 1;
    bits |= bits >> 2;
    bits |= bits >> 4;
    bits |= bits >> 8;
    bits |= bits >> 16;
    bits |= bits >> 32;
    let pairs = bits - ((bits >> 1) & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + ((pairs >> 2) & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_half_powers_of_two() {
        let bounds: Vec<_> = (0..5).map(latency_bound_ns).collect();
        assert_eq!(bounds, [1_536, 2_048, 3_072, 4_096, 6_144]);
        assert_eq!(latency_bucket(0), 0);
        assert_eq!(latency_bucket(1_535), 0);
        assert_eq!(latency_bucket(1_536), 1);
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bound_ns(LATENCY_BUCKETS - 2) / 1_000_000_000 / 60, 54, "minutes");
    }

    #[test]
    fn codes_have_names() {
        assert_eq!(code_name(code_index(0)), "NO_ERROR");
        assert_eq!(code_name(code_index(7)), "REFUSED_STREAM");
        assert_eq!(code_name(code_index(0xd)), "HTTP_1_1_REQUIRED");
        assert_eq!(code_name(code_index(u32::MAX)), "other");
        assert!(code_index(u32::MAX) < CODES);
    }

    #[test]
    fn counters_are_added_field_by_field() {
        let mut counts = Http2Counts::zeroed();
        (counts.opened, counts.ended, counts.latency[63]) = (u32::MAX, 3, 7);
        let mut sums = Http2Sums::zeroed();
        sums.add(&counts);
        sums.add(&counts);
        assert_eq!((sums.opened, sums.ended), (2 * u64::from(u32::MAX), 6));
        assert_eq!(sums.latency[63], 14);
        let mut twice = sums;
        twice.merge(&sums);
        assert_eq!((twice.ended, twice.in_flight()), (12, 4 * u64::from(u32::MAX) - 12));
    }

    proptest! {
        #[test]
        fn a_time_lies_in_its_bucket(exponent in 0u32..42, rest: u64) {
            let ns = (1_u64 << exponent) | (rest & ((1 << exponent) - 1));
            let bucket = latency_bucket(ns);
            prop_assert!(bucket == LATENCY_BUCKETS - 1 || ns < latency_bound_ns(bucket));
            prop_assert!(bucket == 0 || latency_bound_ns(bucket - 1) <= ns);
            prop_assert_eq!(floor_log2(ns), ns.ilog2());
        }
    }
}
