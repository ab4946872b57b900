//! One direction of a connection, followed segment by segment, in whatever order they come.
//!
//! Invariant: while a track is neither [`LOST`] nor [`BROKEN`], `grid` is the true position after all
//! bytes up to `grid.next_seq`, whatever the loss, reordering and duplication before it. What comes
//! behind a hole is walked *ahead*, on the supposition that it begins with a frame; only when the hole
//! is filled and ends at a boundary, the supposition is proved and the run ahead is taken over. Nothing
//! is ever guessed into `grid`.

use super::{
    frame::{HEAD_BYTES, Sender},
    grid::{Grid, STARTED},
};
use bytemuck::{Pod, Zeroable};

/// Bytes went by that were not understood: where the frames are is not known any more.
pub const LOST: u32 = 1;
/// These bytes are no HTTP/2.
pub const BROKEN: u32 = 1 << 1;
/// There is a run behind a hole.
pub const AHEAD: u32 = 1 << 2;
/// The sender has ended its bytes, or has been seen to.
pub const FINISHED: u32 = 1 << 3;

/// One direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Track {
    /// The position after everything without a hole.
    pub grid: Grid,
    /// The position after the run behind the hole.
    pub ahead: Grid,
    /// Where that run begins.
    pub ahead_from: u32,
    /// [`LOST`], [`BROKEN`], [`AHEAD`], [`FINISHED`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Track>() == 104 && align_of::<Track>() == 8);

/// Which of its positions a segment goes on from, and how many of its bytes were walked already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Behind the hole.
    pub ahead: bool,
    /// Bytes of the segment to pass over.
    pub known: u32,
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
        let grid = Grid::new(sender, seq);
        Self { grid, ahead: grid, ahead_from: seq, flags: 0 }
    }

    /// Whether the position is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_sync(&self) -> bool {
        self.flags & (LOST | BROKEN) == 0
    }

    /// Whether the head that ends where `grid` stands has been seen in the run ahead already.
    #[inline(always)]
    #[must_use]
    pub const fn is_seen_ahead(&self) -> bool {
        let end = self.grid.next_seq;
        self.flags & AHEAD != 0
            && distance(self.ahead_from, end.wrapping_sub(HEAD_BYTES)) >= 0
            && distance(end, self.ahead.next_seq) >= 0
    }

    /// Whether everything that went by is known, and ends where a frame may be put in.
    #[inline(always)]
    #[must_use]
    pub const fn takes_frame(&self) -> bool {
        self.flags & (LOST | BROKEN | AHEAD | FINISHED) == 0 && self.grid.takes_frame()
    }

    /// Where a segment of `length` bytes belongs, if any of it is new. Marks the track as lost when its
    /// place cannot be known.
    #[inline(always)]
    pub fn place(&mut self, seq: u32, length: u32) -> Option<Place> {
        if !self.is_in_sync() || length == 0 {
            return None;
        }
        let end = seq.wrapping_add(length);
        if distance(self.grid.next_seq, end) <= 0 {
            return None;
        }
        let hole = distance(self.grid.next_seq, seq);
        if hole <= 0 {
            return Some(Place { ahead: false, known: hole.unsigned_abs() });
        }
        if self.grid.payload_left >= hole.unsigned_abs() {
            // The hole lies in one frame's payload, at which nobody looks.
            self.grid.skip(hole.unsigned_abs());
            return Some(Place { ahead: false, known: 0 });
        }
        self.place_ahead(seq, end)
    }

    #[inline(always)]
    fn place_ahead(&mut self, seq: u32, end: u32) -> Option<Place> {
        if self.flags & AHEAD == 0 {
            if self.grid.flags & STARTED == 0 {
                self.flags |= LOST;
                return None;
            }
            self.ahead = Grid::new(Sender::Server, seq);
            self.ahead.flags = STARTED;
            self.ahead.last_stream = self.grid.last_stream;
            self.ahead_from = seq;
            self.flags |= AHEAD;
            return Some(Place { ahead: true, known: 0 });
        }
        if distance(self.ahead_from, seq) < 0 {
            // A second run before the first one.
            self.flags |= LOST;
            return None;
        }
        if distance(self.ahead.next_seq, end) <= 0 {
            return None;
        }
        let hole = distance(self.ahead.next_seq, seq);
        if hole <= 0 {
            return Some(Place { ahead: true, known: hole.unsigned_abs() });
        }
        if self.ahead.payload_left >= hole.unsigned_abs() {
            self.ahead.skip(hole.unsigned_abs());
            return Some(Place { ahead: true, known: 0 });
        }
        self.flags |= LOST;
        None
    }

    /// After the segment at `place` was walked up to sequence number `end`; `valid` unless a step
    /// refused its bytes. Joins the run ahead if there is no hole any more.
    #[inline(always)]
    pub fn walked(&mut self, place: Place, end: u32, valid: bool) {
        let reached = if place.ahead { self.ahead.next_seq } else { self.grid.next_seq };
        if !valid {
            // Ahead, it may be the supposition that was wrong.
            self.flags |= if place.ahead { LOST } else { BROKEN };
        } else if reached == end {
            self.join();
        } else {
            self.flags |= LOST;
        }
    }

    #[inline(always)]
    fn join(&mut self) {
        if self.flags & AHEAD == 0 {
            return;
        }
        let hole = distance(self.grid.next_seq, self.ahead_from);
        if hole > 0 {
            return;
        }
        let left = distance(self.grid.next_seq, self.ahead.next_seq);
        self.flags &= !AHEAD;
        if left <= 0 {
            // Everything of the run came once more, and was walked from what is known.
            return;
        }
        if hole == 0 && self.grid.takes_frame() {
            let last_stream = self.grid.last_stream;
            self.grid = self.ahead;
            if self.grid.last_stream < last_stream {
                self.grid.last_stream = last_stream;
            }
        } else if self.grid.payload_left >= left.unsigned_abs() {
            self.grid.skip(left.unsigned_abs());
        } else {
            self.flags |= LOST;
        }
    }
}
