//! The word on which all processors that handle a connection's packets agree.
//!
//! Invariants:
//! 1. Who sets [`LOCKED_IN`] by a fetch-or that returns it clear may change the server's track, nobody else;
//!    so for [`LOCKED_OUT`] and the client's.
//! 2. A segment that goes by unlocked, with bytes and unshifted, has set [`MISSED_IN`] first by a fetch-or
//!    that returned [`INJECTED`] clear.
//! 3. [`INJECTED`] is set once, together with the sequence number, by a compare-and-swap of a word in which
//!    [`MISSED_IN`] is clear, by whoever holds [`LOCKED_IN`]. From 2 follows that all bytes before it went
//!    through the track, and that every byte after it is shifted: whoever comes later reads it.
//! 4. The number never changes again, so that shifting needs no lock.
//! 5. An entry leaves its table only with both locks taken, which are not given back. Its memory may then
//!    serve another connection; whoever still points to it finds a lock taken, or another [`tag`].
//! 6. Counters change only under a lock whose taking returned [`CLOSED`] and [`SETTLED`] clear. They are
//!    added to the totals by whoever holds both locks and finds [`SETTLED`] clear, which sets it. Whoever
//!    gives a lock back and finds [`CLOSED`] or [`OPAQUE`] set and [`SETTLED`] clear tries to take both: of all who hold
//!    or try, the last one to give back finds both free.

use super::{flow::Http2Key, shift::Injection};

/// Whoever set this handles a segment from the server.
pub const LOCKED_IN: u64 = 1 << 32;
/// A segment from the server went by without being walked.
pub const MISSED_IN: u64 = 1 << 33;
/// Whoever set this handles a segment from the client.
pub const LOCKED_OUT: u64 = 1 << 34;
/// A segment from the client went by without being walked.
pub const MISSED_OUT: u64 = 1 << 35;
/// The agent wants the connection to move at the next quiet moment; together with [`WANTED_NOW`], at the next
/// calm one.
pub const WANTED: u64 = 1 << 36;
/// The agent wants it to move with streams in flight as well: by itself, at any boundary between frames.
pub const WANTED_NOW: u64 = 1 << 37;
/// The frame was put in; the low half holds where.
pub const INJECTED: u64 = 1 << 38;
/// The client has acknowledged it.
pub const ACKED: u64 = 1 << 39;
/// The client has acknowledged much more than that.
pub const FAR: u64 = 1 << 40;
/// The client's socket is closed.
pub const CLOSED: u64 = 1 << 41;
/// The entry means nothing any more.
pub const DEAD: u64 = 1 << 42;
/// This is no HTTP/2, or comes in a form that is left alone.
pub const OPAQUE: u64 = 1 << 43;
/// The client has ended its bytes.
pub const ENDED: u64 = 1 << 44;
/// The first bytes behind the frame went by, while it was not acknowledged.
pub const PASSED: u64 = 1 << 45;
/// A reset went by, while the frame was not acknowledged; each one turns this round.
pub const RESET: u64 = 1 << 46;

/// Its counters are in the totals, and are not changed any more.
pub const SETTLED: u64 = 1 << 47;

/// Tells connections apart that may follow each other in the same memory.
#[inline(always)]
#[must_use]
pub const fn tag(key: &Http2Key) -> u64 {
    let ports = ((key.client_port_be as u32) << 16) | key.server_port_be as u32;
    let netns = (key.netns as u32) ^ ((key.netns >> 32) as u32);
    let mixed =
        mix(key.client.0).rotate_left(7) ^ mix(key.server.0).rotate_left(13) ^ ports ^ netns;
    ((mixed.wrapping_mul(0x9e37_79b1) >> 16) as u64) << 48
}

#[inline(always)]
const fn mix(words: [u32; 4]) -> u32 {
    words[0] ^ words[1] ^ words[2] ^ words[3]
}

/// The bits that hold the tag.
pub const TAG: u64 = 0xffff << 48;

/// The frame that was put in, if one was.
#[inline(always)]
#[must_use]
pub const fn injection(gate: u64) -> Option<Injection> {
    if gate & INJECTED == 0 {
        return None;
    }
    Some(Injection { seq: gate as u32, acked: gate & ACKED != 0, far: gate & FAR != 0 })
}

/// The word with which a frame is put in before `seq`, or nothing when that is not allowed: another was,
/// bytes have gone by unseen, or the connection ends.
#[inline(always)]
#[must_use]
pub const fn injected(gate: u64, seq: u32) -> Option<u64> {
    const AGAINST: u64 = INJECTED | MISSED_IN | CLOSED | DEAD | OPAQUE | ENDED;
    if gate & AGAINST != 0 || gate & LOCKED_IN == 0 {
        return None;
    }
    Some((gate & !0xffff_ffff) | INJECTED | seq as u64)
}

/// For how long no stream was opened or ended in a calm moment. A client that opens many at a time does so within less.
pub const CALM_NS: u64 = 2_000_000;

/// Whether the agent wants a move at such a moment: no stream is in flight in a quiet one; in a calm one, none
/// was opened or ended for [`CALM_NS`].
#[inline(always)]
#[must_use]
pub const fn is_wanted(gate: u64, is_quiet: bool, is_calm: bool) -> bool {
    match (gate & WANTED != 0, gate & WANTED_NOW != 0) {
        (false, now) => now,
        (true, now) => is_quiet || (now && is_calm),
    }
}
