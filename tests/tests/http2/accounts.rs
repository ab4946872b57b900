//! Accounts: what the programs count of requests, against a model that knows both ends.

use super::{
    kernel::Kernel,
    model::frame,
    segment::{ACK, Ends, Segment, Wire},
};
use balancer_agent::datapath::loader;
use balancer_common::http2::{
    counts::{CODES, Http2Counts, Http2TotalsKey, code_index},
    flow::{Http2Flow, Http2Key},
    frame::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS},
    gate::SETTLED,
};
use balancer_tests::capability;
use bytemuck::Zeroable;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub(super) const NETNS: u64 = 5;
const STEPS: usize = 120;
const SEGMENT_BYTES: usize = 400;
pub(super) const HISTORIES: u64 = 300;
/// A parameter that is not the one that is looked for, and the one that is (RFC 9113, section 6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Bytes of one side, and which of them went by.
pub(super) struct Side {
    pub(super) first: u32,
    pub(super) bytes: Vec<u8>,
    sent: usize,
    went_by: Vec<bool>,
}

impl Side {
    fn new(first: u32, bytes: Vec<u8>) -> Self {
        Self { first, bytes, sent: 0, went_by: Vec::new() }
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame(&mut self.bytes, kind, flags, stream, payload);
    }

    /// Where everything before went by.
    fn passed(&self) -> usize {
        self.went_by.iter().position(|it| !it).unwrap_or(self.went_by.len())
    }

    fn segment(&mut self, from: usize, to: usize) -> Segment {
        self.went_by.resize(self.bytes.len(), false);
        Segment {
            seq: self.first.wrapping_add(u32::try_from(from).unwrap()),
            flags: ACK,
            window: 500,
            payload: self.bytes[from..to].to_vec(),
            ..Segment::default()
        }
    }
}

/// A stream, as both ends know it.
struct Stream {
    id: u32,
    /// Where its request ends in what the client sends.
    request_end: usize,
    /// The server never answers it.
    is_silent: bool,
    is_open: bool,
}

pub(super) struct Books {
    random: StdRng,
    pub(super) key: Http2Key,
    pub(super) down: Ends,
    pub(super) up: Ends,
    pub(super) client: Side,
    pub(super) server: Side,
    streams: Vec<Stream>,
    /// What should be counted; latencies are not compared one by one.
    expected: Http2Counts,
    streams_max: u32,
    loss: u32,
}

pub(super) fn slots_taken(flow: &Http2Flow) -> usize {
    flow.streams.iter().filter(|slot| **slot != 0).count()
}

