//! Moves connections at a pace, and sees to it that each client comes back on another.

use super::round::{Round, Way};
use balancer_agent::datapath::http2;
use balancer_common::http2::{
    Http2Request,
    flow::{Http2Flow, Http2Key, Visibility},
    gate::{CLOSED, DEAD, INJECTED, WANTED, WANTED_NOW},
};
use balancer_tests::fixture::Fixture;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The pace: a move, and the next one.
const PERIOD: Duration = Duration::from_millis(200);
/// How often connections are looked at: maps raise no events.
const LOOK: Duration = Duration::from_millis(10);
/// How long a calm moment is waited for, as the agent does once its patience is over.
const CALM_PATIENCE: Duration = Duration::from_millis(250);
/// Longest wait for a move to be made and followed.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same on a bad path, where segments are sent again and again.
const BAD_PATIENCE: Duration = Duration::from_mins(1);

/// Who sends clients elsewhere, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel programs, at any boundary.
    Now,
    /// The kernel programs, as the agent asks for it where no moment is quiet: in a calm one, then at any boundary.
    Calm,
    /// The kernel programs, when no stream is open.
    Quiet,
    /// The server itself, by its connections' age.
    Native,
    /// The server, by one frame behind its own bytes as in a move, when the connection has an age.
    Frame,
}

/// A connection that was asked to move.
#[derive(Clone, Copy)]
struct Asked {
    key: Http2Key,
    cookie: u64,
    at: Instant,
    is_urgent: bool,
}

/// A service whose connections are moved.
pub(crate) struct Lane {
    service: u32,
    backend: SocketAddr,
    pub(crate) moves: u64,
    pub(crate) out_of_sync: u64,
    asked: Option<Asked>,
    /// Those that were counted as out of sync.
    lost: BTreeSet<u64>,
    due: Instant,
    progress: Instant,
}

impl Lane {
    pub(crate) fn new(service: u32, backend: SocketAddr) -> Self {
        let (now, lost) = (Instant::now(), BTreeSet::new());
        let (moves, out_of_sync, asked) = (0, 0, None);
        Self { service, backend, moves, out_of_sync, asked, lost, due: now, progress: now }
    }

    /// Whether there was enough of it: connections that are out of sync are tries as well. A client that does
    /// not dial by itself stays on such a one: a busy machine may lose packets on a path of its own.
    fn is_done(&self, round: &Round) -> bool {
        let is_stuck = self.out_of_sync > 0 && round.calls.renew == 0;
        is_stuck || self.moves + self.out_of_sync >= round.moves
    }

    fn step(&mut self, fixture: &Fixture, flows: &[(Http2Key, Http2Flow)], round: &Round) {
        let mine: Vec<_> = flows
            .iter()
            .filter(|(key, _)| u16::from_be(key.server_port_be) == self.backend.port())
            .collect();
        let is_bad = matches!(round.way, Way::Bad { .. });
        for (_, flow) in &mine {
            if flow.visibility() == Visibility::OutOfSync && self.lost.insert(flow.cookie) {
                self.out_of_sync += 1;
                println!(
                    "out of sync: gate {:x}, {:?}, {:?}",
                    flow.gate, flow.inbound, flow.outbound
                );
                self.progress = Instant::now();
            }
        }
        if let Some(asked) = self.asked {
            self.follow(asked.cookie, &mine, is_bad);
            self.urge(fixture);
        } else if Instant::now() >= self.due
            && let Some((key, flow)) = mine.iter().find(|(_, flow)| is_movable(flow))
        {
            let wanted = match round.mode {
                Mode::Quiet => WANTED,
                Mode::Calm => WANTED | WANTED_NOW,
                Mode::Now | Mode::Native | Mode::Frame => WANTED_NOW,
            };
            let (key, cookie, at) = (*key, flow.cookie, Instant::now());
            let request = Http2Request { key, cookie, wanted };
            if http2::request(fixture.loaded(), &request).unwrap() {
                let is_urgent = round.mode != Mode::Calm;
                self.asked = Some(Asked { key, cookie, at, is_urgent });
                // At no fixed step with the calls.
                let period = PERIOD.mul_f64(rand::random_range(0.5..1.5));
                self.due = (self.due + period).max(Instant::now());
            }
        }
        let patience = if is_bad { BAD_PATIENCE } else { PATIENCE };
        let stuck = self.progress.elapsed() > patience;
        assert!(!stuck, "after {} moves to {}: {mine:?}", self.moves, self.backend);
    }

    /// Where no moment is calm, any boundary will do.
    fn urge(&mut self, fixture: &Fixture) {
        let Some(asked) = &mut self.asked else { return };
        if !asked.is_urgent && asked.at.elapsed() >= CALM_PATIENCE {
            asked.is_urgent = true;
            let (key, cookie) = (asked.key, asked.cookie);
            let request = Http2Request { key, cookie, wanted: WANTED_NOW };
            // It may have closed meanwhile.
            http2::request(fixture.loaded(), &request).unwrap();
        }
    }

    /// Looks whether the connection has moved, and the client has another one.
    fn follow(&mut self, cookie: u64, mine: &[&(Http2Key, Http2Flow)], is_bad: bool) {
        let asked = mine.iter().find(|(_, flow)| flow.cookie == cookie);
        let Some((_, asked)) = asked else {
            self.asked = None;
            return;
        };
        let has_another = mine.iter().any(|(_, flow)| flow.cookie != cookie && is_live(flow));
        if asked.gate & INJECTED != 0 {
            if has_another || asked.gate & CLOSED != 0 && is_bad {
                self.moves += 1;
                self.asked = None;
                self.progress = Instant::now();
            }
        } else if asked.gate & CLOSED != 0 || self.lost.contains(&cookie) {
            self.asked = None;
            self.progress = Instant::now();
        }
    }
}

fn is_live(flow: &Http2Flow) -> bool {
    flow.gate & (CLOSED | DEAD | INJECTED) == 0
}

fn is_movable(flow: &Http2Flow) -> bool {
    is_live(flow) && flow.visibility() == Visibility::Visible
}

/// Sends clients elsewhere until each has gone as often as the round says.
pub(crate) async fn keep_moving(fixture: &Fixture, lanes: &mut [Lane], round: &Round) {
    let mut look = tokio::time::interval(LOOK);
    while !lanes.iter().all(|lane| lane.is_done(round)) {
        look.tick().await;
        let flows = &fixture.loaded().maps.http2_flows;
        let flows: Vec<_> =
            flows.iter().filter_map(Result::ok).map(|(key, flow)| (key.0, flow.0)).collect();
        for lane in lanes.iter_mut().filter(|lane| !lane.is_done(round)) {
            if matches!(round.mode, Mode::Native | Mode::Frame) {
                let stats = fixture.stats(lane.service, lane.backend).unwrap();
                let gone = stats.established.saturating_sub(1);
                if gone > lane.moves {
                    (lane.moves, lane.progress) = (gone, Instant::now());
                }
                assert!(lane.progress.elapsed() < PATIENCE, "{} sends nobody away", lane.backend);
            } else {
                lane.step(fixture, &flows, round);
            }
        }
    }
}
