//! Scripted packets around a frame that was put in, one rule after the other.

use super::{
    kernel::Kernel,
    model::{client_script, frame},
    segment::{ACK, Ends, FIN, PSH, RST, SYN, Segment, Wire},
};
use balancer_agent::datapath::loader;
use balancer_common::http2::{
    flow::{Http2Flow, Http2Key},
    frame::{HEADERS, SETTINGS},
    gate::{ACKED, FAR, INJECTED, LOCKED_IN, OPAQUE, WANTED, WANTED_NOW},
    shift::FRAME,
};
use balancer_tests::capability;
use rand::{SeedableRng, rngs::StdRng};

const NETNS: u64 = 3;
const COOKIE: u64 = 4;
/// Close to the end of the numbers.
const FIRST: u32 = u32::MAX - 8;
const CLIENT_FIRST: u32 = 1_000;

struct Case {
    kernel: Kernel,
    key: Http2Key,
    down: Ends,
    up: Ends,
    /// The server's next number.
    next: u32,
    client_next: u32,
}

impl Case {
    /// A connection on which both sides have sent their settings, and the client `requests` requests.
    fn new(requests: u32) -> Self {
        let mut kernel = Kernel::load(loader::object(), false);
        let Wire { key, down, up } = Wire::new(NETNS, 40_000);
        kernel.establish(key, COOKIE, CLIENT_FIRST, FIRST);
        let mut case = Self { kernel, key, down, up, next: FIRST, client_next: CLIENT_FIRST };
        let bytes = client_script(&mut StdRng::seed_from_u64(1), requests).bytes;
        case.request(&bytes);
        let mut settings = Vec::new();
        frame(&mut settings, SETTINGS, 0, 0, &[]);
        case.data(&settings);
        case
    }

    fn request(&mut self, bytes: &[u8]) {
        let mut segment = self.segment(ACK, &[]);
        (segment.seq, segment.ack) = (self.client_next, self.next);
        segment.payload = bytes.to_vec();
        self.client_next = self.client_next.wrapping_add(u32::try_from(bytes.len()).unwrap());
        self.kernel.send(NETNS, &segment, self.up).unwrap();
    }

    fn segment(&self, flags: u8, payload: &[u8]) -> Segment {
        let payload = payload.to_vec();
        Segment {
            seq: self.next,
            ack: self.client_next,
            flags,
            window: 900,
            payload,
            ..Segment::default()
        }
    }

    fn deliver(&self, segment: &Segment) -> Segment {
        self.kernel.deliver(NETNS, segment, self.down).unwrap()
    }

    /// The server's next bytes, as the client gets them.
    fn data(&mut self, bytes: &[u8]) -> Segment {
        let segment = self.segment(ACK | PSH, bytes);
        self.next = self.next.wrapping_add(u32::try_from(bytes.len()).unwrap());
        self.deliver(&segment)
    }

    /// What the server gets to see of an acknowledgement.
    fn ack(&self, ack: u32) -> u32 {
        let segment =
            Segment { seq: self.client_next, ack, flags: ACK, window: 900, ..Segment::default() };
        self.kernel.send(NETNS, &segment, self.up).unwrap().ack
    }

    fn want(&self, wanted: u64) {
        assert!(self.kernel.request(self.key, COOKIE, wanted));
    }

    fn gate(&self) -> u64 {
        self.kernel.flow(self.key).gate
    }

    /// Moves it by a bare acknowledgement.
    fn moved(requests: u32) -> (Self, Segment) {
        let case = Self::new(requests);
        case.want(WANTED_NOW);
        let bare = case.segment(ACK, &[]);
        let got = case.deliver(&bare);
        assert_eq!((got.seq, &got.payload[..]), (case.next, &FRAME[..]));
        (case, bare)
    }
}

fn message(stream: u32, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, HEADERS, 4 | flags, stream, &[1; 20]);
    bytes
}

