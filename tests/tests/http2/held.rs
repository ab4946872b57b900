//! Places for bytes behind a hole: taken, shared between pods, given back, and taken over when forgotten.

use super::{
    kernel::Kernel,
    model::frame,
    segment::{ACK, Segment, Wire},
};
use balancer_agent::datapath::loader;
use balancer_common::{
    abi,
    http2::{
        flow::Visibility,
        frame::{DATA, PING, SETTINGS},
        held::HELD_WINDOW,
    },
};
use balancer_tests::capability;

const NETNS: u64 = 5;
/// Bytes of a segment; those that a test of a program carries fit a page.
const SEGMENT_BYTES: usize = 3_001;
/// Close to the end of the numbers.
const FIRST: u32 = u32::MAX - 20;

/// A connection whose server has sent settings and three pings, of which the second comes last.
struct Connection {
    wire: Wire,
    frames: [Vec<u8>; 4],
}

impl Connection {
    /// The first two frames have come.
    fn begin(kernel: &mut Kernel, port: u16, pod: u64) -> Self {
        let wire = Wire::new(NETNS, port);
        kernel.establish(wire.key, port.into(), 1, FIRST);
        kernel.change(wire.key, |flow| flow.pod = pod);
        let frames = [SETTINGS, PING, PING, PING].map(|kind| {
            let mut bytes = Vec::new();
            frame(&mut bytes, kind, 0, 0, if kind == PING { &[7; 8] } else { &[] });
            bytes
        });
        let connection = Self { wire, frames };
        connection.arrives(kernel, 0);
        connection.arrives(kernel, 1);
        connection
    }

    fn arrives(&self, kernel: &Kernel, number: usize) {
        let before: usize = self.frames[..number].iter().map(Vec::len).sum();
        self.comes(kernel, before, &self.frames[number]);
    }

    /// Bytes come, of which the first one is so many behind the server's first.
    fn comes(&self, kernel: &Kernel, at: usize, payload: &[u8]) {
        let segment = Segment {
            seq: FIRST.wrapping_add(u32::try_from(at).unwrap()),
            ack: 1,
            flags: ACK,
            window: 900,
            payload: payload.to_vec(),
            ..Segment::default()
        };
        let delivered = kernel.deliver(NETNS, &segment, self.wire.down).unwrap();
        assert_eq!(delivered, segment, "nobody has asked for anything");
    }

    /// What comes last is there, and a hole before it.
    fn with_hole(kernel: &mut Kernel, port: u16, pod: u64) -> Self {
        let connection = Self::begin(kernel, port, pod);
        connection.arrives(kernel, 3);
        connection
    }

    fn is_in_sync(&self, kernel: &Kernel) -> bool {
        kernel.flow(self.wire.key).inbound.is_in_sync()
    }

    fn has_all(&self, kernel: &Kernel) -> bool {
        let length: usize = self.frames.iter().map(Vec::len).sum();
        let end = FIRST.wrapping_add(u32::try_from(length).unwrap());
        let track = kernel.flow(self.wire.key).inbound;
        track.takes_frame() && track.grid.next_seq == end
    }
}

fn kernels() -> impl Iterator<Item = Kernel> {
    let bounded = if capability::can_load_ebpf() { &[false, true][..] } else { &[] };
    bounded.iter().map(|bounded| Kernel::load(loader::object(), *bounded))
}

fn used(kernel: &Kernel) -> usize {
    kernel.places().iter().filter(|place| place.owner != 0).count()
}

#[test]
fn a_place_is_taken_at_a_hole_and_given_back_when_that_is_filled() {
    for mut kernel in kernels() {
        let connection = Connection::with_hole(&mut kernel, 1_000, 7);
        assert_eq!((used(&kernel), connection.is_in_sync(&kernel)), (1, true));
        connection.arrives(&kernel, 3);
        assert_eq!(used(&kernel), 1, "the same once more");
        connection.arrives(&kernel, 2);
        assert!(connection.has_all(&kernel));
        assert_eq!(used(&kernel), 0);
    }
}

