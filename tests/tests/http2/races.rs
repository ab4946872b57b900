//! Two processors that handle one connection at once, and peers that lie in every field.

use super::{
    kernel::Kernel,
    model::{Client, Script, Server, client_script, frame},
    segment::{ACK, FIN, RST, SYN, Segment, Wire},
};
use balancer_common::http2::{
    frame::{DATA, SETTINGS},
    gate::{INJECTED, LOCKED_IN, LOCKED_OUT, MISSED_IN, WANTED_NOW},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

const NETNS: u64 = 9;
const COOKIE: u64 = 77;
const FRAMES: usize = 60;
const WANTED_AT: usize = 20;
const PROCESSORS: usize = 2;

/// Settings, and frames of one segment each.
fn script(random: &mut StdRng) -> Script {
    let mut script = Script::default();
    frame(&mut script.bytes, SETTINGS, 0, 0, &[]);
    script.boundaries.insert(script.bytes.len());
    for index in 0..FRAMES {
        let payload = vec![u8::try_from(index).unwrap(); random.random_range(1..100)];
        frame(&mut script.bytes, DATA, 0, 1, &payload);
        script.boundaries.insert(script.bytes.len());
    }
    script
}

/// What came of the race.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raced {
    pub(crate) moved: bool,
    pub(crate) missed: bool,
}

/// The server's segments are handled by several processors at once, while a move is asked for.
pub(crate) fn race(kernel: &mut Kernel, seed: u64) -> Raced {
    let mut random = StdRng::seed_from_u64(seed);
    let Wire { key, down, up } = Wire::new(NETNS, 40_000);
    let first = random.random();
    kernel.establish(key, COOKIE, 5, first);
    let requests = client_script(&mut random, 1);
    let mut server = Server::new(script(&mut random), first);
    let mut client = Client::new(first);
    let ends: Vec<usize> = server.script.boundaries.iter().copied().collect();
    let mut hello = server.segment(0, ends[0], 1);
    kernel.deliver(NETNS, &hello, down).unwrap();
    client.receive(&hello);
    hello = client.acknowledgement(5);
    hello.payload = requests.bytes;
    kernel.send(NETNS, &hello, up).unwrap();
    server.sent = server.script.bytes.len();
    let (next, outcome) = (AtomicUsize::new(1), Mutex::new(Vec::new()));
    let shared = &*kernel;
    std::thread::scope(|scope| {
        for _ in 0..PROCESSORS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= ends.len() {
                        break;
                    }
                    if index == WANTED_AT {
                        assert!(shared.request(key, COOKIE, WANTED_NOW));
                    }
                    let segment = server.segment(ends[index - 1], ends[index], 1);
                    let segment = shared.deliver(NETNS, &segment, down);
                    outcome.lock().unwrap().extend(segment);
                }
            });
        }
    });
    for segment in outcome.into_inner().unwrap() {
        client.receive(&segment);
    }
    let missed = kernel.flow(key).gate & MISSED_IN != 0;
    // Then the server repeats what is not acknowledged, and says that it has nothing more.
    server.finished = true;
    for _ in 0..1_000 {
        server.acknowledged(&kernel.send(NETNS, &client.acknowledgement(9), up).unwrap());
        if server.fin_acked && client.is_done() {
            break;
        }
        let to = ends.iter().copied().find(|to| *to > server.acked).unwrap_or(server.sent);
        let segment = server.segment(server.acked, to, 1);
        client.receive(&kernel.deliver(NETNS, &segment, down).unwrap());
    }
    assert!(client.is_done() && server.fin_acked, "both come to their ends");
    let flow = kernel.flow(key);
    let inserted = client.inserted(&server.script);
    assert_eq!(inserted.is_some(), flow.gate & INJECTED != 0, "said and done");
    assert_eq!(flow.gate & (LOCKED_IN | LOCKED_OUT), 0, "locks are given back");
    kernel.forget(key);
    Raced { moved: inserted.is_some(), missed }
}

/// Segments of one connection with anything in them; another one must not notice.
pub(crate) fn lie(kernel: &mut Kernel, seed: u64, packets: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let Wire { key: liar, down, up } = Wire::new(NETNS, 41_000);
    let other = Wire::new(NETNS, 42_000).key;
    let first = random.random();
    kernel.establish(liar, COOKIE, 5, first);
    kernel.establish(other, COOKIE, 5, first);
    kernel.request(liar, COOKIE, WANTED_NOW);
    let before = kernel.flow(other);
    let requests = client_script(&mut random, 1);
    let hello =
        Segment { seq: 5, ack: first, flags: ACK, payload: requests.bytes, ..Segment::default() };
    kernel.send(NETNS, &hello, up).unwrap();
    let server = script(&mut random);
    for _ in 0..packets {
        let from = random.random_range(0..server.bytes.len());
        let to = random.random_range(from..=server.bytes.len().min(from + 1_000));
        let mut segment = Segment {
            seq: first
                .wrapping_add(u32::try_from(from).unwrap())
                .wrapping_add(if random.random_range(0..9) == 0 { random.random() } else { 0 }),
            ack: random.random_range(0..300),
            flags: ACK | [0, FIN, SYN, RST, random.random()][random.random_range(0..5)],
            window: random.random(),
            payload: server.bytes[from..to].to_vec(),
            blocks: vec![(random.random(), random.random()); random.random_range(0..4)],
            timestamps: false,
        };
        let is_down: bool = random.random();
        if !is_down {
            segment.ack = first.wrapping_add(random.random_range(0..5_000));
        }
        let mut packet = segment.encode(if is_down { down } else { up }, random.random_range(0..9));
        for _ in 0..[0, 0, 1, 4][random.random_range(0..4)] {
            // Everything but the addresses and ports, so that the connection is still meant.
            let at = random.random_range(0..packet.len());
            if !(26..38).contains(&at) {
                packet[at] = random.random();
            }
        }
        if random.random_range(0..20) == 0 {
            // The kernel takes no test packets without whole IP headers.
            packet.truncate(random.random_range(54..=packet.len()));
        }
        let _ =
            if is_down { kernel.inbound(NETNS, &packet) } else { kernel.outbound(NETNS, &packet) };
    }
    assert_eq!(kernel.flow(other), before, "seed {seed}");
    assert_eq!(
        kernel.flow(liar).gate & (LOCKED_IN | LOCKED_OUT),
        0,
        "seed {seed}: locks are given back"
    );
    kernel.forget(liar);
    kernel.forget(other);
}