#[test]
fn an_idle_connection_moves_on_an_acknowledgement_and_is_shifted_from_then_on() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (mut case, bare) = Case::moved(0);
    let at = case.next;
    // Until the client has said that it has it, it gets it with each bare acknowledgement.
    assert_eq!(case.deliver(&bare).payload, FRAME);
    assert_eq!(case.ack(at), at);
    assert_eq!(case.ack(at.wrapping_add(9)), at, "half of the frame is nothing of the server's");
    assert_eq!(case.gate() & ACKED, 0);
    assert_eq!(case.ack(at.wrapping_add(17)), at);
    assert_eq!(case.gate() & (INJECTED | ACKED), INJECTED | ACKED);
    assert_eq!(case.deliver(&bare).seq, at.wrapping_add(17));
    // Across the end of the numbers.
    for _ in 0..3 {
        let (from, bytes) = (case.next, message(1, 0));
        let got = case.data(&bytes);
        assert_eq!((got.seq, got.payload), (from.wrapping_add(17), bytes));
        assert_eq!(case.ack(case.next.wrapping_add(17)), case.next);
    }
    // What the client had long before is as it was.
    let old = Segment { seq: FIRST, payload: vec![0; 3], ..bare.clone() };
    assert_eq!(case.deliver(&old), old);
}

#[test]
fn half_of_all_numbers_later_it_is_shifted_all_the_same() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (mut case, bare) = Case::moved(0);
    let at = case.next;
    case.ack(at.wrapping_add(17));
    // As after gigabytes, in steps that a window allows.
    for step in 1..=4 {
        let offset = step * ((1 << 30) - 100);
        let ack = at.wrapping_add(offset);
        assert_eq!(case.ack(ack.wrapping_add(17)), ack, "{step}");
        let segment = Segment { seq: ack, ..bare.clone() };
        assert_eq!(case.deliver(&segment).seq, ack.wrapping_add(17), "{step}");
    }
    assert_ne!(case.gate() & FAR, 0);
    // Another lock's bit, set by nobody, would have to be waited for, and then be given up.
    case.kernel.change(case.key, |flow| flow.gate |= LOCKED_IN);
    let bytes = message(1, 0);
    let from = case.next;
    assert_eq!(case.data(&bytes).seq, from.wrapping_add(17), "shifting needs no lock");
}

#[test]
fn a_frame_that_was_lost_comes_again_before_the_bytes_behind_it() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (mut case, _) = Case::moved(0);
    let (at, bytes) = (case.next, message(1, 0));
    assert_eq!(case.data(&bytes).seq, at.wrapping_add(17));
    let mut again = case.segment(ACK | PSH, &bytes);
    again.seq = at;
    let got = case.deliver(&again);
    assert_eq!((got.seq, &got.payload[..], got.flags), (at, &FRAME[..], ACK));
    assert_eq!(case.ack(case.next.wrapping_add(17)), case.next);
    assert_eq!(case.deliver(&again).seq, at.wrapping_add(17), "the client has it now");
}

#[test]
fn a_segment_across_the_frame_is_cut_and_ends_with_it() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (mut case, _) = Case::moved(0);
    let bytes = message(1, 0);
    case.data(&bytes);
    // Settings and message as one, with an end.
    let mut whole = case.segment(ACK | PSH | FIN, &[]);
    whole.seq = FIRST;
    frame(&mut whole.payload, SETTINGS, 0, 0, &[]);
    whole.payload.extend(&bytes);
    let got = case.deliver(&whole);
    assert_eq!((got.seq, got.flags), (FIRST, ACK));
    assert_eq!(got.payload, [&whole.payload[..9], &FRAME].concat());
}

#[test]
fn the_end_of_the_servers_bytes_stands_behind_the_frame() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (case, bare) = Case::moved(0);
    let fin = Segment { flags: ACK | FIN, ..bare };
    let got = case.deliver(&fin);
    assert_eq!((got.seq, &got.payload[..], got.flags), (case.next, &FRAME[..], ACK | FIN));
    assert_eq!(case.ack(case.next.wrapping_add(18)), case.next.wrapping_add(1));
    assert_eq!(case.deliver(&fin).seq, case.next.wrapping_add(17));
}

