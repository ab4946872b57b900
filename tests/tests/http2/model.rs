//! A pure model of both ends: a server that sends frames over TCP, and a client that puts them together.

use super::segment::{ACK, FIN, PSH, Segment};
use balancer_common::http2::{
    frame::{CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE},
    shift::FRAME,
};
use rand::{Rng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet};

/// Appends a frame.
pub(crate) fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// Bytes that one side sends, and where another frame may stand between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    pub(crate) boundaries: BTreeSet<usize>,
    /// Ends of frames, those inside of a block of headers as well.
    pub(crate) ends: BTreeSet<usize>,
}

/// What a server may send: settings, then frames of all kinds and sizes.
pub(crate) fn server_script(random: &mut StdRng, frames: usize) -> Script {
    let mut script = Script::default();
    frame(&mut script.bytes, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    script.boundaries.insert(script.bytes.len());
    let mut stream = 1;
    for _ in 0..frames {
        let length = match random.random_range(0..4) {
            0 => 0,
            1 => random.random_range(0..20),
            2 => random.random_range(0..300),
            _ => random.random_range(0..6_000),
        };
        let mut payload = vec![0_u8; length];
        random.fill(&mut payload[..]);
        match random.random_range(0..6) {
            0 => frame(&mut script.bytes, PING, 1, 0, &[7; 8]),
            1 => frame(&mut script.bytes, WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]),
            2 => {
                frame(&mut script.bytes, HEADERS, 0, stream, &payload);
                script.ends.insert(script.bytes.len());
                for _ in 0..random.random_range(0..2) {
                    frame(&mut script.bytes, CONTINUATION, 0, stream, &[3; 9]);
                    script.ends.insert(script.bytes.len());
                }
                frame(&mut script.bytes, CONTINUATION, END_HEADERS, stream, &payload);
            }
            3 => frame(&mut script.bytes, 0xbe, random.random(), 0, &payload),
            4 => {
                frame(&mut script.bytes, HEADERS, END_HEADERS | 1, stream, &payload);
                stream += 2;
            }
            _ => frame(&mut script.bytes, DATA, 0, stream, &payload),
        }
        script.boundaries.insert(script.bytes.len());
        script.ends.insert(script.bytes.len());
    }
    script
}

/// What a client may send: the preface, settings and some requests.
pub(crate) fn client_script(random: &mut StdRng, requests: u32) -> Script {
    let mut script = Script { bytes: PREFACE.to_vec(), ..Script::default() };
    frame(&mut script.bytes, SETTINGS, 0, 0, &[]);
    for request in 0..requests {
        let length = random.random_range(0..500);
        frame(&mut script.bytes, HEADERS, END_HEADERS, 2 * request + 1, &[1; 30]);
        frame(&mut script.bytes, DATA, 1, 2 * request + 1, &vec![2; length]);
    }
    script
}

/// The server's TCP, which knows nothing of the frame that is put in.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) script: Script,
    pub(crate) first: u32,
    pub(crate) acked: usize,
    pub(crate) sent: usize,
    pub(crate) fin_acked: bool,
    pub(crate) finished: bool,
}

impl Server {
    pub(crate) fn new(script: Script, first: u32) -> Self {
        Self { script, first, acked: 0, sent: 0, fin_acked: false, finished: false }
    }

    /// The segment with the bytes `from..to`.
    pub(crate) fn segment(&self, from: usize, to: usize, ack: u32) -> Segment {
        let ends = to == self.script.bytes.len() && self.finished;
        Segment {
            seq: self.first.wrapping_add(u32::try_from(from).unwrap()),
            ack,
            flags: ACK | if ends { FIN } else { PSH },
            window: 500,
            timestamps: from.is_multiple_of(2),
            payload: self.script.bytes[from..to].to_vec(),
            ..Segment::default()
        }
    }

    /// Takes an acknowledgement, which must be of what was sent.
    pub(crate) fn acknowledged(&mut self, segment: &Segment) {
        let limit = self.sent + usize::from(self.finished);
        let offset = |number: u32| {
            let offset = number.wrapping_sub(self.first) as usize;
            assert!(offset <= limit, "acknowledged {offset} of {limit} bytes sent");
            offset
        };
        let acked = offset(segment.ack);
        for (left, right) in &segment.blocks {
            assert!(offset(*left) <= offset(*right), "a block from its end to its beginning");
        }
        if acked > self.script.bytes.len() {
            self.fin_acked = true;
        }
        self.acked = self.acked.max(acked.min(self.script.bytes.len()));
    }
}

/// The client's TCP: keeps what arrives, and acknowledges it.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) first: u32,
    received: Vec<Option<u8>>,
    pub(crate) next: usize,
    pub(crate) fin_at: Option<usize>,
}

impl Client {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, ..Self::default() }
    }

    /// Takes a segment. The same place must never have two values.
    pub(crate) fn receive(&mut self, segment: &Segment) {
        let offset = segment.seq.wrapping_sub(self.first).cast_signed();
        for (index, byte) in (0..).zip(&segment.payload) {
            let Ok(at) = usize::try_from(offset + index) else { continue };
            if self.received.len() <= at {
                self.received.resize(at + 1, None);
            }
            match self.received[at] {
                // A receiver looks only at what is new; what lies before was taken long ago.
                Some(_) if at < self.next => {}
                Some(known) => assert_eq!(known, *byte, "two values at {at}"),
                None => self.received[at] = Some(*byte),
            }
        }
        if segment.flags & FIN != 0 {
            let at = usize::try_from(offset).unwrap() + segment.payload.len();
            assert!(self.fin_at.is_none_or(|known| known == at), "two ends");
            self.fin_at = Some(at);
        }
        while self.received.get(self.next).is_some_and(Option::is_some) {
            self.next += 1;
        }
    }

    /// Whether everything up to the end is there.
    pub(crate) fn is_done(&self) -> bool {
        self.fin_at == Some(self.next)
    }

    /// The bytes in order.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.received[..self.next].iter().map(|byte| byte.unwrap()).collect()
    }

    /// Its acknowledgement, with blocks of what it has beyond.
    pub(crate) fn acknowledgement(&self, seq: u32) -> Segment {
        let number = |at: usize| self.first.wrapping_add(u32::try_from(at).unwrap());
        let mut runs = BTreeMap::new();
        let mut start = None;
        for at in self.next..=self.received.len() {
            match (self.received.get(at).copied().flatten(), start) {
                (Some(_), None) => start = Some(at),
                (None, Some(from)) => {
                    runs.insert(from, at);
                    start = None;
                }
                _ => {}
            }
        }
        let blocks = runs.into_iter().take(3).map(|(from, to)| (number(from), number(to)));
        let fin = u32::from(self.is_done());
        Segment {
            seq,
            ack: number(self.next).wrapping_add(fin),
            flags: ACK,
            window: 60_000,
            blocks: blocks.collect(),
            timestamps: self.next.is_multiple_of(3),
            ..Segment::default()
        }
    }

    /// Where the frame stands in what was received, if it is not just what the server sent.
    pub(crate) fn inserted(&self, server: &Script) -> Option<usize> {
        let bytes = self.bytes();
        if bytes == server.bytes {
            return None;
        }
        let same = bytes.iter().zip(&server.bytes).take_while(|(a, b)| a == b).count();
        let at = *server
            .boundaries
            .iter()
            .find(|at| {
                **at <= same
                    && bytes.get(**at..**at + FRAME.len()) == Some(&FRAME[..])
                    && bytes[**at + FRAME.len()..] == server.bytes[**at..]
            })
            .expect("the server's bytes with one frame at a boundary");
        Some(at)
    }
}
