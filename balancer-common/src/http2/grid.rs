//! Where in the grid of frames one direction of a connection stands, after every byte so far.
//!
//! ```text
//! preface ──> first SETTINGS ──> (head ──> payload)* ; a block of headers is one run of frames
//! ```
//! A step takes one head, one byte of a head, or one byte of the preface, with the payload before it.
//! Whoever walks a segment repeats [`Grid::step`] until the end; the number of steps is bounded by the
//! segment's length.
//!
//! Of payloads, only numbers that are counted are read, byte by byte: error codes, and the server's first
//! parameters. Each such number is a *unit*.

use super::frame::{
    self, CONTINUATION, FrameHead, GOAWAY, HEAD_BYTES, PREFACE, RST_STREAM, SETTINGS, Sender,
    preface_byte,
};
use bytemuck::{Pod, Zeroable};

/// The first SETTINGS frame was seen: this is HTTP/2.
pub const STARTED: u32 = 1;

/// Parameters that are read of one SETTINGS frame; RFC 9113 knows six.
const PARAMETERS_MAX: u32 = 8;
/// Bytes of a parameter and its value (RFC 9113, section 6.5.1).
const PARAMETER_BYTES: u8 = 6;

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
    /// Bytes of the unit that are still to come; zero when none is read.
    pub unit_left: u8,
    /// The kind of the frame that the unit is of.
    pub unit_kind: u8,
    /// Further units of the same frame.
    pub units_left: u16,
    /// The unit's bytes so far, in the low bits; above are those of the unit before.
    pub unit: u64,
}

const _: () = assert!(size_of::<Grid>() == 48 && align_of::<Grid>() == 8);

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
    /// Whether the grid's unit is whole now.
    pub has_unit: bool,
}

impl Step {
    /// Nothing but bytes.
    #[inline(always)]
    const fn to(at: u32) -> Self {
        Self { at, head: None, has_unit: false }
    }
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
            unit_left: 0,
            unit_kind: 0,
            units_left: 0,
            unit: 0,
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
        if skipped != 0 {
            self.unit_left = 0;
        }
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
            return Ok(Step::to(end));
        }
        if self.preface_left != 0 {
            if bytes.byte(at).ok_or(Invalid)? != preface_byte(self.preface_left) {
                return Err(Invalid);
            }
            self.preface_left -= 1;
            self.next_seq = self.next_seq.wrapping_add(1);
            return Ok(Step::to(at + 1));
        }
        if self.unit_left != 0 && self.payload_left != 0 {
            let has_unit = self.read(bytes.byte(at).ok_or(Invalid)?);
            return Ok(Step { at: at + 1, head: None, has_unit });
        }
        at += self.skip(end - at);
        if at >= end {
            return Ok(Step::to(end));
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
            return Ok(Step::to(at));
        }
        self.enter(sender, &head)?;
        Ok(Step { at, head: Some(head), has_unit: false })
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
        self.begin_units(sender, head);
        self.head = FrameHead { length: 0, stream: 0, kind: 0, flags: 0, filled: 0, reserved: 0 };
        Ok(())
    }

    /// Which numbers of the payload are read.
    #[inline(always)]
    fn begin_units(&mut self, sender: Sender, head: &FrameHead) {
        let (bytes, units) = match (head.kind, sender) {
            (RST_STREAM, _) => (4, 1),
            // The last stream and the error code (RFC 9113, section 6.8).
            (GOAWAY, _) => (8, 1),
            (SETTINGS, Sender::Server) => {
                let parameters = head.length / u32::from(PARAMETER_BYTES);
                let is_many = parameters > PARAMETERS_MAX;
                (PARAMETER_BYTES, if is_many { PARAMETERS_MAX } else { parameters })
            }
            _ => (0, 0),
        };
        self.unit_kind = head.kind;
        self.unit_left = if units == 0 { 0 } else { bytes };
        self.units_left = if units == 0 { 0 } else { (units - 1) as u16 };
        self.unit = 0;
    }

    /// Takes a byte of the unit; whether it is whole now. It stays readable until the next step.
    #[inline(always)]
    fn read(&mut self, byte: u8) -> bool {
        self.unit = (self.unit << 8) | u64::from(byte);
        self.payload_left -= 1;
        self.next_seq = self.next_seq.wrapping_add(1);
        self.unit_left -= 1;
        if self.unit_left != 0 {
            return false;
        }
        if self.units_left != 0 {
            self.units_left -= 1;
            self.unit_left = PARAMETER_BYTES;
        }
        true
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
