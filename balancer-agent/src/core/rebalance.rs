//! Which connections are to move, and where: the smallest set of moves that makes a service's
//! connections follow its backends. Pure: loads and time go in, moves come out.
//!
//! A move makes a client leave a connection (`balancer_common::http2`) and dial anew. Nothing is moved
//! twice, nothing young is moved, and what moves in a second is bounded: a client whose connection is
//! moved pays a handshake for it.

mod balance;
mod budget;
mod picture;
mod quota;
#[cfg(test)]
mod tests;

pub use picture::{Frames, Picture, Standings};

use balance::Balance;
use budget::Budget;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

/// How careful the planner is. All times count from when the agent saw something first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caution {
    /// A connection younger than this stays, unless its backend leaves.
    pub age_min: Duration,
    /// How long a new backend's share grows from a tenth to the whole (Envoy: slow start).
    pub slow_start: Duration,
    /// How long a backend counts as new: its share is filled without waiting for an imbalance.
    pub new_for: Duration,
    /// Longest delay before a new backend is noticed; each node has another one, so that not all
    /// nodes dial at once.
    pub jitter_max: Duration,
    /// A backend has to have this many connections more than its share, and this part of its share
    /// more, before the others are moved for balance alone.
    pub excess_min: u32,
    /// As `excess_min`, as a part of the share.
    pub excess_part: f64,
    /// Moves in a second: so many, or the part of the service's connections below, if that is more.
    pub moves_per_s: u32,
    /// As `moves_per_s`, as a part of the service's connections.
    pub moves_part: f64,
    /// A client that was told to move and did not for so long ignores what it is told.
    pub obeyed_within: Duration,
}

/// A live connection, as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLoad {
    /// The socket's cookie.
    pub cookie: u64,
    /// The client.
    pub pod: u64,
    /// Id of its backend.
    pub backend: u32,
    /// Since when it is established.
    pub since: Duration,
    /// Streams that are open.
    pub in_flight: u32,
    /// Streams that were ever opened; it wraps.
    pub opened: u32,
    /// Whether the kernel can move it now: its frames are visible and it was not moved before.
    pub is_movable: bool,
    /// Whether its client was told to leave: it ends what it has, and begins nothing here.
    pub is_moved: bool,
}

/// What a backend is to the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes connections.
    Serving {
        /// Since when.
        since: Duration,
    },
    /// Takes no new ones, and is to lose those that it has.
    Leaving,
    /// Takes no new ones, and keeps those that it has.
    Idle,
}

/// A backend, as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendLoad {
    /// Where it listens: nodes deal shares in this order.
    pub address: SocketAddr,
    /// Its weight; zero counts as one.
    pub weight: u32,
    /// What it is.
    pub standing: Standing,
}

/// A service with its connections on this node.
#[derive(Clone, Debug, Default)]
pub struct ServiceLoad {
    /// Backends by id.
    pub backends: BTreeMap<u32, BackendLoad>,
    /// Its connections.
    pub flows: Vec<FlowLoad>,
    /// Whether its policy spreads connections, so that shares mean anything: not for `maglev`, nor
    /// with session affinity.
    pub spreads: bool,
    /// Whether a client's next connection goes where its cursor stands, which can point to one backend
    /// at a time: then its connections move one after the other.
    pub in_turn: bool,
}

/// Why a connection moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its backend leaves.
    Leaving,
    /// A new backend is to get its share.
    NewBackend,
    /// Its backend has more than its share.
    Imbalance,
}

// === impl Cause ===

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Leaving, Self::NewBackend, Self::Imbalance];

    /// The name in commands and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::NewBackend => "new-backend",
            Self::Imbalance => "imbalance",
        }
    }
}

/// A connection that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The socket's cookie.
    pub cookie: u64,
    /// The client.
    pub pod: u64,
    /// Where it is.
    pub from: u32,
    /// Where its client's next connection should go; none if nobody serves.
    pub to: Option<u32>,
    /// Why.
    pub cause: Cause,
}

/// A move that was begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    pod: u64,
    to: Option<u32>,
    at: Duration,
    /// When the connection was first missed: its client dials anew.
    left_at: Option<Duration>,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
struct Memory {
    budget: Budget,
    begun: BTreeMap<u64, Begun>,
    seen: BTreeSet<u64>,
    /// Connections that were moved: since when that is known, and how many streams they had opened once
    /// their clients must have heard of it.
    moved: BTreeMap<u64, (Duration, Option<u32>)>,
    /// Clients that were told and stayed.
    stubborn: BTreeSet<u64>,
    is_asked: bool,
}

/// Plans moves, and remembers those that were begun.
#[derive(Debug)]
pub struct Rebalancer {
    caution: Caution,
    node_rank: u32,
    services: BTreeMap<u32, Memory>,
}

/// How long what a client had sent before it heard that it was to leave may be under way.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// How long a client that left may take to show up elsewhere before it is not waited for any more.
const ARRIVAL_MAX: Duration = Duration::from_secs(2);

// === impl Caution ===

