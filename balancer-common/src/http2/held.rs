//! Segments that came before others which they follow: kept until those are there.
//!
//! Invariant: each byte of a range is a byte that went by with that sequence number. Nothing is concluded
//! from it before everything in front of it is known, be it by its bytes or as payload that nobody reads.

use super::{
    frame::Sender,
    grid::{Bytes, Grid, Invalid, Step},
    track::distance,
};
use bytemuck::{Pod, Zeroable};

/// Bytes behind the last one that is known or needs not be, of which each may be kept: a power of two. The bytes
/// of a place are a ring of so many.
pub const HELD_WINDOW: u32 = 1 << 18;
/// A segment has so many bytes at most. The largest that an interface commonly takes for one has as many
/// (`GSO_LEGACY_MAX_SIZE`, `include/linux/netdevice.h`).
pub const HELD_SEGMENT: u32 = 1 << 16;
/// Holes that are open at a time. Selective acknowledgements tell of four ranges at most (RFC 2018), so
/// that a sender knows of few more.
pub const HELD_RANGES: usize = 8;
/// Set in [`Held::owner`] while a processor uses the place.
pub const HELD_BUSY: u64 = 1 << 63;
/// Whose place this is: bytes of a server, or of a client.
pub const HELD_OF_CLIENT: u64 = 1 << 62;

/// Bytes without a hole, by their sequence numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Range {
    /// The first one's number.
    pub from: u32,
    /// The number behind the last one.
    pub to: u32,
}

/// Which bytes are kept.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ranges {
    /// In no order; empty ones are free.
    pub ranges: [Range; HELD_RANGES],
}

/// A place for bytes of one direction of one connection, which nobody but its owner uses.
#[repr(C)]
#[derive(Zeroable)]
pub struct Held {
    /// The cookie of the client's socket with [`HELD_OF_CLIENT`] and [`HELD_BUSY`]; zero if it is free.
    /// Changed by compare-and-swap.
    pub owner: u64,
    /// When something was kept last, by `CLOCK_MONOTONIC`.
    pub kept_ns: u64,
    /// Which bytes there are.
    pub ranges: Ranges,
    /// The bytes, each where [`Ranges::at`] says; then room for a segment that begins before the ring's end
    /// and is copied whole, before what of it lies beyond is copied to the beginning.
    pub bytes: [u8; HELD_WINDOW as usize + HELD_SEGMENT as usize],
}

const _: () = assert!(
    size_of::<Held>() == 80 + HELD_WINDOW as usize + HELD_SEGMENT as usize
        && align_of::<Held>() == 8
);

/// Where a segment behind a hole is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Where in the ring its first byte belongs, below [`HELD_WINDOW`].
    pub at: u32,
    /// How many bytes it has: one at least, [`HELD_SEGMENT`] at most.
    pub length: u32,
}

/// What is kept, as a walk over it needs it: an offset is [`Ranges::at`] of a sequence number, or up to
/// [`HELD_WINDOW`] and a segment behind it, and means the byte of the ring there.
pub trait Store: Bytes {
    /// Where the range that holds a byte ends, by its sequence number.
    fn end_of(&self, seq: u32) -> Option<u32>;
    /// How many bytes are missing between a sequence number and the nearest range behind it.
    fn hole_at(&self, seq: u32) -> Option<u32>;
}

/// In place of a number that is not there.
pub const NOTHING: u64 = u64::MAX >> 1;

impl Ranges {
    /// Forgets everything.
    #[inline(always)]
    pub fn clear(&mut self) {
        for range in &mut self.ranges {
            *range = Range { from: 0, to: 0 };
        }
    }

    /// Where in the ring the byte with this sequence number belongs.
    #[inline(always)]
    #[must_use]
    pub const fn at(seq: u32) -> u32 {
        seq & (HELD_WINDOW - 1)
    }

    /// Takes a segment of `length` bytes in that begins at `seq`; nothing if there is no room.
    ///
    /// `next_seq` is what is known up to, and `payload_left` how many bytes follow of a payload that nobody
    /// reads. Whatever lies in front of their end is not needed any more, so that others may have its room.
    #[inline(always)]
    pub fn keep(
        &mut self,
        next_seq: u32,
        payload_left: u32,
        seq: u32,
        length: u32,
    ) -> Option<Keep> {
        let off = seq.wrapping_sub(next_seq.wrapping_add(payload_left));
        if off >= HELD_WINDOW || length == 0 || length > HELD_SEGMENT {
            return None;
        }
        if off + length > HELD_WINDOW {
            return None;
        }
        let (keep, to) = (Keep { at: Self::at(seq), length }, seq.wrapping_add(length));
        let mut free = None;
        // VERIFIER: by index, and with little that differs between the turns.
        for index in 0..HELD_RANGES {
            let range = &mut self.ranges[index];
            if range.from == range.to || distance(next_seq, range.to) <= 0 {
                free = Some(index);
            } else if distance(range.from, seq) >= 0 && distance(seq, range.to) >= 0 {
                if distance(range.to, to) > 0 {
                    range.to = to;
                }
                return Some(keep);
            }
        }
        self.ranges[free?] = Range { from: seq, to };
        Some(keep)
    }

    /// Where the range that holds the byte `seq` ends, or [`NOTHING`].
    #[inline(always)]
    #[must_use]
    pub fn end_of(&self, seq: u32) -> u64 {
        for range in &self.ranges {
            if distance(range.from, seq) >= 0 && distance(seq, range.to) > 0 {
                return u64::from(range.to);
            }
        }
        NOTHING
    }

    /// How many bytes are missing from `seq` to the nearest range behind it, or [`NOTHING`].
    #[inline(always)]
    #[must_use]
    pub fn hole_at(&self, seq: u32) -> u64 {
        let mut nearest = NOTHING;
        for range in &self.ranges {
            let off = distance(seq, range.from);
            let hole = u64::from(off.unsigned_abs());
            if range.from != range.to && off > 0 && hole < nearest {
                nearest = hole;
            }
        }
        nearest
    }
}

/// One step over what is kept: on from where `grid` stands. Nothing when it can go no further.
///
/// # Errors
/// [`Invalid`] as of [`Grid::step`].
#[inline(always)]
pub fn step<S: Store>(grid: &mut Grid, sender: Sender, store: &S) -> Result<Option<Step>, Invalid> {
    let (seq, at) = (grid.next_seq, Ranges::at(grid.next_seq));
    if let Some(end) = store.end_of(seq) {
        return grid.step(sender, store, at, at.wrapping_add(end.wrapping_sub(seq))).map(Some);
    }
    match store.hole_at(seq) {
        Some(hole) if hole <= grid.payload_left => {
            grid.skip(hole);
            Ok(Some(Step { at: 0, head: None, has_unit: false }))
        }
        _ => Ok(None),
    }
}
