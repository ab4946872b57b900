//! Connections of real gRPC clients to real servers of other implementations are moved: no call fails, no byte
//! is another.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

#[path = "interop/mover.rs"]
mod mover;
#[path = "interop/round.rs"]
mod round;

use self::{
    mover::Mode,
    round::{Calls, Outcome, Round, Way, play},
};
use balancer_tests::{
    capability,
    interop::program::{
        Implementation::{self, Go, Grpcio, Tonic},
        Programs,
    },
};
use std::path::Path;

/// Moves of each pair: ten seconds of them, thirty in the long suite.
const MOVES: u64 = 50;
/// Names the variable that asks for the long suite: three times the moves, every path for every pair.
const LONG: &str = "BALANCER_INTEROP_LONG";

/// Unary calls from nothing to 200 KiB, eight at a time, and a long stream of each kind.
const MIXED: Calls = Calls { unary: 8, rate: 100, streams: 1, bytes_max: 200 << 10, renew: 0 };

fn programs() -> Option<Programs> {
    capability::interop_programs(Path::new(env!("CARGO_BIN_EXE_balancer-interop")))
}

fn is_long() -> bool {
    std::env::var_os(LONG).is_some_and(|value| !value.is_empty())
}

fn moves() -> u64 {
    if is_long() { 3 * MOVES } else { MOVES }
}

/// Every client with every server, three at a time, each implementation once on either side.
fn pairs() -> [Vec<(Implementation, Implementation)>; 3] {
    [0, 1, 2].map(|shift| {
        let pair = |at: usize| (Implementation::ALL[at], Implementation::ALL[(at + shift) % 3]);
        (0..3).map(pair).collect()
    })
}

fn assert_nothing_lost(outcome: &Outcome) {
    let line = outcome.line();
    assert_eq!(outcome.mismatches(), 0, "{line}");
    assert_eq!(outcome.tally.failed(), 0, "{line}");
    for kind in ["unary", "download", "upload", "chat"] {
        assert!(outcome.tally.replies.contains_key(kind), "no {kind}: {line}");
    }
}

#[test]
fn every_client_follows_from_every_server_and_no_call_fails() {
    let Some(programs) = programs() else { return };
    let ways: &[_] = if is_long() {
        &[(false, Way::Offloads), (true, Way::Plain), (true, Way::Offloads), (false, Way::Plain)]
    } else {
        &[(false, Way::Offloads), (true, Way::Plain)]
    };
    for (v6, way) in ways {
        for pairs in pairs() {
            let (mode, moves) = (Mode::Now, moves());
            let round = Round { v6: *v6, way: *way, pairs, calls: MIXED, mode, moves };
            for outcome in play(&programs, &round) {
                assert!(outcome.dials > outcome.moves, "{}", outcome.line());
                if outcome.pair.0 == Tonic {
                    // hyper cancels the first request after any GOAWAY while another stream is open, a
                    // server's own one included: its dispatcher finds out by that request.
                    assert_eq!(outcome.mismatches(), 0, "{}", outcome.line());
                    assert!(outcome.tally.failed() <= outcome.moves, "{}", outcome.line());
                } else {
                    assert_nothing_lost(&outcome);
                }
            }
        }
    }
}
