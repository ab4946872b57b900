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

/// A segment must begin within so many bytes, and have no more itself. The largest that an interface
/// commonly takes for one has as many (`GSO_LEGACY_MAX_SIZE`, `include/linux/netdevice.h`).
pub const HELD_WINDOW: u32 = 1 << 16;
/// Holes that are open at a time. Selective acknowledgements tell of four ranges at most (RFC 2018), so
/// that a sender knows of few more.
pub const HELD_RANGES: usize = 8;
/// Bytes behind the last one, so that a head can be read wherever it begins.
const SPARE_BYTES: usize = 16;
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
    /// The sequence number of the first byte of the place.
    pub base: u32,
    /// Kept zero.
    pub reserved: u32,
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
    /// The bytes.
    pub bytes: [u8; 2 * HELD_WINDOW as usize + SPARE_BYTES],
}

const _: () =
    assert!(size_of::<Held>() == 104 + 2 * HELD_WINDOW as usize && align_of::<Held>() == 8);

/// Where a segment behind a hole is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Where in the place its bytes belong, below [`HELD_WINDOW`].
    pub at: u32,
    /// How many those are: one at least, [`HELD_WINDOW`] at most.
    pub length: u32,
}

/// What is kept, as a walk over it needs it.
pub trait Store: Bytes {
    /// The sequence number of the byte at offset zero.
    fn base(&self) -> u32;
    /// Where the range that holds a byte ends, by its sequence number.
    fn end_of(&self, seq: u32) -> Option<u32>;
    /// How many bytes are missing between a sequence number and the nearest range behind it.
    fn hole_at(&self, seq: u32) -> Option<u32>;
}

/// In place of a number that is not there.
pub const NOTHING: u64 = u64::MAX >> 1;

impl Ranges {
    /// An empty place for what comes behind `grid`. Payload that is known to follow is not kept.
    #[inline(always)]
    pub fn begin(&mut self, grid: &Grid) {
        self.base = grid.next_seq.wrapping_add(grid.payload_left);
        self.reserved = 0;
        for range in &mut self.ranges {
            *range = Range { from: 0, to: 0 };
        }
    }

    /// Takes a segment of `length` bytes in that begins at `seq`; nothing if there is no room. `next_seq` is
    /// what is known up to: ranges in front of it are not needed any more.
    #[inline(always)]
    pub fn keep(&mut self, next_seq: u32, seq: u32, length: u32) -> Option<Keep> {
        let at = seq.wrapping_sub(self.base);
        if at >= HELD_WINDOW || length == 0 || length > HELD_WINDOW {
            return None;
        }
        let (keep, to) = (Keep { at, length }, seq.wrapping_add(length));
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
    let (seq, base) = (grid.next_seq, store.base());
    if let Some(end) = store.end_of(seq) {
        return grid.step(sender, store, seq.wrapping_sub(base), end.wrapping_sub(base)).map(Some);
    }
    match store.hole_at(seq) {
        Some(hole) if hole <= grid.payload_left => {
            grid.skip(hole);
            Ok(Some(Step { at: 0, head: None, has_unit: false }))
        }
        _ => Ok(None),
    }
}
