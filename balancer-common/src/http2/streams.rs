//! Streams of a connection: what a frame head does to them, and where each open one is remembered.
//!
//! Open streams stand in a small table of slots, so that a stream is closed once, whoever ends it
//! first. A slot is one word: the stream's id and when it was opened, or zero. Changes are made by
//! compare-and-swap, so that whoever takes a stream out has its time with it.

use super::{
    frame::{FrameHead, GOAWAY, HEADERS, RST_STREAM, Sender},
    grid::Grid,
};

/// Slots of the table; a power of two. gRPC servers take 100 streams at a time unless told otherwise.
pub const STREAM_SLOTS: usize = 128;
/// Slots in which a stream may be.
pub const PROBES_MAX: u32 = 8;

/// What a frame head means to the streams of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// The client has opened a stream.
    Opened(u32),
    /// The server has sent its last frame of a stream.
    Ended(u32),
    /// Either side has ended a stream at once.
    Reset(u32),
    /// Either side takes no new streams.
    GoAway,
}

/// What a whole head means; remembers in the grid which streams were opened.
#[inline(always)]
pub fn event(grid: &mut Grid, sender: Sender, head: &FrameHead) -> Event {
    let stream = head.stream;
    match (head.kind, sender) {
        (RST_STREAM, _) => Event::Reset(stream),
        (GOAWAY, _) => Event::GoAway,
        // "Streams initiated by a client MUST use odd-numbered stream identifiers", and "the identifier
        // of a newly established stream MUST be numerically greater than all streams that the initiating
        // endpoint has opened" (RFC 9113, section 5.1.1).
        (HEADERS, Sender::Client) if stream & 1 == 1 && stream > grid.last_stream => {
            grid.last_stream = stream;
            Event::Opened(stream)
        }
        (_, Sender::Server) if head.ends_stream() => Event::Ended(stream),
        _ => Event::None,
    }
}

/// The slot that is tried for a stream at the given attempt.
#[inline(always)]
#[must_use]
pub const fn slot(stream: u32, attempt: u32) -> usize {
    // Ids of streams are odd and rise by two.
    ((stream >> 1).wrapping_add(attempt) as usize) & (STREAM_SLOTS - 1)
}

/// Bits of a slot that tell when its stream was opened.
const TIME_BITS: u32 = 33;
/// Nanoseconds that are one step of this time, as a power of two: it comes round every 4.8 hours. What a
/// stream was open for is told without those rounds.
const TIME_SHIFT: u32 = 11;

/// The slot of a stream that is opened at `now_ns`.
#[inline(always)]
#[must_use]
pub const fn slot_word(stream: u32, now_ns: u64) -> u64 {
    ((stream as u64) << TIME_BITS) | ((now_ns >> TIME_SHIFT) & ((1 << TIME_BITS) - 1))
}

/// Whether a slot is that of a stream.
#[inline(always)]
#[must_use]
pub const fn is_slot_of(word: u64, stream: u32) -> bool {
    word >> TIME_BITS == stream as u64
}

/// How long a slot's stream has been open at `now_ns`.
#[inline(always)]
#[must_use]
pub const fn open_ns(word: u64, now_ns: u64) -> u64 {
    ((now_ns >> TIME_SHIFT).wrapping_sub(word) & ((1 << TIME_BITS) - 1)) << TIME_SHIFT
}

#[cfg(test)]
mod tests {
    use super::super::frame::{DATA, END_STREAM};
    use super::*;

    fn head(kind: u8, flags: u8, stream: u32) -> FrameHead {
        FrameHead { length: 0, stream, kind, flags, filled: 9, reserved: 0 }
    }

    #[test]
    fn streams_are_opened_once_and_ended_by_the_server() {
        let mut grid = Grid::default();
        let both = [
            (head(HEADERS, 0, 1), Sender::Client, Event::Opened(1)),
            (head(HEADERS, END_STREAM, 1), Sender::Client, Event::None),
            (head(HEADERS, 0, 4), Sender::Client, Event::None),
            (head(DATA, END_STREAM, 1), Sender::Client, Event::None),
            (head(HEADERS, 0, 1), Sender::Server, Event::None),
            (head(DATA, END_STREAM, 1), Sender::Server, Event::Ended(1)),
            (head(RST_STREAM, 0, 1), Sender::Client, Event::Reset(1)),
            (head(HEADERS, END_STREAM, 7), Sender::Client, Event::Opened(7)),
            (head(HEADERS, 0, 5), Sender::Client, Event::None),
            (head(GOAWAY, 0, 0), Sender::Server, Event::GoAway),
        ];
        for (head, sender, expected) in both {
            assert_eq!(event(&mut grid, sender, &head), expected, "{head:?} of the {sender:?}");
        }
    }

    #[test]
    fn a_slot_tells_its_stream_and_its_time() {
        for stream in [1, 3, 0x7fff_ffff] {
            for start_ns in [0, 1 << 43, u64::MAX - (1 << 40)] {
                let word = slot_word(stream, start_ns);
                assert!(is_slot_of(word, stream) && !is_slot_of(word, stream ^ 2));
                assert!(!is_slot_of(0, stream));
                let open = open_ns(word, start_ns.wrapping_add(5_000_000));
                assert!(open.abs_diff(5_000_000) <= 1 << TIME_SHIFT, "{open}");
            }
        }
    }

    #[test]
    fn neighbours_do_not_share_a_slot() {
        let first: std::collections::BTreeSet<_> =
            (0..STREAM_SLOTS as u32).map(|index| slot(2 * index + 1, 0)).collect();
        assert_eq!(first.len(), STREAM_SLOTS);
        assert_eq!(
            slot(u32::MAX, PROBES_MAX),
            slot(u32::MAX, 0) + PROBES_MAX as usize - STREAM_SLOTS
        );
    }
}
