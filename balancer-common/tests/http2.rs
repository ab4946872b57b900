//! Properties of following frames, on whatever bytes and in whatever order.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

use balancer_common::http2::{
    follower::{self, Follower, KEPT_BYTES},
    frame::{FrameHead, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, Sender},
    grid::{Bytes, Grid},
    held::{HELD_RANGES, HELD_SEGMENT, HELD_WINDOW},
    track::{LOST, Place, TORN},
};
use proptest::prelude::*;

/// Walks one piece from the grid's position, as the programs do.
fn walk(grid: &mut Grid, sender: Sender, bytes: &[u8]) -> Result<Vec<FrameHead>, ()> {
    let mut heads = Vec::new();
    let valid = follower::walk(grid, sender, bytes, |head| heads.push(*head));
    valid.then_some(heads).ok_or(())
}

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(vec![0xaa; length]);
    bytes
}

/// Frames that a server may send, settings first.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let other = prop_oneof![
        (0_usize..400, 0_u32..4).prop_map(|(length, id)| frame(0, 0, 2 * id + 1, length)),
        (0_usize..40).prop_map(|length| frame(HEADERS, 5, 1, length)),
        (0_usize..40).prop_map(|length| {
            [frame(HEADERS, 0, 3, length), frame(9, 0, 3, 2), frame(9, 4, 3, length)].concat()
        }),
        Just(frame(6, 1, 0, 8)),
        (10_u8.., 0_usize..60).prop_map(|(kind, length)| frame(kind, 7, 0, length)),
    ];
    prop::collection::vec(other, 0..12).prop_map(|mut frames| {
        frames.insert(0, frame(SETTINGS, 0, 0, 6));
        frames
    })
}

