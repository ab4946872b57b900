//! One direction of a connection, followed segment by segment, in whatever order they come.
//!
//! Invariant: while a track is neither [`LOST`] nor [`BROKEN`], `grid` is the true position after all
//! bytes up to `grid.next_seq`, whatever the loss, reordering and duplication before it. What comes
//! behind a hole is kept ([`super::held`]) until the hole is filled, and walked then. Nothing is ever
//! guessed into `grid`.

use super::{frame::Sender, grid::Grid};
use bytemuck::{Pod, Zeroable};

/// Bytes went by that were not understood: where the frames are is not known any more.
pub const LOST: u32 = 1;
/// Why it is lost: a segment went by while another processor was at work for long.
pub const MISSED: u32 = 1 << 3;
/// Why it is lost: a segment had options of IP, or was a fragment.
pub const UNREADABLE: u32 = 1 << 4;
/// Why it is lost: bytes came behind a hole, and there was no place to keep them in, or none any more.
pub const HOMELESS: u32 = 1 << 5;
/// Why it is lost: too many holes, or too much behind them.
pub const TORN: u32 = 1 << 6;
/// Why it is lost: more frames in one segment than are walked at a time.
pub const CROWDED: u32 = 1 << 7;
/// These bytes are no HTTP/2.
pub const BROKEN: u32 = 1 << 1;
/// The sender has ended its bytes, or has been seen to.
pub const FINISHED: u32 = 1 << 2;

/// One direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Track {
    /// The position after everything without a hole.
    pub grid: Grid,
    /// The place in [`crate::abi::map::HTTP2_HELD`] where bytes behind a hole are kept, counted from one;
    /// zero when there is none.
    pub held: u32,
    /// [`LOST`], [`BROKEN`], [`FINISHED`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Track>() == 56 && align_of::<Track>() == 8);

/// Where a segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is to be walked from here on.
    Next {
        /// Bytes of it to pass over: they were walked already.
        known: u32,
    },
    /// There is a hole before it: it is to be kept.
    Behind,
}

/// How far `b` lies behind `a`; sequence numbers wrap (RFC 9293, section 3.4).
#[inline(always)]
#[must_use]
pub const fn distance(a: u32, b: u32) -> i32 {
    b.wrapping_sub(a).cast_signed()
}

impl Track {
    /// The beginning of what `sender` sends.
    #[inline(always)]
    #[must_use]
    pub const fn new(sender: Sender, seq: u32) -> Self {
        Self { grid: Grid::new(sender, seq), held: 0, flags: 0 }
    }

    /// The position is not known any more, for this reason.
    #[inline(always)]
    pub const fn lose(&mut self, why: u32) {
        self.flags |= LOST | why;
    }

    /// Why the position is not known any more, if it is lost.
    #[must_use]
    pub const fn lost_by(&self) -> Option<&'static str> {
        if self.flags & LOST == 0 {
            return None;
        }
        Some(match self.flags & (MISSED | UNREADABLE | HOMELESS | TORN | CROWDED) {
            MISSED => "a segment went by while another processor was at work",
            UNREADABLE => "IP options or fragments",
            HOMELESS => "no place for bytes behind a loss",
            TORN => "too many losses at a time, or too many bytes behind one",
            CROWDED => "too many frames in one segment",
            _ => "several reasons",
        })
    }

    /// Whether the position is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_sync(&self) -> bool {
        self.flags & (LOST | BROKEN) == 0
    }

    /// Whether everything that went by is known, and ends where a frame may be put in.
    #[inline(always)]
    #[must_use]
    pub const fn takes_frame(&self) -> bool {
        self.flags & (LOST | BROKEN | FINISHED) == 0 && self.held == 0 && self.grid.takes_frame()
    }

    /// Where a segment of `length` bytes belongs, if any of it is new.
    #[inline(always)]
    pub fn place(&mut self, seq: u32, length: u32) -> Option<Place> {
        if !self.is_in_sync() || length == 0 {
            return None;
        }
        if distance(self.grid.next_seq, seq.wrapping_add(length)) <= 0 {
            return None;
        }
        let hole = distance(self.grid.next_seq, seq);
        if hole <= 0 {
            return Some(Place::Next { known: hole.unsigned_abs() });
        }
        if self.grid.payload_left >= hole.unsigned_abs() {
            // The hole lies in one frame's payload, at which nobody looks.
            self.grid.skip(hole.unsigned_abs());
            return Some(Place::Next { known: 0 });
        }
        Some(Place::Behind)
    }

    /// After bytes were walked up to sequence number `end`; `valid` unless a step refused them.
    #[inline(always)]
    pub fn walked(&mut self, end: u32, valid: bool) {
        if !valid {
            self.flags |= BROKEN;
        } else if self.grid.next_seq != end {
            self.lose(CROWDED);
        }
    }

    /// After what was kept was walked as far as it goes; `valid` unless a step refused its bytes, and `ended`
    /// unless there was more than could be walked at once.
    #[inline(always)]
    pub fn drained(&mut self, valid: bool, ended: bool) {
        if !valid {
            self.flags |= BROKEN;
        } else if !ended {
            self.lose(CROWDED);
        }
    }
}
