//! Packet histories: random loss, order, repetition and cuts on both sides of the programs.

use super::{
    kernel::Kernel,
    model::{Client, Script, Server, client_script, server_script},
    segment::{Ends, Segment, Wire},
};
use balancer_common::http2::{
    flow::Http2Key,
    gate::{self, INJECTED, WANTED_NOW},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::net::IpAddr;

const NETNS: u64 = 0x1_0000_0007;
const SEGMENT_BYTES: usize = 1_400;
const STEPS_MAX: usize = 100_000;

/// How bad the path is, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) lost_before: u32,
    pub(crate) lost_behind: u32,
    pub(crate) held: u32,
    pub(crate) repeated: u32,
    pub(crate) acks_lost: u32,
    /// The server sends nothing but data once the frame was put in.
    pub(crate) is_curt: bool,
}

pub(crate) const CLEAN: Path =
    Path { lost_before: 0, lost_behind: 0, held: 0, repeated: 0, acks_lost: 0, is_curt: false };
pub(crate) const ROUGH: Path =
    Path { lost_before: 8, lost_behind: 3, held: 15, repeated: 8, acks_lost: 20, is_curt: false };
/// More holes at a time than are kept behind.
pub(crate) const TORN: Path = Path { lost_before: 60, held: 60, ..ROUGH };
pub(crate) const CURT: Path = Path { lost_behind: 30, is_curt: true, ..ROUGH };

/// What came of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) moved: bool,
    pub(crate) in_sync: bool,
    pub(crate) dropped: u32,
}

/// One connection and both of its ends.
pub(crate) struct History {
    random: StdRng,
    path: Path,
    pub(crate) key: Http2Key,
    cookie: u64,
    down: Ends,
    up: Ends,
    server: Server,
    client: Client,
    requests: Script,
    requests_first: u32,
    requests_sent: usize,
    held: Vec<Segment>,
}

