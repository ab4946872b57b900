//! Properties of following frames and of shifting numbers, on whatever bytes and in whatever order.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

use balancer_common::{
    address::Address,
    http2::{
        flow::Http2Key,
        follower::{self, Follower, KEPT_BYTES},
        frame::{FrameHead, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, Sender},
        gate::{self, INJECTED, LOCKED_IN, LOCKED_OUT, MISSED_IN},
        grid::{Bytes, Grid},
        held::{HELD_RANGES, HELD_SEGMENT, HELD_WINDOW},
        shift::{FAR_BYTES, FRAME, FRAME_BYTES, Inbound, Injection, Segment, frame_sum},
        track::{LOST, Place, TORN},
    },
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
        prop_assert_eq!(follower.track.grid.next_seq, seq.wrapping_add(whole.len() as u32));
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

    #[test]
    fn what_the_client_acknowledges_is_what_the_server_sent(
        seq: u32, offset in -100_000_i32..100_000, acked: bool, length in 0_u32..2_000, far: bool,
    ) {
        let injection = Injection { seq, acked: acked || far, far: far && offset > 0 };
        let start = seq.wrapping_add_signed(offset);
        let segment =
            Segment { seq: start, length, fin: false, rst: false, again: false, room: 1 << 20 };
        let end = start.wrapping_add(length);
        match injection.inbound(&segment) {
            // The client's number for the end of it, brought back, is the server's.
            Inbound::Pass => {
                prop_assert!(offset + length.cast_signed() <= 0 && !injection.far);
                prop_assert_eq!(injection.outbound(end), end);
            }
            Inbound::Shift => {
                prop_assert!(offset + length.cast_signed() >= 0);
                prop_assert_eq!(injection.outbound(end.wrapping_add(FRAME_BYTES)), end);
            }
            Inbound::Keep { length: kept, frame } => {
                prop_assert!(frame && !injection.acked && offset <= 0);
                prop_assert_eq!(start.wrapping_add(kept), seq);
                let end = seq.wrapping_add(FRAME_BYTES);
                prop_assert_eq!(injection.outbound(end), seq);
                prop_assert!(injection.acknowledged(end).acked);
            }
        }
        // Acknowledgements never go back, and never beyond.
        let ack = injection.outbound(start);
        prop_assert!(ack == start || ack == seq || ack == start.wrapping_sub(FRAME_BYTES));
    }

    #[test]
    fn a_packet_is_never_made_longer_than_it_may_be(
        seq: u32, before in 0_u32..70_000, length in 0_u32..70_000, room in 40_u32..20_000,
    ) {
        let injection = Injection { seq, acked: false, far: false };
        let start = seq.wrapping_sub(before);
        let segment = Segment { seq: start, length, fin: true, rst: false, again: true, room };
        if let Inbound::Keep { length: kept, frame } = injection.inbound(&segment) {
            let added = if frame { FRAME_BYTES } else { 0 };
            prop_assert!(kept + added <= room);
            prop_assert!(kept <= length && kept <= before);
            // Something always gets on, so that the server comes to the frame in the end.
            prop_assert!(frame || kept > 0);
        }
    }

    #[test]
    fn shifting_goes_on_however_many_bytes_follow(seq: u32, steps in prop::collection::vec(1_u32..1 << 28, 1..80)) {
        let mut injection = Injection { seq, acked: false, far: false };
        let mut next = seq;
        for step in steps {
            let segment = Segment {
                seq: next, length: step, fin: false, rst: false, again: false, room: 1_000,
            };
            prop_assert_eq!(injection.inbound(&segment), Inbound::Shift);
            next = next.wrapping_add(step);
            let ack = next.wrapping_add(FRAME_BYTES);
            prop_assert_eq!(injection.outbound(ack), next);
            injection = injection.acknowledged(ack);
            prop_assert!(injection.acked);
        }
    }

    #[test]
    fn the_frame_is_published_once_and_only_when_nothing_was_missed(gate: u64, seq: u32) {
        match gate::injected(gate, seq) {
            Some(new) => {
                prop_assert_eq!(gate & (INJECTED | MISSED_IN), 0);
                prop_assert!(gate & LOCKED_IN != 0);
                prop_assert_eq!(gate::injection(new).map(|it| it.seq), Some(seq));
                prop_assert_eq!(new >> 32, (gate | INJECTED) >> 32);
                prop_assert_eq!(gate::injected(new, seq.wrapping_add(1)), None);
            }
            None => prop_assert!(gate::injected(gate & !(0xffff_u64 << 32) | LOCKED_IN, seq).is_some()),
        }
    }
}

#[test]
fn far_is_reached_before_comparisons_turn_round() {
    let injection = Injection { seq: 7, acked: true, far: false };
    let ack = 7_u32.wrapping_add_signed(FAR_BYTES);
    assert!(injection.acknowledged(ack).far && !injection.acknowledged(ack - 1).far);
}

#[test]
fn a_reset_is_tried_both_ways() {
    let injection = Injection { seq: 100, acked: false, far: false };
    let mut reset =
        Segment { seq: 100, length: 0, fin: false, rst: true, again: false, room: 1_000 };
    assert_eq!(injection.inbound(&reset), Inbound::Shift);
    reset.again = true;
    assert_eq!(injection.inbound(&reset), Inbound::Pass);
    let acked = Injection { acked: true, ..injection };
    assert_eq!(acked.inbound(&reset), Inbound::Shift);
}

#[test]
fn the_frame_is_a_goaway_of_all_streams_and_its_sum_is_right() {
    let head = FrameHead::parse(FRAME[..9].try_into().unwrap());
    assert!(head.is_allowed(Sender::Server) && head.length == 8 && head.kind == 7);
    assert_eq!(FRAME[9..], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|w| u32::from(u16::from_ne_bytes([w[0], *w.get(1).unwrap_or(&0)])))
            .sum()
    };
    assert_eq!(frame_sum(false), words(&FRAME));
    assert_eq!(frame_sum(true), words(&[&[0], &FRAME[..]].concat()));
}

#[test]
fn locks_and_tags_do_not_touch_each_other() {
    let key = |port: u16| Http2Key {
        netns: 7,
        client: Address([1, 2, 3, 4]),
        server: Address([5, 6, 7, 8]),
        client_port_be: port,
        server_port_be: 80,
        reserved: 0,
    };
    let tags: std::collections::BTreeSet<u64> =
        (0..1_000).map(|port| gate::tag(&key(port))).collect();
    assert!(tags.len() > 980, "{} tags of 1000 connections", tags.len());
    assert!(tags.iter().all(|tag| tag & (LOCKED_IN | LOCKED_OUT | INJECTED | 0xffff_ffff) == 0));
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
