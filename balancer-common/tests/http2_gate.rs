//! Every order in which two processors and the agent can take their steps on a gate, one after the other.
//!
//! The steps are those of the kernel programs, each of one atomic operation. What is proved is what a
//! move depends on: no byte behind the frame goes by unshifted, and there is one frame at most.

use balancer_common::http2::{
    gate::{self, LOCKED_IN, MISSED_IN, WANTED_NOW},
    shift::{FRAME_BYTES, Inbound, Injection, Segment},
};
use std::collections::HashSet;

/// Attempts to take the lock; enough to win and to lose.
const ATTEMPTS: u8 = 2;
const PROCESSORS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Lock(u8),
    Miss,
    Track,
    Publish,
    Unlock,
    Done { shifted: bool, frame: bool },
}

/// One processor with one segment of one byte, which is a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Processor {
    seq: u32,
    step: Step,
    gate: u64,
    may_inject: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    gate: u64,
    /// The track: what is next, and whether something behind a hole went by.
    next: u32,
    ahead: Option<u32>,
    is_lost: bool,
    agent_done: bool,
    processors: [Processor; PROCESSORS],
}

impl World {
    fn new(seqs: [u32; PROCESSORS]) -> Self {
        let processor = |seq| Processor { seq, step: Step::Lock(0), gate: 0, may_inject: false };
        Self {
            gate: 0,
            next: 100,
            ahead: None,
            is_lost: false,
            agent_done: false,
            processors: seqs.map(processor),
        }
    }

    /// The next atomic step of a processor.
    fn step(&mut self, index: usize) {
        let mut processor = self.processors[index];
        let seq = processor.seq;
        processor.step = match processor.step {
            Step::Lock(attempt) => {
                processor.gate = self.gate;
                self.gate |= LOCKED_IN;
                if processor.gate & LOCKED_IN == 0 {
                    Step::Track
                } else if attempt + 1 < ATTEMPTS {
                    Step::Lock(attempt + 1)
                } else {
                    Step::Miss
                }
            }
            Step::Miss => {
                processor.gate = self.gate;
                self.gate |= MISSED_IN;
                finished(processor.gate, seq)
            }
            Step::Track => {
                self.is_lost |= processor.gate & MISSED_IN != 0;
                if seq == self.next {
                    self.next += 1;
                    if self.ahead == Some(self.next) {
                        (self.next, self.ahead) = (self.next + 1, None);
                    }
                } else if seq > self.next {
                    self.ahead = Some(seq);
                }
                processor.may_inject = !self.is_lost
                    && self.ahead.is_none()
                    && self.next == seq + 1
                    && gate::is_wanted(processor.gate, true, true);
                if processor.may_inject { Step::Publish } else { Step::Unlock }
            }
            Step::Publish => {
                // Reading and swapping as one step loses nothing: a swap that fails reads again.
                if let Some(new) = gate::injected(self.gate, seq + 1) {
                    self.gate = new;
                }
                Step::Unlock
            }
            Step::Unlock => {
                let gate = self.gate;
                self.gate &= !LOCKED_IN;
                finished(gate, seq)
            }
            Step::Done { .. } => unreachable!("a processor that is done"),
        };
        self.processors[index] = processor;
    }
}

/// What becomes of a segment by the gate that its processor read last.
fn finished(gate: u64, seq: u32) -> Step {
    let segment = Segment { seq, length: 1, fin: false, rst: false, again: false, room: 1_000 };
    let inbound = gate::injection(gate).map(|injection: Injection| injection.inbound(&segment));
    match inbound {
        None | Some(Inbound::Pass) => Step::Done { shifted: false, frame: false },
        Some(Inbound::Shift) => Step::Done { shifted: true, frame: false },
        Some(Inbound::Keep { length, frame }) => {
            assert_eq!(length, 1, "nothing is cut of what ends at the frame");
            Step::Done { shifted: false, frame }
        }
    }
}

/// Walks every order; returns whether some of them led to a frame.
fn explore(world: &World, seen: &mut HashSet<World>) -> bool {
    if !seen.insert(world.clone()) {
        return false;
    }
    let mut moved = false;
    let mut is_over = true;
    if !world.agent_done {
        let mut next = world.clone();
        next.gate |= WANTED_NOW;
        next.agent_done = true;
        moved |= explore(&next, seen);
    }
    for index in 0..PROCESSORS {
        if matches!(world.processors[index].step, Step::Done { .. }) {
            continue;
        }
        is_over = false;
        let mut next = world.clone();
        next.step(index);
        moved |= explore(&next, seen);
    }
    if is_over {
        moved |= check(world);
    }
    moved
}

fn check(world: &World) -> bool {
    assert_eq!(
        world.gate & LOCKED_IN == 0,
        !world.processors.iter().any(|it| it.step == Step::Unlock)
    );
    let Some(injection) = gate::injection(world.gate) else {
        assert!(
            world
                .processors
                .iter()
                .all(|it| it.step == Step::Done { shifted: false, frame: false })
        );
        return false;
    };
    for processor in &world.processors {
        let Step::Done { shifted, frame } = processor.step else { panic!("not over: {world:?}") };
        let is_behind = processor.seq >= injection.seq;
        assert_eq!(shifted, is_behind, "{world:?}");
        // Whoever went by before the frame was put in has none of it.
        assert!(!frame || processor.seq + 1 == injection.seq, "{world:?}");
    }
    let framed = |it: &&Processor| matches!(it.step, Step::Done { frame: true, .. });
    assert!(world.processors.iter().filter(framed).count() > 0, "nobody carries it: {world:?}");
    true
}

#[test]
fn no_order_of_steps_lets_a_byte_behind_the_frame_by_unshifted() {
    assert_eq!(FRAME_BYTES, 17);
    let mut moved = 0;
    for seqs in [[100, 101], [101, 100], [100, 100], [101, 102]] {
        let mut seen = HashSet::new();
        moved += u32::from(explore(&World::new(seqs), &mut seen));
        assert!(seen.len() > 50, "{} states", seen.len());
    }
    assert!(moved > 0, "some order must lead to a move");
}
