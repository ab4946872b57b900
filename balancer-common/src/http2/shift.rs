//! The move: one GOAWAY frame is put into the server's bytes, and sequence numbers are shifted by its length.
//!
//! ```text
//! normal ──wanted──> unacked ──the client acknowledges the frame──> acked ──512 MiB later──> far
//! ```
//! Server and client number the bytes alike up to `seq`. There, only the client has seventeen more.
//! Until they are acknowledged, each segment that ends at `seq` carries them, and none crosses it.

use super::track::distance;

/// GOAWAY, "the last stream identifier set to 2^31-1 and a NO_ERROR code" (RFC 9113, section 6.8): the
/// client finishes its streams here and opens new ones elsewhere.
pub const FRAME: [u8; FRAME_BYTES as usize] =
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// Length of [`FRAME`].
pub const FRAME_BYTES: u32 = 17;

/// From where on numbers are shifted without being compared. A window is at most 2^30 bytes (RFC 7323,
/// section 2.3), so that nothing from before the frame is on its way any more, while nothing is 2^31 bytes
/// off, where comparisons turn round.
pub const FAR_BYTES: i32 = 1 << 29;

/// Sum of the frame's 16-bit words (RFC 1071), for a frame at an even or an odd offset.
#[inline(always)]
#[must_use]
pub const fn frame_sum(odd: bool) -> u32 {
    const EVEN: u32 = sum(false);
    const ODD: u32 = sum(true);
    if odd { ODD } else { EVEN }
}

const fn sum(odd: bool) -> u32 {
    let mut padded = [0_u8; 20];
    let mut index = 0;
    while index < FRAME.len() {
        padded[index + odd as usize] = FRAME[index];
        index += 1;
    }
    let mut total = 0;
    index = 0;
    while index < padded.len() {
        total += u16::from_ne_bytes([padded[index], padded[index + 1]]) as u32;
        index += 2;
    }
    total
}

/// A frame that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Sequence number of the server's byte behind the frame.
    pub seq: u32,
    /// The client has acknowledged the frame.
    pub acked: bool,
    /// The client has acknowledged [`FAR_BYTES`] more.
    pub far: bool,
}

/// A segment from the server, as the server numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first byte's number.
    pub seq: u32,
    /// Bytes of payload.
    pub length: u32,
    /// It ends the server's bytes.
    pub fin: bool,
    /// It ends the connection at once.
    pub rst: bool,
    /// Its like went by before.
    pub again: bool,
    /// Most bytes of payload that it may have when it is changed.
    pub room: u32,
}

/// What becomes of a segment from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Nothing.
    Pass,
    /// Its number is raised by the frame's length.
    Shift,
    /// It keeps this many bytes, and no end of the server's bytes if that is cut off; then the frame
    /// follows, if `frame` says so.
    Keep {
        /// Bytes of payload that stay.
        length: u32,
        /// Whether the frame follows.
        frame: bool,
    },
}

impl Injection {
    /// What becomes of a segment from the server.
    #[inline(always)]
    #[must_use]
    pub const fn inbound(self, segment: &Segment) -> Inbound {
        if self.far {
            return Inbound::Shift;
        }
        let start = distance(self.seq, segment.seq);
        let end = distance(self.seq, segment.seq.wrapping_add(segment.length));
        if self.acked {
            // What ends at the frame is old, but for a bare acknowledgement and the end of the bytes: those
            // have the number of the next byte. What crosses it is old up to there, so that the number
            // counts that its new bytes get.
            let is_next = end == 0 && (segment.length == 0 || segment.fin || segment.rst);
            return if end > 0 || is_next { Inbound::Shift } else { Inbound::Pass };
        }
        if segment.rst {
            // Its number must be the very one that the client waits for (RFC 5961, section 3.2). If the
            // first guess was wrong the client asks, and is answered with another.
            return if start >= 0 && !segment.again { Inbound::Shift } else { Inbound::Pass };
        }
        if end < 0 {
            return Inbound::Pass;
        }
        if start > 0 || (start == 0 && segment.length > 0 && !segment.again) {
            return Inbound::Shift;
        }
        // It ends at the frame or crosses it; or it is what comes first behind the frame, once more: then
        // the client misses the frame.
        let length = start.unsigned_abs();
        if length + FRAME_BYTES <= segment.room {
            Inbound::Keep { length, frame: true }
        } else if length > segment.room {
            Inbound::Keep { length: segment.room, frame: false }
        } else {
            // A part of it makes way; the server sends the rest once more.
            Inbound::Keep { length: length / 2, frame: false }
        }
    }

    /// The server's number for what the client acknowledges, or for an edge of what it has beyond that.
    #[inline(always)]
    #[must_use]
    pub const fn outbound(self, ack: u32) -> u32 {
        let beyond = distance(self.seq, ack);
        if self.far || beyond >= FRAME_BYTES.cast_signed() {
            ack.wrapping_sub(FRAME_BYTES)
        } else if beyond > 0 {
            self.seq
        } else {
            ack
        }
    }

    /// This, after the client acknowledged `ack` by its own numbers.
    #[inline(always)]
    #[must_use]
    pub const fn acknowledged(self, ack: u32) -> Self {
        let beyond = distance(self.seq, ack);
        Self {
            seq: self.seq,
            acked: self.acked || beyond >= FRAME_BYTES.cast_signed(),
            far: self.far || beyond >= FAR_BYTES,
        }
    }
}

/// Whether the client's window, as far as it is known, has room up to `end`. Of the window's scale (RFC
/// 7323, section 2.2) only what the server has shown to use is known.
#[inline(always)]
#[must_use]
pub const fn has_room(client_ack: u32, window: u32, scale: u32, end: u32) -> bool {
    distance(client_ack, end) <= (window << (scale & 15)).cast_signed()
}

/// The scale that the client's window must have, given that the server has sent up to `end`.
#[inline(always)]
#[must_use]
pub const fn scale_shown(client_ack: u32, window: u32, scale: u32, end: u32) -> u32 {
    // "the maximum scale exponent is limited to 14" (RFC 7323, section 2.3).
    if scale < 14 && window != 0 && !has_room(client_ack, window, scale, end) {
        scale + 1
    } else {
        scale
    }
}

const _: () = assert!(FRAME.len() == FRAME_BYTES as usize);
