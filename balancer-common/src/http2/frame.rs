//! The nine bytes before each frame's payload, and which of them no peer may send (RFC 9113).

use bytemuck::{Pod, Zeroable};

/// Length of a frame head (RFC 9113, section 4.1).
pub const HEAD_BYTES: u32 = 9;

/// What every client sends first (RFC 9113, section 3.4).
pub const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a stream's message.
pub const DATA: u8 = 0;
/// Opens a stream, or carries its trailers.
pub const HEADERS: u8 = 1;
/// Advice that nobody follows any more.
pub const PRIORITY: u8 = 2;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Parameters of the connection.
pub const SETTINGS: u8 = 4;
/// Announces a stream of the server's own.
pub const PUSH_PROMISE: u8 = 5;
/// Asks for a sign of life.
pub const PING: u8 = 6;
/// Announces that no new streams are taken.
pub const GOAWAY: u8 = 7;
/// Allows more bytes to be sent.
pub const WINDOW_UPDATE: u8 = 8;
/// Goes on with a block of headers.
pub const CONTINUATION: u8 = 9;

/// On DATA and HEADERS: the sender's last frame of the stream.
pub const END_STREAM: u8 = 1;
/// On SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// On HEADERS, PUSH_PROMISE and CONTINUATION: the block of headers ends here.
pub const END_HEADERS: u8 = 4;

/// A frame head, or the first bytes of one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FrameHead {
    /// Bytes of payload; 24 bits.
    pub length: u32,
    /// The stream; 31 bits, zero for the connection itself.
    pub stream: u32,
    /// One of this module's kinds, or one that it does not know.
    pub kind: u8,
    /// Flags, whose meaning depends on the kind.
    pub flags: u8,
    /// How many bytes of the head have been seen; [`HEAD_BYTES`] when it is whole.
    pub filled: u8,
    /// Kept zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<FrameHead>() == 12 && align_of::<FrameHead>() == 4);

/// Which end of the connection sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The one that opened the connection.
    Client,
    /// The one that accepted it.
    Server,
}

impl FrameHead {
    /// The head that these bytes are.
    #[inline(always)]
    #[must_use]
    pub const fn parse(bytes: [u8; HEAD_BYTES as usize]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            // "A reserved 1-bit field. … MUST be ignored when receiving" (RFC 9113, section 4.1).
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            kind,
            flags,
            filled: HEAD_BYTES as u8,
            reserved: 0,
        }
    }

    /// This partial head with one more byte.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, byte: u8) -> Self {
        let mut head = self;
        match self.filled {
            0..=2 => head.length = (head.length << 8) | byte as u32,
            3 => head.kind = byte,
            4 => head.flags = byte,
            5 => head.stream = (byte & 0x7f) as u32,
            _ => head.stream = (head.stream << 8) | byte as u32,
        }
        head.filled += 1;
        head
    }

    /// Whether the sender's last frame of its stream begins here.
    #[inline(always)]
    #[must_use]
    pub const fn ends_stream(&self) -> bool {
        (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0
    }

    /// Whether a block of headers goes on after this frame.
    #[inline(always)]
    #[must_use]
    pub const fn leaves_block_open(&self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION) && self.flags & END_HEADERS == 0
    }

    /// Whether `sender` may send this frame at all. What may not be sent ends the connection by the
    /// other side's decision, or shows that these bytes are no HTTP/2.
    #[inline(always)]
    #[must_use]
    pub const fn is_allowed(&self, sender: Sender) -> bool {
        let on_stream = self.stream != 0;
        let length = self.length;
        match self.kind {
            // "If a DATA [HEADERS, CONTINUATION] frame is received whose Stream Identifier field is
            // 0x00, the recipient MUST respond with a connection error" (sections 6.1, 6.2, 6.10).
            DATA | HEADERS | CONTINUATION => on_stream,
            // Sections 6.3, 6.4 and 6.9 fix these lengths.
            PRIORITY => on_stream && length == 5,
            RST_STREAM => on_stream && length == 4,
            WINDOW_UPDATE => length == 4,
            // "A receipt of a SETTINGS frame with the ACK flag set and a length field value other
            // than 0 MUST be treated as a connection error" (section 6.5).
            SETTINGS => {
                !on_stream && length.is_multiple_of(6) && (self.flags & ACK == 0 || length == 0)
            }
            // "A client cannot push" (section 8.4).
            PUSH_PROMISE => on_stream && length >= 4 && matches!(sender, Sender::Server),
            PING => !on_stream && length == 8,
            GOAWAY => !on_stream && length >= 8,
            // "Implementations MUST ignore and discard frames of unknown types" (section 5.5).
            _ => true,
        }
    }
}

/// The byte of the client's preface of which `left` are still to come.
#[inline(always)]
#[must_use]
pub const fn preface_byte(left: u32) -> u8 {
    // VERIFIER: three words and shifts instead of an index into a table, which would be a map of its
    // own and a bounds check.
    let words = [
        u64::from_be_bytes(*b"PRI * HT"),
        u64::from_be_bytes(*b"TP/2.0\r\n"),
        u64::from_be_bytes(*b"\r\nSM\r\n\r\n"),
    ];
    let word = match left {
        17.. => words[0],
        9..=16 => words[1],
        _ => words[2],
    };
    (word >> (((left.wrapping_sub(1)) & 7) * 8)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_told_byte_by_byte() {
        for (index, byte) in PREFACE.iter().enumerate() {
            let left = 24 - u32::try_from(index).unwrap();
            assert_eq!(preface_byte(left), *byte, "{left} left");
        }
    }

    #[test]
    fn a_head_is_the_same_whole_and_byte_by_byte() {
        let bytes = [0x01, 0x02, 0x03, HEADERS, 0x05, 0x80, 0, 1, 7];
        let whole = FrameHead::parse(bytes);
        assert_eq!((whole.length, whole.stream, whole.flags), (0x01_02_03, 0x01_07, 5));
        assert_eq!(bytes.iter().fold(FrameHead::default(), |head, byte| head.with(*byte)), whole);
        assert!(whole.ends_stream() && !whole.leaves_block_open());
    }

    #[test]
    fn what_no_peer_may_send_is_refused() {
        let head = |length, kind, flags, stream| FrameHead {
            length,
            stream,
            kind,
            flags,
            filled: 9,
            reserved: 0,
        };
        let cases = [
            (head(0, DATA, 0, 0), false, "DATA on the connection"),
            (head(16_777_215, DATA, 0, 1), true, "the largest frame"),
            (head(5, SETTINGS, 0, 0), false, "half a parameter"),
            (head(6, SETTINGS, ACK, 0), false, "an answer with parameters"),
            (head(6, SETTINGS, 0, 1), false, "parameters of a stream"),
            (head(7, PING, 0, 0), false, "a short PING"),
            (head(3, RST_STREAM, 0, 1), false, "a short RST_STREAM"),
            (head(4, WINDOW_UPDATE, 0, 0), true, "a window of the connection"),
            (head(99, 0xbe, 0xff, 3), true, "an unknown kind"),
        ];
        for (head, allowed, case) in cases {
            assert_eq!(head.is_allowed(Sender::Server), allowed, "{case}");
            assert_eq!(head.is_allowed(Sender::Client), allowed, "{case}");
        }
        let push = head(4, PUSH_PROMISE, 0, 1);
        assert!(push.is_allowed(Sender::Server) && !push.is_allowed(Sender::Client));
    }
}
