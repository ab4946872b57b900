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

/// Tries on a bad path: connections that moved, or are out of sync.
const TRIES: u64 = 30;
/// What a bad path loses, repeats and delays of a hundred packets each.
const PERCENTS: [f64; 3] = [0.1, 1.0, 5.0];
const SEED: u64 = 1;

/// Turns in which moves and servers' own frames are compared.
const TURNS: u64 = 4;
/// The round that is held to the others.
const MOVED: &str = "moves";
/// How hyper's failures end.
const CANCELLED: &str = "Cancelled: operation was canceled";

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
                assert!(outcome.moves > 0 && outcome.dials > outcome.moves, "{}", outcome.line());
                assert!(outcome.moves >= moves && outcome.out_of_sync == 0, "{}", outcome.line());
                if outcome.pair.0 == Tonic {
                    assert_hyper(&outcome);
                } else {
                    assert_nothing_lost(&outcome);
                }
            }
        }
    }
}

/// hyper cancels requests that are on their way to a connection when any GOAWAY comes while another stream is
/// open, a server's own one included. Nothing else may fail.
fn assert_hyper(outcome: &Outcome) {
    let line = outcome.line();
    assert!(outcome.tally.failures.keys().all(|why| why.ends_with(CANCELLED)), "{line}");
    assert!(outcome.tally.replied() > 0, "{line}");
}

fn from_tonic() -> Vec<(Implementation, Implementation)> {
    Implementation::ALL.map(|server| (Tonic, server)).into()
}

#[test]
fn tonic_loses_no_more_calls_than_by_its_servers_own_goaway() {
    let Some(programs) = programs() else { return };
    let round = |pairs, mode, moves| {
        let (v6, way) = (false, Way::Offloads);
        play(&programs, &Round { v6, way, pairs, calls: MIXED, mode, moves })
    };
    let cost = |outcomes: &[Outcome]| -> (u64, u64) {
        let failed = outcomes.iter().map(|outcome| outcome.tally.failed()).sum();
        (failed, outcomes.iter().map(|outcome| outcome.moves).sum())
    };
    let alike = || vec![(Tonic, Tonic); 3];
    let (failed, goaways) = cost(&round(from_tonic(), Mode::Native, moves()));
    println!("servers' own, by age: {failed} of {goaways} cost tonic a call");
    // What it costs depends on how busy the machine is: in turns, so that both meet the same.
    let [mut by_server, mut by_move] = [(0, 0); 2];
    for turn in 0..2 * TURNS {
        let is_move = turn % 4 == 1 || turn % 4 == 2;
        let mode = if is_move { Mode::Calm } else { Mode::Frame };
        let outcomes = round(alike(), mode, moves() / TURNS);
        let (failed, goaways) = cost(&outcomes);
        let sum = if is_move { &mut by_move } else { &mut by_server };
        *sum = (sum.0 + failed, sum.1 + goaways);
        // What a server does by itself may fail in other ways too.
        if is_move {
            outcomes.iter().for_each(assert_hyper);
        }
    }
    for (what, (failed, goaways)) in [("the same frame by the server", by_server), (MOVED, by_move)]
    {
        println!("{what}: {failed} of {goaways} cost tonic a call");
    }
    let (by_server, by_move) = (by_server.0, by_move.0);
    // Both draw from the same chances: a moment, and which requests are on their way then. Two standard
    // deviations of a difference, and no less than three.
    let slack = (4 * (by_server + by_move)).isqrt().max(3);
    assert!(by_move <= by_server + slack, "{by_move} by moves, {by_server} by the same frame");
}

#[test]
fn tonic_loses_next_to_no_call_when_moves_wait_for_a_quiet_moment() {
    let Some(programs) = programs() else { return };
    let calls = Calls { rate: 40, streams: 0, ..MIXED };
    let (v6, way, mode, moves) = (true, Way::Offloads, Mode::Quiet, moves() / 2);
    let round = Round { v6, way, pairs: from_tonic(), calls, mode, moves };
    for outcome in play(&programs, &round) {
        // A call that begins while the frame is under way meets it in hyper's dispatcher; the busier the machine,
        // the longer that takes. On an idle one no call does.
        assert!(outcome.tally.failed() * 10 <= outcome.moves, "{}", outcome.line());
        assert_hyper(&outcome);
    }
}

#[test]
fn what_large_requests_lose_is_shown_beside_servers_own_goaway() {
    let Some(programs) = programs() else { return };
    let calls = Calls { unary: 4, rate: 20, streams: 0, bytes_max: 1 << 20, renew: 0 };
    for mode in [Mode::Native, Mode::Now] {
        let (v6, way, moves) = (false, Way::Offloads, moves() / 2);
        let [_, pairs, _] = pairs();
        for outcome in play(&programs, &Round { v6, way, pairs, calls, mode, moves }) {
            assert_eq!(outcome.mismatches(), 0, "{}", outcome.line());
        }
    }
}

#[test]
fn no_call_fails_on_a_path_that_loses_repeats_and_reorders() {
    let Some(programs) = programs() else { return };
    // A connection for each worker, and another after some calls: one that is out of sync stays so.
    let calls = Calls { unary: 8, rate: 100, streams: 0, bytes_max: 64 << 10, renew: 20 };
    let (mut all_moves, mut all_lost) = (0, 0);
    for (number, percent) in PERCENTS.into_iter().enumerate() {
        let pairs = vec![(Tonic, Tonic), (Go, Go), (Tonic, Go), (Go, Grpcio)];
        let (way, mode) = (Way::Bad { percent, seed: SEED }, Mode::Now);
        let moves = if is_long() { 3 * TRIES } else { TRIES };
        let families = [number == 1, number != 1];
        for v6 in families.into_iter().take(if is_long() { 2 } else { 1 }) {
            let round = Round { v6, way, pairs: pairs.clone(), calls, mode, moves };
            for outcome in play(&programs, &round) {
                assert_eq!(outcome.mismatches(), 0, "{}", outcome.line());
                assert_eq!(outcome.failed_in_time(), 0, "{}", outcome.line());
                assert!(outcome.tally.replied() > 0, "{}", outcome.line());
                all_moves += outcome.moves;
                all_lost += outcome.out_of_sync;
            }
        }
    }
    // More holes at a time than are kept may come, but seldom.
    assert!(all_lost * 20 <= all_moves, "{all_lost} out of sync, {all_moves} moved");
}
