//! Streams at the limits of what is counted, and both sides at once.

use super::{
    accounts::{HISTORIES, NETNS, Side, backend, begun, compare_lost, slots_taken},
    kernel::Kernel,
    model::frame,
    segment::{ACK, Segment},
};
use balancer_agent::datapath::loader;
use balancer_common::http2::{
    frame::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM},
    gate::SETTLED,
    streams::STREAM_SLOTS,
};
use balancer_tests::capability;

/// Streams beyond those that there are slots for.
const MORE: usize = 12;
/// Streams that both sides race for; all of them have slots.
const STREAMS: u32 = 100;

#[test]
fn streams_without_a_slot_are_counted_as_such() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut kernel = Kernel::load(loader::object(), false);
    let mut books = begun(&mut kernel, 0);
    for _ in 0..STREAM_SLOTS + MORE {
        books.open();
    }
    books.flush(&kernel);
    let flow = kernel.flow(books.key);
    assert_eq!((flow.counts.opened, flow.counts.uncounted), (140, 12));
    assert_eq!((flow.in_flight(), slots_taken(&flow)), (128, 128));
    assert_eq!(kernel.in_flight(backend(0)), 128);
    // An end that belongs to no slot changes nothing.
    books.server.frame(RST_STREAM, 0, 2 * 135 + 1, &[0; 4]);
    books.server.frame(RST_STREAM, 0, 1, &[0; 4]);
    books.flush(&kernel);
    let flow = kernel.flow(books.key);
    assert_eq!((flow.counts.reset_by_server, flow.counts.server_resets[0]), (1, 1));
    assert_eq!((flow.in_flight(), kernel.in_flight(backend(0))), (127, 127));
}

/// Segments of whole frames, one each.
fn frames(first: u32, count: u32, one: impl Fn(u32, &mut Vec<u8>)) -> Vec<Segment> {
    let mut seq = first;
    let mut segments = Vec::new();
    for index in 0..count {
        let mut payload = Vec::new();
        one(2 * index + 1, &mut payload);
        let next = seq.wrapping_add(u32::try_from(payload.len()).unwrap());
        segments.push(Segment { seq, flags: ACK, window: 500, payload, ..Segment::default() });
        seq = next;
    }
    segments
}

fn next_seq(side: &Side) -> u32 {
    side.first.wrapping_add(u32::try_from(side.bytes.len()).unwrap())
}

#[test]
fn a_stream_ends_once_whoever_is_first() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut kernel = Kernel::load(loader::object(), false);
    let (mut by_client, mut by_server) = (0, 0);
    for seed in 0..HISTORIES {
        let mut books = begun(&mut kernel, seed);
        (0..STREAMS).for_each(|_| books.open());
        books.flush(&kernel);
        let resets = frames(next_seq(&books.client), STREAMS, |stream, bytes| {
            frame(bytes, RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        });
        let ends = frames(next_seq(&books.server), STREAMS, |stream, bytes| {
            frame(bytes, HEADERS, END_HEADERS | END_STREAM, stream, &[1; 9]);
        });
        let (shared, up, down) = (&kernel, books.up, books.down);
        std::thread::scope(|scope| {
            scope.spawn(|| resets.iter().for_each(|it| drop(shared.send(NETNS, it, up))));
            scope.spawn(|| ends.iter().for_each(|it| drop(shared.deliver(NETNS, it, down))));
        });
        let flow = kernel.flow(books.key);
        let counts = flow.counts;
        assert_eq!(counts.reset_by_client + counts.ended, STREAMS, "seed {seed}");
        assert_eq!(counts.client_resets[8], counts.reset_by_client, "seed {seed}");
        assert_eq!(counts.latency.iter().sum::<u32>(), STREAMS, "seed {seed}");
        assert_eq!((slots_taken(&flow), kernel.in_flight(backend(seed))), (0, 0), "seed {seed}");
        by_client += counts.reset_by_client;
        by_server += counts.ended;
        kernel.forget(books.key);
    }
    println!("{by_client} streams ended by clients first, {by_server} by servers");
}

#[test]
fn nothing_is_in_flight_on_what_is_lost_sight_of() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut kernel = Kernel::load(loader::object(), false);
    for seed in 0..HISTORIES {
        let books = begun(&mut kernel, seed);
        let requests = frames(next_seq(&books.client), STREAMS, |stream, bytes| {
            frame(bytes, HEADERS, END_HEADERS | END_STREAM, stream, &[1; 9]);
        });
        // DATA of no stream, which nobody may send.
        let garbage = frames(next_seq(&books.server), 1, |_, bytes| frame(bytes, DATA, 0, 0, &[1]));
        let (shared, up, down) = (&kernel, books.up, books.down);
        std::thread::scope(|scope| {
            scope.spawn(|| requests.iter().for_each(|it| drop(shared.send(NETNS, it, up))));
            scope.spawn(|| garbage.iter().for_each(|it| drop(shared.deliver(NETNS, it, down))));
        });
        let flow = kernel.flow(books.key);
        if flow.gate & SETTLED != 0 {
            compare_lost(&kernel, seed, &flow);
        } else {
            // Both locks were busy at that moment; then all of it is still the connection's.
            let in_flight = kernel.in_flight(backend(seed));
            assert_eq!(in_flight, u64::from(flow.in_flight()), "seed {seed}");
        }
        kernel.forget(books.key);
    }
}