/// Cuts of a whole into pieces.
fn pieces(length: usize, cuts: &[prop::sample::Index]) -> Vec<(usize, usize)> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
    at.extend([0, length]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn place() -> Vec<u8> {
    vec![0; KEPT_BYTES]
}

/// Follows the bytes `from..to` of a whole whose first one has the number `first`.
fn follow(follower: &mut Follower<'_>, whole: &[u8], first: u32, from: usize, to: usize) {
    let seq = first.wrapping_add(u32::try_from(from).unwrap());
    follower.follow(seq, &whole[from..to], |_| {});
}

/// A grid without what was read of payloads: behind a hole in one, nothing of it is.
const fn position(grid: Grid) -> Grid {
    Grid { unit_left: 0, unit_kind: 0, units_left: 0, unit: 0, ..grid }
}

const CUTS: usize = 12;

proptest! {
    #[test]
    fn any_cut_gives_the_frames_of_the_whole(
        frames in frames(),
        seq: u32,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..CUTS),
    ) {
        let whole = frames.concat();
        let mut grid = Grid::new(Sender::Server, seq);
        let expected = walk(&mut grid, Sender::Server, &whole).unwrap();
        let mut cut_grid = Grid::new(Sender::Server, seq);
        let mut found = Vec::new();
        for (from, to) in pieces(whole.len(), &cuts) {
            found.extend(walk(&mut cut_grid, Sender::Server, &whole[from..to]).unwrap());
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(cut_grid, grid);
        prop_assert!(grid.takes_frame());
        prop_assert_eq!(grid.next_seq, seq.wrapping_add(u32::try_from(whole.len()).unwrap()));
    }

    #[test]
    fn numbers_are_read_wherever_they_are_cut(
        codes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..20),
        parameters in prop::collection::vec((any::<u16>(), any::<u32>()), 0..12),
        seq: u32,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..CUTS),
    ) {
        let payload: Vec<u8> = parameters
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let mut whole = frame(SETTINGS, 0, 0, payload.len());
        let at = whole.len() - payload.len();
        whole[at..].copy_from_slice(&payload);
        // No more than eight of one frame.
        let mut expected: Vec<(u8, u64)> = parameters
            .iter()
            .take(8)
            .map(|(id, value)| (SETTINGS, u64::from(*id) << 32 | u64::from(*value)))
            .collect();
        for (code, is_reset) in codes {
            let (kind, stream, length) = if is_reset { (RST_STREAM, 1, 4) } else { (GOAWAY, 0, 8) };
            whole.extend(frame(kind, 0, stream, length));
            let end = whole.len();
            whole[end - 4..].copy_from_slice(&code.to_be_bytes());
            let last_stream = if is_reset { 0 } else { 0xaaaa_aaaa_u64 << 32 };
            expected.push((kind, last_stream | u64::from(code)));
            whole.extend(frame(0, 0, 1, 5));
        }
        let (mut grid, mut found) = (Grid::new(Sender::Server, seq), Vec::new());
        for (from, to) in pieces(whole.len(), &cuts) {
            let (end, mut at) = (u32::try_from(to).unwrap(), u32::try_from(from).unwrap());
            while at < end {
                let step = grid.step(Sender::Server, &&whole[..], at, end).unwrap();
                at = step.at;
                if step.has_unit {
                    // Above a parameter's six bytes are those of the one before.
                    let bits = if grid.unit_kind == SETTINGS { 48 } else { 64 };
                    found.push((grid.unit_kind, grid.unit & (u64::MAX >> (64 - bits))));
                }
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert!(grid.takes_frame());
    }

    #[test]
    fn garbage_ends_in_an_error_and_never_in_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        is_client: bool,
        seq: u32,
    ) {
        let sender = if is_client { Sender::Client } else { Sender::Server };
        let mut grid = Grid::new(sender, seq);
        let _ = walk(&mut grid, sender, &bytes);
        // After a true beginning as well.
        let mut grid = Grid::new(sender, seq);
        let preface: &[u8] = if is_client { &PREFACE } else { &[] };
        let start = [preface, &frame(SETTINGS, 0, 0, 0)].concat();
        walk(&mut grid, sender, &start).unwrap();
        let _ = walk(&mut grid, sender, &bytes);
    }

    #[test]
    fn any_order_leads_to_the_same_place(
        frames in frames(),
        seq: u32,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..CUTS),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let whole = frames.concat();
        let mut grid = Grid::new(Sender::Server, seq);
        walk(&mut grid, Sender::Server, &whole).unwrap();
        let pieces = pieces(whole.len(), &cuts);
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        for pick in &order {
            let (from, to) = pieces[pick.index(pieces.len())];
            follow(&mut follower, &whole, seq, from, to);
            // Whatever is missing, no more is open than there are ranges for.
            prop_assert!(follower.track.is_in_sync());
            let known = follower.track.grid.next_seq.wrapping_sub(seq) as usize;
            let mut truth = Grid::new(Sender::Server, seq);
            walk(&mut truth, Sender::Server, &whole[..known]).unwrap();
            prop_assert_eq!(position(follower.track.grid), position(truth));
        }
        // What is repeated in order afterwards fills every hole.
        for (from, to) in &pieces {
            follow(&mut follower, &whole, seq, *from, *to);
        }
        prop_assert_eq!((follower.track.held, follower.track.flags), (0, 0));
        prop_assert_eq!(position(follower.track.grid), position(grid));
    }

    #[test]
    fn too_many_holes_or_too_wide_ones_lose_the_position_and_nothing_else(
        seq: u32,
        count in 0_usize..2 * HELD_RANGES,
        beyond in 0_u32..100,
    ) {
        // Frames without payload, of which every other one is missing, from the last to the first.
        let whole = frame(SETTINGS, 0, 0, 0).repeat(2 * count + 1);
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        follow(&mut follower, &whole, seq, 0, 9);
        for index in (0..count).rev() {
            let from = 9 * (2 * index + 2);
            follow(&mut follower, &whole, seq, from, from + 9);
        }
        prop_assert_eq!(follower.track.is_in_sync(), count <= HELD_RANGES);
        if count <= HELD_RANGES {
            follow(&mut follower, &whole, seq, 0, whole.len());
            prop_assert!(follower.track.takes_frame());
        }
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        let far = HELD_WINDOW + beyond;
        prop_assert_eq!(follower.track.place(seq.wrapping_add(far), 1), Some(Place::Behind));
        follower.keep(seq.wrapping_add(far), &[0]);
        prop_assert_eq!(follower.track.flags, LOST | TORN);
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        let segment = vec![0; HELD_SEGMENT as usize];
        let last = seq.wrapping_add(HELD_WINDOW - HELD_SEGMENT);
        follower.keep(last, &segment);
        prop_assert_eq!((follower.track.flags, follower.track.held), (0, 1));
        follower.keep(last.wrapping_add(1 + beyond), &segment);
        prop_assert_eq!(follower.track.flags, LOST | TORN);
    }

    #[test]
    fn reordering_that_never_ends_never_ends_the_following(
        seq: u32,
        payload in 0_usize..3_000,
        segment in 5_000_usize..HELD_SEGMENT as usize,
    ) {
        let mut whole = frame(SETTINGS, 0, 0, 0);
        while whole.len() < 4 * HELD_WINDOW as usize {
            whole.extend(frame(0, 0, 1, payload));
        }
        let count = whole.len().div_ceil(segment);
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        let mut arrives = |index: usize| {
            let from = index * segment;
            if from < whole.len() {
                follow(&mut follower, &whole, seq, from, whole.len().min(from + segment));
            }
            (follower.track.held, follower.track.flags)
        };
        // Every other segment is ahead of the two before it, so that a hole is open from the first to the last,
        // and far more goes by than a place has room for.
        prop_assert_eq!(arrives(1), (1, 0));
        for index in (0..count).step_by(2) {
            prop_assert_eq!(arrives(index + 3).1, 0);
            prop_assert_eq!(arrives(index).1, 0);
        }
        prop_assert_eq!(arrives(0), (0, 0));
        prop_assert_eq!(follower.track.grid.next_seq, seq.wrapping_add(u32::try_from(whole.len()).unwrap()));
    }

    #[test]
    fn payload_that_is_known_to_follow_is_not_kept(seq: u32, length in 0_u32..1 << 24, gap in 1_u32..9) {
        let mut kept = place();
        let mut follower = Follower::new(Sender::Server, seq, &mut kept);
        let mut whole = frame(SETTINGS, 0, 0, 0);
        let mut head = frame(0, 0, 1, 0);
        head[..3].copy_from_slice(&length.to_be_bytes()[1..]);
        whole.extend(head);
        follow(&mut follower, &whole, seq, 0, whole.len());
        // The next head has gone missing, or a part of it.
        let behind = seq.wrapping_add(18 + length + gap);
        prop_assert_eq!(follower.track.place(behind, 1), Some(Place::Behind));
        follower.keep(behind, &[0]);
        prop_assert_eq!(follower.track.flags, 0);
        prop_assert_eq!(follower.ranges.hole_at(seq.wrapping_add(18 + length)), u64::from(gap));
        // The room for it is counted from there on.
        follower.keep(seq.wrapping_add(18 + length + HELD_WINDOW - 1), &[0]);
        prop_assert_eq!(follower.track.flags, 0);
        follower.keep(seq.wrapping_add(18 + length + HELD_WINDOW), &[0]);
        prop_assert_eq!(follower.track.flags, LOST | TORN);
    }
}

#[test]
fn a_reader_that_fails_ends_the_walk() {
    struct Nothing;
    impl Bytes for Nothing {
        fn byte(&self, _: u32) -> Option<u8> {
            None
        }
        fn head(&self, _: u32) -> Option<[u8; 9]> {
            None
        }
    }
    let mut grid = Grid::new(Sender::Server, 0);
    assert!(grid.step(Sender::Server, &Nothing, 0, 9).is_err());
    assert!(grid.step(Sender::Server, &Nothing, 9, 9).is_ok(), "nothing is read behind the end");
}
