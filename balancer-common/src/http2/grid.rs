//! Where in the grid of frames one direction of a connection stands, after every byte so far.
//!
//! ```text
//! preface ──> first SETTINGS ──> (head ──> payload)* ; a block of headers is one run of frames
//! ```
//! A step takes one head, one byte of a head, or one byte of the preface, with the payload before it.
//! Whoever walks a segment repeats [`Grid::step`] until the end; the number of steps is bounded by the
//! segment's length.

use super::frame::{
    self, CONTINUATION, FrameHead, HEAD_BYTES, PREFACE, SETTINGS, Sender, preface_byte,
};
use bytemuck::{Pod, Zeroable};

/// The first SETTINGS frame was seen: this is HTTP/2.
pub const STARTED: u32 = 1;

/// A position in the grid of frames.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Grid {
    /// TCP sequence number of the next byte.
    pub next_seq: u32,
    /// Bytes of the preface that are still to come.
    pub preface_left: u32,
    /// Bytes of the current frame's payload that are still to come.
    pub payload_left: u32,
    /// The stream whose block of headers is open; zero when none is.
    pub block: u32,
    /// Bytes of a head that was cut by the end of a segment.
    pub head: FrameHead,
    /// The highest stream that a HEADERS frame was seen for.
    pub last_stream: u32,
    /// [`STARTED`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Grid>() == 36 && align_of::<Grid>() == 4);

/// Reads bytes of a segment.
pub trait Bytes {
    /// The byte at an offset.
    fn byte(&self, at: u32) -> Option<u8>;
    /// The nine bytes from an offset on.
    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]>;
}

/// The bytes are not what a peer may send, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the next step begins.
    pub at: u32,
    /// A head that is whole now.
    pub head: Option<FrameHead>,
}

impl Grid {
    /// The beginning of what `sender` sends, whose first byte has the sequence number `seq`.
    #[inline(always)]
    #[must_use]
    pub const fn new(sender: Sender, seq: u32) -> Self {
        let preface_left = match sender {
            Sender::Client => PREFACE.len() as u32,
            Sender::Server => 0,
        };
        Self {
            next_seq: seq,
            preface_left,
            payload_left: 0,
            block: 0,
            head: FrameHead { length: 0, stream: 0, kind: 0, flags: 0, filled: 0, reserved: 0 },
            last_stream: 0,
            flags: 0,
        }
    }

    /// Whether a frame begins with the next byte.
    #[inline(always)]
    #[must_use]
    pub const fn is_at_boundary(&self) -> bool {
        self.preface_left == 0 && self.payload_left == 0 && self.head.filled == 0
    }

    /// Whether a frame of any kind may be put in before the next byte.
    #[inline(always)]
    #[must_use]
    pub const fn takes_frame(&self) -> bool {
        // "Any number of CONTINUATION frames can be sent, as long as the preceding frame is on the
        // same stream …" (RFC 9113, section 6.10): nothing may come in between.
        self.is_at_boundary() && self.block == 0 && self.flags & STARTED != 0
    }

    /// Passes over payload without looking at it; returns how many bytes that were.
    #[inline(always)]
    pub fn skip(&mut self, bytes: u32) -> u32 {
        let skipped = if bytes < self.payload_left { bytes } else { self.payload_left };
        self.payload_left -= skipped;
        self.next_seq = self.next_seq.wrapping_add(skipped);
        skipped
    }

    /// One step over a segment's bytes `at..end`.
    ///
    /// # Errors
    /// [`Invalid`] when this is no HTTP/2, or the end of it.
    #[inline(always)]
    pub fn step<B: Bytes>(
        &mut self,
        sender: Sender,
        bytes: &B,
        at: u32,
        end: u32,
    ) -> Result<Step, Invalid> {
        let mut at = at;
        if at >= end {
            return Ok(Step { at: end, head: None });
        }
        if self.preface_left != 0 {
            if bytes.byte(at).ok_or(Invalid)? != preface_byte(self.preface_left) {
                return Err(Invalid);
            }
            self.preface_left -= 1;
            self.next_seq = self.next_seq.wrapping_add(1);
            return Ok(Step { at: at + 1, head: None });
        }
        at += self.skip(end - at);
        if at >= end {
            return Ok(Step { at: end, head: None });
        }
        let (head, taken) = if self.head.filled == 0 && end - at >= HEAD_BYTES {
            (FrameHead::parse(bytes.head(at).ok_or(Invalid)?), HEAD_BYTES)
        } else {
            (self.head.with(bytes.byte(at).ok_or(Invalid)?), 1)
        };
        self.next_seq = self.next_seq.wrapping_add(taken);
        at += taken;
        if u32::from(head.filled) < HEAD_BYTES {
            self.head = head;
            return Ok(Step { at, head: None });
        }
        self.enter(sender, &head)?;
        Ok(Step { at, head: Some(head) })
    }

    /// Begins a frame whose head is whole.
    #[inline(always)]
    fn enter(&mut self, sender: Sender, head: &FrameHead) -> Result<(), Invalid> {
        if !head.is_allowed(sender) {
            return Err(Invalid);
        }
        if self.flags & STARTED == 0 {
            // "This sequence MUST be followed by a SETTINGS frame", and "the server connection preface
            // consists of a potentially empty SETTINGS frame" (RFC 9113, section 3.4).
            if head.kind != SETTINGS || head.flags & frame::ACK != 0 {
                return Err(Invalid);
            }
            self.flags |= STARTED;
        }
        let goes_on = head.kind == CONTINUATION;
        if goes_on != (self.block != 0) || (goes_on && head.stream != self.block) {
            return Err(Invalid);
        }
        self.block = if head.leaves_block_open() { head.stream } else { 0 };
        self.payload_left = head.length;
        self.head = FrameHead { length: 0, stream: 0, kind: 0, flags: 0, filled: 0, reserved: 0 };
        Ok(())
    }
}

impl Bytes for &[u8] {
    fn byte(&self, at: u32) -> Option<u8> {
        self.get(at as usize).copied()
    }

    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]> {
        let from = at as usize;
        self.get(from..from + HEAD_BYTES as usize)?.try_into().ok()
    }
}