impl Books {
    /// Begins a connection of a backend of its own, so that what it has in flight is its own.
    fn new(kernel: &mut Kernel, seed: u64, loss: u32) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let Wire { key, down, up } = Wire::new(NETNS, 40_000);
        let (client_first, server_first) = (random.random(), random.random());
        kernel.establish(key, seed, client_first, server_first);
        kernel.change(key, |flow| {
            (flow.service, flow.backend, flow.incarnation) = (1, backend(seed), 1);
        });
        let mut client = Side::new(client_first, PREFACE.to_vec());
        client.frame(SETTINGS, 0, 0, &[0; 12]);
        let mut server = Side::new(server_first, Vec::new());
        let streams_max = random.random_range(1..1_000);
        let mut settings = Vec::new();
        for (id, value) in [(INITIAL_WINDOW_SIZE, 65_535), (MAX_CONCURRENT_STREAMS, streams_max)] {
            settings.extend(u16::to_be_bytes(id));
            settings.extend(u32::to_be_bytes(value));
        }
        server.frame(SETTINGS, 0, 0, &settings);
        let expected = Http2Counts::zeroed();
        let streams = Vec::new();
        Self { random, key, down, up, client, server, streams, expected, streams_max, loss }
    }

    fn happens(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn code(&mut self) -> u32 {
        if self.happens(20) { self.random.random() } else { self.random.random_range(0..14) }
    }

    /// The client begins a request.
    pub(super) fn open(&mut self) {
        let id = self.streams.last().map_or(1, |stream| stream.id + 2);
        let is_whole = self.random.random();
        let flags = if is_whole { END_HEADERS | END_STREAM } else { END_HEADERS };
        let length = self.random.random_range(0..60);
        self.client.frame(HEADERS, flags, id, &vec![9; length]);
        if !is_whole {
            self.client.frame(DATA, END_STREAM, id, &vec![8; length]);
        }
        let (request_end, is_silent) = (self.client.bytes.len(), self.happens(30));
        self.streams.push(Stream { id, request_end, is_silent, is_open: true });
        self.expected.opened += 1;
    }

    /// Somebody ends a stream: the server one that it has, or the client one that gets no answer.
    fn end(&mut self) {
        let has = self.client.passed();
        let open = |stream: &&mut Stream| {
            stream.is_open && (stream.is_silent || stream.request_end <= has)
        };
        let Some(stream) = self.streams.iter_mut().find(open) else { return };
        stream.is_open = false;
        let (id, is_silent) = (stream.id, stream.is_silent);
        let code = self.code();
        if is_silent {
            self.client.frame(RST_STREAM, 0, id, &code.to_be_bytes());
            self.expected.reset_by_client += 1;
            self.expected.client_resets[code_index(code)] += 1;
        } else if self.happens(30) {
            self.server.frame(RST_STREAM, 0, id, &code.to_be_bytes());
            self.expected.reset_by_server += 1;
            self.expected.server_resets[code_index(code)] += 1;
        } else {
            let length = self.random.random_range(0..900);
            self.server.frame(HEADERS, END_HEADERS, id, &[7; 11]);
            self.server.frame(DATA, 0, id, &vec![6; length]);
            self.server.frame(HEADERS, END_HEADERS | END_STREAM, id, &[5; 7]);
            self.expected.ended += 1;
            if self.happens(30) {
                // As servers do that want no more of the request: it has ended before that.
                self.server.frame(RST_STREAM, 0, id, &[0; 4]);
            }
        }
    }

    fn go_away(&mut self) {
        let codes = [self.code(), self.code()];
        let payload = |code: u32| [[0x7f, 0xff, 0xff, 0xff], code.to_be_bytes()].concat();
        self.server.frame(GOAWAY, 0, 0, &payload(codes[0]));
        self.client.frame(GOAWAY, 0, 0, &payload(codes[1]));
        self.expected.goaways_by_server += 1;
        self.expected.server_goaways[code_index(codes[0])] += 1;
        self.expected.goaways_by_client += 1;
        self.expected.client_goaways[code_index(codes[1])] += 1;
    }

    /// The client's next bytes go out, now and then a part of them once more.
    fn send(&mut self, kernel: &Kernel) {
        let from = if self.happens(10) {
            self.random.random_range(0..=self.client.sent)
        } else {
            self.client.sent
        };
        let to = self.client.bytes.len().min(from + self.random.random_range(1..SEGMENT_BYTES));
        let segment = self.client.segment(from, to);
        self.client.sent = self.client.sent.max(to);
        kernel.send(NETNS, &segment, self.up).unwrap();
        self.client.went_by[from..to].fill(true);
    }

    /// The server's bytes come in: new ones, or what was lost.
    fn receive(&mut self, kernel: &Kernel) {
        let again = self.server.passed() < self.server.sent && self.happens(40);
        let from = if again { self.server.passed() } else { self.server.sent };
        let to = self.server.bytes.len().min(from + self.random.random_range(1..SEGMENT_BYTES));
        let segment = self.server.segment(from, to);
        self.server.sent = self.server.sent.max(to);
        if self.happens(self.loss) {
            return;
        }
        kernel.deliver(NETNS, &segment, self.down).unwrap();
        self.server.went_by[from..to].fill(true);
    }

    /// Plays it to its end; whether it stayed in sync.
    fn run(mut self, kernel: &mut Kernel, seed: u64) -> bool {
        for _ in 0..STEPS {
            match self.random.random_range(0..10) {
                0 | 1 => self.open(),
                2..=4 => self.end(),
                5..=6 => self.send(kernel),
                _ => self.receive(kernel),
            }
        }
        self.go_away();
        while self.client.passed() < self.client.bytes.len() {
            self.send(kernel);
        }
        while self.server.passed() < self.server.bytes.len() {
            self.receive(kernel);
        }
        let flow = kernel.flow(self.key);
        let is_in_sync = flow.inbound.is_in_sync() && flow.outbound.is_in_sync();
        if is_in_sync {
            self.compare(kernel, seed, &flow);
        } else {
            compare_lost(kernel, seed, &flow);
        }
        kernel.forget(self.key);
        is_in_sync
    }

    fn compare(&self, kernel: &Kernel, seed: u64, flow: &Http2Flow) {
        let open = self.streams.iter().filter(|stream| stream.is_open).count();
        assert_eq!(flow.in_flight() as usize, open, "seed {seed}");
        assert_eq!(slots_taken(flow), open, "seed {seed}");
        assert_eq!(kernel.in_flight(backend(seed)), open as u64, "seed {seed}");
        assert_eq!(flow.sent_bytes, self.client.bytes.len() as u64, "seed {seed}");
        assert_eq!(flow.received_bytes, self.server.bytes.len() as u64, "seed {seed}");
        let mut counts = flow.counts;
        let finished = counts.ended + counts.reset_by_client + counts.reset_by_server;
        assert_eq!(counts.latency.iter().sum::<u32>(), finished, "seed {seed}");
        counts.latency = Zeroable::zeroed();
        let mut expected = self.expected;
        if self.loss > 0 {
            // A code may have been lost, and come again as nothing but a part of a payload.
            let within = |counted: &mut [u32; CODES], sent: &mut [u32; CODES]| {
                assert!(counted.iter().zip(&*sent).all(|(a, b)| a <= b), "seed {seed}");
                (*counted, *sent) = ([0; CODES], [0; CODES]);
            };
            within(&mut counts.server_resets, &mut expected.server_resets);
            within(&mut counts.server_goaways, &mut expected.server_goaways);
        } else {
            assert_eq!(flow.streams_max, self.streams_max, "seed {seed}");
        }
        assert_eq!(counts, expected, "seed {seed}");
    }
}