impl History {
    pub(crate) fn new(kernel: &mut Kernel, seed: u64, path: Path) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (client, server): (IpAddr, IpAddr) = if random.random() {
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
        } else {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        };
        let (client, server) = ((client, random.random_range(30_000..60_000)), (server, 50_051));
        let near_wrap = |random: &mut StdRng| {
            if random.random() {
                random.random()
            } else {
                0_u32.wrapping_sub(random.random_range(0..30_000))
            }
        };
        let (server_seq, client_seq) = (near_wrap(&mut random), near_wrap(&mut random));
        let Wire { key, down, up } = Wire::between(NETNS, client, server);
        let cookie = random.random();
        kernel.establish(key, cookie, client_seq, server_seq);
        let frames = random.random_range(2..40);
        Self {
            path,
            key,
            cookie,
            down,
            up,
            server: Server::new(server_script(&mut random, frames), server_seq),
            client: Client::new(server_seq),
            requests: client_script(&mut random, 3),
            requests_first: client_seq,
            requests_sent: 0,
            held: Vec::new(),
            random,
        }
    }

    fn happens(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// Lets the client send, and both come to their ends. The move is asked for on the way.
    pub(crate) fn run(&mut self, kernel: &mut Kernel) -> Outcome {
        let wanted_at = self.random.random_range(0..60);
        let total = self.server.script.bytes.len();
        for step in 0..STEPS_MAX {
            if step == wanted_at {
                assert!(kernel.request(self.key, self.cookie, WANTED_NOW));
            }
            // In the end everything gets through, so that both must come to their ends.
            if step == STEPS_MAX / 2 {
                self.path = CLEAN;
            }
            if self.requests_sent < self.requests.bytes.len() {
                self.request(kernel);
            }
            if !self.held.is_empty() && self.happens(50) {
                let index = self.random.random_range(0..self.held.len());
                let segment = self.held.swap_remove(index);
                self.arrive(kernel, &segment);
            }
            self.step(kernel, total);
            if self.server.fin_acked && self.client.is_done() {
                return self.outcome(kernel);
            }
        }
        panic!(
            "no end: {} of {total} acknowledged, {:?}",
            self.server.acked,
            kernel.flow(self.key).gate
        );
    }

    fn step(&mut self, kernel: &mut Kernel, total: usize) {
        let curt = self.path.is_curt && kernel.flow(self.key).gate & INJECTED != 0;
        let server = &mut self.server;
        let segment = match self.random.random_range(0..10) {
            // Nothing but an acknowledgement, or a probe of a silent client.
            0 => {
                let probe = u32::from(self.random.random_range(0..4) == 0 && server.sent > 0);
                let mut segment = server.segment(server.sent, server.sent, 1);
                segment.flags = super::segment::ACK;
                if server.finished || curt {
                    return;
                }
                segment.seq = segment.seq.wrapping_sub(probe);
                segment
            }
            // Something once more, cut as it comes; it is never of no use for long.
            1 | 2 if server.acked < server.sent || server.finished => {
                let from = if self.random.random() {
                    server.acked
                } else {
                    self.random.random_range(server.acked..=server.sent)
                };
                let to = server.sent.min(from + self.random.random_range(1..=SEGMENT_BYTES));
                server.segment(from, to, 1)
            }
            3.. if server.sent < total => {
                let to = total.min(server.sent + self.random.random_range(1..=SEGMENT_BYTES));
                // Frames are mostly sent as a whole.
                let frame_end = server.script.ends.range(server.sent + 1..=to).next_back();
                let to =
                    if self.random.random_range(0..3) > 0 { *frame_end.unwrap_or(&to) } else { to };
                let from = server.sent;
                server.sent = to;
                server.finished |= to == total && self.random.random();
                server.segment(from, to, 1)
            }
            3 => {
                server.finished = true;
                server.segment(total, total, 1)
            }
            _ => return,
        };
        self.arrive_maybe(kernel, segment);
    }

    fn arrive_maybe(&mut self, kernel: &mut Kernel, segment: Segment) {
        if self.happens(self.path.lost_before) {
            return;
        }
        if self.happens(self.path.held) && self.held.len() < 6 {
            self.held.push(segment);
            return;
        }
        if self.happens(self.path.repeated) {
            self.arrive(kernel, &segment);
        }
        self.arrive(kernel, &segment);
    }

    fn arrive(&mut self, kernel: &mut Kernel, segment: &Segment) {
        let Some(segment) = kernel.deliver(NETNS, segment, self.down) else {
            return;
        };
        if self.happens(self.path.lost_behind) {
            return;
        }
        self.client.receive(&segment);
        let seq = self.requests_first.wrapping_add(u32::try_from(self.requests_sent).unwrap());
        let ack = self.client.acknowledgement(seq);
        let ack = kernel.send(NETNS, &ack, self.up).unwrap();
        if !self.happens(self.path.acks_lost) {
            self.server.acknowledged(&ack);
        }
    }

    /// The client sends some of its requests, now and then a part of them once more.
    fn request(&mut self, kernel: &mut Kernel) {
        let from = if self.happens(10) {
            self.random.random_range(0..=self.requests_sent)
        } else {
            self.requests_sent
        };
        let to = (from + self.random.random_range(1..200)).min(self.requests.bytes.len());
        let mut segment = self.client.acknowledgement(0);
        segment.seq = self.requests_first.wrapping_add(u32::try_from(from).unwrap());
        segment.payload = self.requests.bytes[from..to].to_vec();
        self.requests_sent = self.requests_sent.max(to);
        let sent = kernel.send(NETNS, &segment, self.up).unwrap();
        assert_eq!((sent.seq, &sent.payload), (segment.seq, &segment.payload));
        self.server.acknowledged(&sent);
    }

    fn outcome(&self, kernel: &mut Kernel) -> Outcome {
        let flow = kernel.flow(self.key);
        let inserted = self.client.inserted(&self.server.script);
        assert_eq!(inserted.is_some(), flow.gate & INJECTED != 0, "said and done");
        if let Some(at) = inserted {
            let seq = self.server.first.wrapping_add(u32::try_from(at).unwrap());
            let injection = gate::injection(flow.gate).unwrap();
            assert_eq!(injection.seq, seq, "where it says it is");
        }
        kernel.forget(self.key);
        Outcome {
            moved: inserted.is_some(),
            in_sync: flow.inbound.is_in_sync(),
            dropped: flow.dropped,
        }
    }
}

/// Runs the histories of some seeds; a failure names its seed.
pub(crate) fn run(kernel: &mut Kernel, seeds: std::ops::Range<u64>, path: Path) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            History::new(kernel, seed, path).run(kernel)
        }));
        match result {
            Ok(outcome) => outcomes.push(outcome),
            Err(panic) => {
                eprintln!("seed {seed} on {path:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    outcomes
}
