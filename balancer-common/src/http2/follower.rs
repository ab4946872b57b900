//! One direction followed as the kernel programs do it, in memory of the caller's: what models follow bytes with.

use super::{
    frame::{FrameHead, HEAD_BYTES, Sender},
    grid::{Bytes, Grid, Invalid},
    held::{self, HELD_WINDOW, NOTHING, Ranges, Store},
    track::{Place, TORN, Track},
};

/// Bytes that a follower keeps things in.
pub const KEPT_BYTES: usize = HELD_WINDOW as usize;

/// One direction of a connection, with a place for what comes behind a hole.
#[derive(Debug)]
pub struct Follower<'b> {
    /// Where it stands.
    pub track: Track,
    /// What is kept behind a hole, while the track has a place.
    pub ranges: Ranges,
    sender: Sender,
    bytes: &'b mut [u8],
}

/// What is kept, for a walk over it.
struct Kept<'k>(&'k Ranges, &'k [u8]);

// === impl Follower ===

impl<'b> Follower<'b> {
    /// The beginning of what `sender` sends, with [`KEPT_BYTES`] to keep things in; with fewer, whatever does
    /// not find its place is lost sight of.
    #[must_use]
    pub const fn new(sender: Sender, seq: u32, bytes: &'b mut [u8]) -> Self {
        let ranges = Ranges { ranges: [held::Range { from: 0, to: 0 }; held::HELD_RANGES] };
        Self { track: Track::new(sender, seq), ranges, sender, bytes }
    }

    /// Follows one segment, and tells of each head that is known to be one.
    pub fn follow(&mut self, seq: u32, piece: &[u8], mut found: impl FnMut(&FrameHead)) {
        let length = piece.len() as u32;
        match self.track.place(seq, length) {
            None => {}
            Some(Place::Behind) => self.keep(seq, piece),
            Some(Place::Next { known }) => {
                let valid =
                    walk(&mut self.track.grid, self.sender, &piece[known as usize..], &mut found);
                self.track.walked(seq.wrapping_add(length), valid);
                if self.track.held != 0 && self.track.is_in_sync() {
                    self.drain(found);
                }
            }
        }
    }

    /// Keeps a segment behind a hole.
    pub fn keep(&mut self, seq: u32, piece: &[u8]) {
        if self.track.held == 0 {
            self.ranges = Ranges::default();
            self.track.held = 1;
        }
        let Grid { next_seq, payload_left, .. } = self.track.grid;
        let kept = self.ranges.keep(next_seq, payload_left, seq, piece.len() as u32);
        if kept.is_none_or(|kept| !self.copy(kept.at, piece)) {
            self.track.held = 0;
            self.track.lose(TORN);
        }
    }

    /// Copies a piece to where it belongs in the ring; whether there is memory for it.
    fn copy(&mut self, at: u32, piece: &[u8]) -> bool {
        let first = piece.len().min((HELD_WINDOW - at) as usize);
        for (at, part) in [(at as usize, &piece[..first]), (0, &piece[first..])] {
            let Some(place) = self.bytes.get_mut(at..at + part.len()) else { return false };
            place.copy_from_slice(part);
        }
        true
    }

    fn drain(&mut self, mut found: impl FnMut(&FrameHead)) {
        let store = Kept(&self.ranges, self.bytes);
        let valid = loop {
            match held::step(&mut self.track.grid, self.sender, &store) {
                Ok(Some(step)) => step.head.iter().for_each(&mut found),
                Ok(None) => break true,
                Err(Invalid) => break false,
            }
        };
        self.track.drained(valid, true);
        if !valid || store.hole_at(self.track.grid.next_seq).is_none() {
            self.track.held = 0;
        }
    }
}

/// Walks a piece; whether all of it was valid.
pub fn walk(
    grid: &mut Grid,
    sender: Sender,
    bytes: &[u8],
    mut found: impl FnMut(&FrameHead),
) -> bool {
    let end = bytes.len() as u32;
    let mut at = 0;
    while at < end {
        let Ok(step) = grid.step(sender, &bytes, at, end) else { return false };
        assert!(step.at > at && step.at <= end, "a step goes on, and not beyond");
        at = step.at;
        step.head.iter().for_each(&mut found);
    }
    true
}

impl Store for Kept<'_> {
    fn end_of(&self, seq: u32) -> Option<u32> {
        known(self.0.end_of(seq))
    }

    fn hole_at(&self, seq: u32) -> Option<u32> {
        known(self.0.hole_at(seq))
    }
}

const fn known(number: u64) -> Option<u32> {
    if number == NOTHING { None } else { Some(number as u32) }
}

impl Bytes for Kept<'_> {
    fn byte(&self, at: u32) -> Option<u8> {
        self.1.get(Ranges::at(at) as usize).copied()
    }

    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]> {
        let mut head = [0; HEAD_BYTES as usize];
        for (index, byte) in head.iter_mut().enumerate() {
            *byte = self.byte(at.wrapping_add(index as u32))?;
        }
        Some(head)
    }
}
