//! HTTP/2 frames as the kernel programs follow them: the very code that the verifier sees.

use super::Numbers;
use balancer_common::http2::{
    follower::{self, Follower, KEPT_BYTES},
    frame::{FrameHead, Sender},
    grid::Grid,
    shift::{FRAME_BYTES, Inbound, Injection, Segment},
};

/// The client's preface and beginnings of frames.
pub const WORDS: &[&str] = &[
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\0\0\0\x04\0\0\0\0\0",
    "\0\0\x06\x04\0\0\0\0\0",
    "\0\0\x01\x01\x04\0\0\0\x01",
    "\0\0\x01\x01\0\0\0\0\x03",
    "\0\0\x01\x09\x04\0\0\0\x03",
    "\0\0\x04\x03\0\0\0\0\x01",
    "\0\0\x08\x07\0\0\0\0\0",
    "\0\0\x05\0\x01\0\0\0\x01",
];

/// Walks a piece: heads that were whole, and whether all of it was valid.
fn walk(grid: &mut Grid, sender: Sender, bytes: &[u8], heads: &mut Vec<FrameHead>) -> bool {
    follower::walk(grid, sender, bytes, |head| heads.push(*head))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

const fn sender(byte: u8) -> Sender {
    if byte & 1 == 0 { Sender::Server } else { Sender::Client }
}

/// The sender, the first sequence number and seven cuts; then the bytes.
pub fn grid(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let (sender, seq) = (sender(numbers.byte()), numbers.word());
    let cuts: [u8; 7] = numbers.array();
    let whole = numbers.0;
    let mut grid = Grid::new(sender, seq);
    let mut heads = Vec::new();
    let valid = walk(&mut grid, sender, whole, &mut heads);

    let mut cut_grid = Grid::new(sender, seq);
    let (mut cut_heads, mut cut_valid, mut rest) = (Vec::new(), true, whole);
    for cut in cuts.into_iter().map(usize::from).chain([usize::MAX]) {
        let (piece, behind) = rest.split_at(cut.min(rest.len()));
        cut_valid = cut_valid && walk(&mut cut_grid, sender, piece, &mut cut_heads);
        rest = behind;
    }
    assert_eq!((cut_valid, &cut_heads), (valid, &heads), "cuts change what is found");
    if valid {
        assert_eq!(cut_grid, grid, "cuts change the position");
        assert_eq!(grid.next_seq, seq.wrapping_add(length(whole.len())));
    }
}

/// A grid without what was read of payloads: behind a hole in one, nothing of it is.
const fn position(grid: Grid) -> Grid {
    Grid { unit_left: 0, unit_kind: 0, units_left: 0, unit: 0, ..grid }
}

/// The sender, the first sequence number and sixteen segments by place and length; then the bytes.
pub fn track(bytes: &[u8]) {
    const SEGMENTS: usize = 16;
    let mut numbers = Numbers(bytes);
    let (sender, seq) = (sender(numbers.byte()), numbers.word());
    let segments: [[u8; 2]; SEGMENTS] = [[0; 2]; SEGMENTS].map(|_| numbers.array());
    let whole = numbers.0;
    let mut kept = vec![0; KEPT_BYTES];
    let mut follower = Follower::new(sender, seq, &mut kept);
    for [from, size] in segments {
        let from = usize::from(from).min(whole.len());
        let to = (from + usize::from(size)).min(whole.len());
        follower.follow(seq.wrapping_add(length(from)), &whole[from..to], |_| {});
        let track = &follower.track;
        if track.is_in_sync() {
            let known = track.grid.next_seq.wrapping_sub(seq) as usize;
            assert!(known <= whole.len(), "it stands behind all bytes");
            let mut truth = Grid::new(sender, seq);
            let valid = walk(&mut truth, sender, &whole[..known], &mut Vec::new());
            assert!(valid, "in sync over bytes that are no frames");
            assert_eq!(position(track.grid), position(truth), "in sync at a wrong position");
        }
    }
}

/// Where the frame was put in, and a segment of the server.
pub fn shift(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let (seq, before, flags) = (numbers.word(), numbers.word(), numbers.byte());
    let (length, room) = (numbers.word() % (70 << 10), 40 + numbers.word() % (70 << 10));
    let bit = |at: u8| flags >> at & 1 == 1;
    // Further away than half of all numbers nobody can tell before from behind.
    let offset = (before % (1 << 30)).cast_signed() - (1 << 29);
    let injection = Injection { seq, acked: bit(0) || bit(1), far: bit(1) && offset > 0 };
    let start = seq.wrapping_add_signed(offset);
    let (fin, rst, again) = (bit(2), bit(3), bit(4));
    let segment = Segment { seq: start, length, fin, rst, again, room };
    let end = start.wrapping_add(length);
    match injection.inbound(&segment) {
        Inbound::Pass if !rst => assert_eq!(injection.outbound(end), end),
        Inbound::Shift if !rst => {
            assert_eq!(injection.outbound(end.wrapping_add(FRAME_BYTES)), end);
        }
        Inbound::Keep { length: kept, frame } => {
            let added = if frame { FRAME_BYTES } else { 0 };
            assert!(kept <= length && kept + added <= room, "a packet grows beyond its room");
            assert!(!frame || start.wrapping_add(kept) == seq, "the frame is elsewhere");
        }
        Inbound::Pass | Inbound::Shift => {}
    }
    let ack = injection.outbound(start);
    assert!([start, seq, start.wrapping_sub(FRAME_BYTES)].contains(&ack), "a made-up number");
}
