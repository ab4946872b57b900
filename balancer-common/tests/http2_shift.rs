//! Properties of putting the frame in and of shifting numbers from then on.

use balancer_common::{
    address::Address,
    http2::{
        flow::Http2Key,
        frame::{FrameHead, Sender},
        gate::{self, INJECTED, LOCKED_IN, LOCKED_OUT, MISSED_IN},
        shift::{FAR_BYTES, FRAME, FRAME_BYTES, Inbound, Injection, Segment, frame_sum},
    },
};
use proptest::prelude::*;

proptest! {
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