/// What cannot be followed any more is settled: nothing in flight, and all in the totals.
pub(super) fn compare_lost(kernel: &Kernel, seed: u64, flow: &Http2Flow) {
    assert_ne!(flow.gate & SETTLED, 0, "seed {seed}");
    assert_eq!((flow.in_flight(), kernel.in_flight(backend(seed))), (0, 0), "seed {seed}");
    let totals = kernel.totals(totals_key(seed));
    assert_eq!(totals.connections, 1, "seed {seed}");
    assert_eq!(totals.received_bytes, flow.received_bytes, "seed {seed}");
    let mut sums = Zeroable::zeroed();
    balancer_common::http2::counts::Http2Sums::add(&mut sums, &flow.counts);
    assert_eq!(totals.sums, sums, "seed {seed}");
}

pub(super) fn backend(seed: u64) -> u32 {
    u32::try_from(seed).unwrap() + 1
}

fn totals_key(seed: u64) -> Http2TotalsKey {
    Http2TotalsKey { service: 1, backend: backend(seed), incarnation: 1, reserved: 0 }
}

#[test]
fn the_counters_are_what_both_ends_know() {
    if !capability::can_load_ebpf() {
        return;
    }
    for bounded in [false, true] {
        let mut kernel = Kernel::load(loader::object(), bounded);
        for seed in 0..HISTORIES {
            let stayed = Books::new(&mut kernel, seed, 0).run(&mut kernel, seed);
            assert!(stayed, "seed {seed}: nothing was lost");
        }
        let lossy = HISTORIES..2 * HISTORIES;
        for seed in lossy {
            let stayed = Books::new(&mut kernel, seed, 8).run(&mut kernel, seed);
            assert!(stayed, "seed {seed}: what was lost came again");
        }
    }
}

/// A connection on which both sides have said that they speak HTTP/2.
pub(super) fn begun(kernel: &mut Kernel, seed: u64) -> Books {
    let mut books = Books::new(kernel, seed, 0);
    books.flush(kernel);
    books
}

impl Books {
    pub(super) fn flush(&mut self, kernel: &Kernel) {
        while self.client.passed() < self.client.bytes.len() || self.client.sent == 0 {
            self.send(kernel);
        }
        while self.server.passed() < self.server.bytes.len() || self.server.sent == 0 {
            self.receive(kernel);
        }
    }
}