#[test]
fn a_reset_is_tried_both_ways_and_a_new_connection_is_left_alone() {
    if !capability::can_load_ebpf() {
        return;
    }
    let (case, bare) = Case::moved(0);
    let reset = Segment { flags: RST, ..bare.clone() };
    let numbers = [0; 3].map(|_| case.deliver(&reset).seq.wrapping_sub(case.next));
    assert_eq!(numbers, [17, 0, 17]);
    let syn = Segment { seq: 1, flags: SYN, ..Segment::default() };
    case.kernel.send(NETNS, &syn, case.up).unwrap();
    assert_eq!(case.deliver(&bare), bare, "the frame was of another connection");
}

#[test]
fn a_quiet_moment_is_waited_for_when_that_is_wanted() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut case = Case::new(2);
    case.want(WANTED);
    assert_eq!(case.kernel.flow(case.key).in_flight(), 2);
    assert_eq!(case.data(&message(1, 1)).payload.len(), 29);
    let last = case.data(&message(3, 1));
    assert_eq!(last.payload[29..], FRAME, "with the last frame of the last stream");
    let flow = case.kernel.flow(case.key);
    assert_eq!((flow.counts.opened, flow.counts.ended, flow.in_flight()), (2, 2, 0));
}

#[test]
fn a_calm_moment_is_one_in_which_no_stream_was_opened_or_ended_for_a_while() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut case = Case::new(3);
    case.want(WANTED | WANTED_NOW);
    let never = |flow: &mut Http2Flow| (flow.requested_ns, flow.answered_ns) = (0, 0);
    let (key, bare) = (case.key, case.segment(ACK, &[]));
    case.kernel.change(key, |flow| flow.requested_ns = u64::MAX);
    assert_eq!(case.deliver(&bare), bare, "a stream was opened");
    case.kernel.change(key, never);
    assert_eq!(case.data(&message(1, 1)).payload.len(), 29, "a stream ends here");
    assert!(case.kernel.flow(key).answered_ns > 0);
    case.kernel.change(key, |flow| flow.answered_ns = u64::MAX);
    let bare = case.segment(ACK, &[]);
    assert_eq!(case.deliver(&bare), bare, "a stream has ended");
    case.kernel.change(key, never);
    assert_eq!(case.deliver(&bare).payload, FRAME);
    assert_eq!(case.kernel.flow(key).in_flight(), 2);
}

#[test]
fn a_block_of_headers_is_not_torn() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut case = Case::new(1);
    case.want(WANTED_NOW);
    let mut open = Vec::new();
    frame(&mut open, HEADERS, 0, 1, &[1; 20]);
    assert_eq!(case.data(&open).payload, open);
    let mut end = Vec::new();
    frame(&mut end, 9, 4, 1, &[1; 5]);
    assert_eq!(case.data(&end).payload, [&end[..], &FRAME].concat());
}

#[test]
fn what_is_not_http2_or_is_not_ours_is_left_alone() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut case = Case::new(0);
    case.want(WANTED_NOW);
    let hello = case.data(b"\x16\x03\x01\x02\x00 not a frame");
    assert_eq!(hello.payload.len(), 17);
    assert_ne!(case.gate() & OPAQUE, 0);
    let bare = case.segment(ACK, &[]);
    assert_eq!(case.deliver(&bare), bare);
    // The same ends in another namespace are another connection.
    let (case, bare) = Case::moved(0);
    assert_eq!(case.kernel.deliver(NETNS + 1, &bare, case.down).unwrap(), bare);
    // As is a later one with the same ends.
    assert!(!case.kernel.request(case.key, COOKIE + 1, WANTED_NOW));
}