impl Default for Caution {
    fn default() -> Self {
        Self {
            age_min: Duration::from_secs(5),
            slow_start: Duration::from_secs(1),
            new_for: Duration::from_secs(30),
            jitter_max: Duration::from_millis(200),
            excess_min: 2,
            excess_part: 0.25,
            moves_per_s: 8,
            moves_part: 0.5,
            obeyed_within: Duration::from_mins(1),
        }
    }
}

// === impl Rebalancer ===

impl Rebalancer {
    /// A planner for the node with this rank, which remembers nothing.
    pub fn new(caution: Caution, node_rank: u32) -> Self {
        Self { caution, node_rank, services: BTreeMap::new() }
    }

    /// This node's number among all has changed.
    pub fn set_node_rank(&mut self, node_rank: u32) {
        self.node_rank = node_rank;
    }

    /// A user asks for a service to be balanced now: any excess counts until none is left.
    pub fn ask(&mut self, service: u32) {
        self.services.entry(service).or_default().is_asked = true;
    }

    /// The moves to begin at `now`. Whoever carries them out need not tell whether that worked: a
    /// connection that stays is not planned for again.
    pub fn plan(&mut self, service: u32, load: &ServiceLoad, now: Duration) -> Vec<Move> {
        let memory = self.services.entry(service).or_default();
        memory.take_in(load, now, self.caution.obeyed_within);
        let balance = Balance::new(load, memory, &self.caution, self.node_rank, now);
        let moves = balance.moves(memory, now);
        for it in &moves {
            let begun = Begun { pod: it.pod, to: it.to, at: now, left_at: None };
            memory.begun.insert(it.cookie, begun);
        }
        moves
    }

    /// What would be moved if nothing held it up, without beginning anything.
    pub fn preview(&self, service: u32, load: &ServiceLoad, now: Duration) -> Vec<Move> {
        let mut memory = Memory { is_asked: true, ..Memory::default() };
        if let Some(known) = self.services.get(&service) {
            memory.begun.clone_from(&known.begun);
            memory.stubborn.clone_from(&known.stubborn);
        }
        memory.budget = Budget::unlimited();
        let caution = Caution { age_min: Duration::ZERO, ..self.caution };
        Balance::new(load, &memory, &caution, self.node_rank, now).moves(&mut memory, now)
    }

    /// Connections whose clients were told to move and stayed.
    pub fn stubborn(&self, service: u32) -> impl Iterator<Item = u64> {
        self.services.get(&service).into_iter().flat_map(|memory| memory.stubborn.iter().copied())
    }

    /// Services of which something is remembered: each is to be planned for, until nothing is.
    pub fn remembered(&self) -> impl Iterator<Item = u32> {
        self.services.keys().copied()
    }

    /// Forgets services that are gone, and those that have no connections and await none.
    pub fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.services.retain(|service, memory| is_there(*service) && !memory.is_idle());
    }
}

// === impl Memory ===

impl Memory {
    fn is_idle(&self) -> bool {
        self.seen.is_empty() && self.begun.is_empty() && !self.is_asked
    }

    /// Follows what became of the moves that were begun.
    fn take_in(&mut self, load: &ServiceLoad, now: Duration, obeyed_within: Duration) {
        let live: BTreeMap<u64, &FlowLoad> =
            load.flows.iter().map(|flow| (flow.cookie, flow)).collect();
        for (cookie, begun) in &mut self.begun {
            // Long streams may keep a connection for hours after its client has gone elsewhere.
            if live.get(cookie).is_none_or(|flow| flow.is_moved) {
                begun.left_at.get_or_insert(now);
            } else if now.saturating_sub(begun.at) > obeyed_within {
                self.stubborn.insert(*cookie);
            }
        }
        self.moved.retain(|cookie, _| live.contains_key(cookie));
        for flow in load.flows.iter().filter(|flow| flow.is_moved) {
            let (since, heard) = self.moved.entry(flow.cookie).or_insert((now, None));
            match heard {
                None if now.saturating_sub(*since) >= HEARD_WITHIN => *heard = Some(flow.opened),
                Some(opened) if flow.opened != *opened => {
                    self.stubborn.insert(flow.cookie);
                }
                _ => {}
            }
        }
        // A client that left shows up again as a new connection of its pod, wherever that leads.
        for flow in load.flows.iter().filter(|flow| !self.seen.contains(&flow.cookie)) {
            let arrived = self.begun.iter().filter(|(_, begun)| begun.pod == flow.pod);
            let oldest = arrived
                .filter_map(|(cookie, begun)| Some((begun.left_at?, *cookie)))
                .min()
                .map(|(_, cookie)| cookie);
            if let Some(cookie) = oldest {
                self.begun.remove(&cookie);
            }
        }
        let waited = |begun: &Begun| {
            begun.left_at.is_some_and(|left_at| now.saturating_sub(left_at) > ARRIVAL_MAX)
        };
        self.begun.retain(|_, begun| !waited(begun));
        self.stubborn.retain(|cookie| live.contains_key(cookie));
        self.begun.retain(|cookie, begun| {
            let stays = live.get(cookie).is_some_and(|flow| !flow.is_moved);
            !stays || now.saturating_sub(begun.at) <= obeyed_within
        });
        self.seen = live.into_keys().collect();
    }
}