#[test]
fn a_connection_that_is_not_followed_any_more_gives_its_place_back() {
    for mut kernel in kernels() {
        let connection = Connection::with_hole(&mut kernel, 1_000, 7);
        let payload = b"GET / HTTP/1.1\r\n".to_vec();
        let segment = Segment { seq: 1, ack: FIRST, flags: ACK, payload, ..Segment::default() };
        kernel.send(NETNS, &segment, connection.wire.up).unwrap();
        assert_eq!(kernel.flow(connection.wire.key).visibility(), Visibility::Opaque);
        assert_eq!(used(&kernel), 0);
    }
}

#[test]
fn a_pod_cannot_take_every_place() {
    for mut kernel in kernels() {
        let of_pod = abi::HTTP2_POD_HELD_MAX as usize;
        let ports = (1_000..).take(2 * of_pod);
        let greedy: Vec<_> =
            ports.map(|port| Connection::with_hole(&mut kernel, port, 7)).collect();
        assert_eq!(used(&kernel), of_pod);
        let followed = greedy.iter().filter(|it| it.is_in_sync(&kernel));
        assert_eq!(followed.count(), of_pod, "the others are lost sight of");
        for pod in 8..200 {
            Connection::with_hole(&mut kernel, 2_000 + pod, pod.into());
        }
        assert_eq!(used(&kernel), abi::HTTP2_HELD_MAX, "other pods have the rest");
        for connection in &greedy {
            connection.arrives(&kernel, 2);
        }
        assert_eq!(used(&kernel), abi::HTTP2_HELD_MAX - of_pod);
    }
}

#[test]
fn a_forgotten_place_is_taken_over_and_its_first_owner_finds_nothing_in_it() {
    for mut kernel in kernels() {
        let first = Connection::with_hole(&mut kernel, 1_000, 7);
        let second = Connection::with_hole(&mut kernel, 1_001, 7);
        assert_eq!(used(&kernel), 2, "both are in use");
        second.arrives(&kernel, 2);
        let index = kernel.places().iter().position(|place| place.owner != 0).unwrap();
        kernel.forget_place(index);
        let third = Connection::with_hole(&mut kernel, 1_002, 7);
        assert_eq!(used(&kernel), 1);
        assert_eq!(kernel.places()[index].owner, 1_002);
        first.arrives(&kernel, 2);
        assert!(!first.is_in_sync(&kernel), "it does not take what is there for its own");
        third.arrives(&kernel, 2);
        assert!(third.has_all(&kernel));
        assert_eq!(used(&kernel), 0);
    }
}

#[test]
fn reordering_that_never_ends_never_ends_the_following() {
    for mut kernel in kernels() {
        let connection = Connection::begin(&mut kernel, 1_000, 7);
        let first: usize = connection.frames[..2].iter().map(Vec::len).sum();
        let mut bytes = Vec::new();
        while bytes.len() < 3 * HELD_WINDOW as usize {
            frame(&mut bytes, DATA, 0, 1, &[0xaa; 500]);
        }
        let segments: Vec<_> = bytes.chunks(SEGMENT_BYTES).collect();
        let arrives = |index: usize| {
            if let Some(segment) = segments.get(index) {
                connection.comes(&kernel, first + index * SEGMENT_BYTES, segment);
            }
            kernel.flow(connection.wire.key).inbound
        };
        // Every other one is ahead of the two before it: a hole is open from the first to the last, and more
        // goes by than a place has room for.
        arrives(1);
        for index in (0..segments.len()).step_by(2) {
            assert!(arrives(index + 3).is_in_sync() && arrives(index).is_in_sync(), "{index}");
        }
        let track = arrives(0);
        let end = FIRST.wrapping_add(u32::try_from(first + bytes.len()).unwrap());
        assert_eq!((track.grid.next_seq, track.takes_frame()), (end, true));
        assert_eq!(used(&kernel), 0);
    }
}
