//! One look at a service: who has more than its share, who less, and which connections make up for it.

use super::{Cause, Caution, FlowLoad, Memory, Move, ServiceLoad, Standing, quota::quotas};
use balancer_common::pick::mix;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The part of its share that a new backend may have at once.
const GROWN_MIN: f64 = 0.1;
/// Most moves of one plan: the kernel is told of each by a call of its own.
const MOVES_MAX: usize = 256;

/// A serving backend's connections and how many it should have.
#[derive(Clone, Copy, Debug)]
struct Share {
    has: u32,
    should: u32,
    /// How many of those it may have already: a new backend's share grows.
    may: u32,
    is_new: bool,
}

/// What is to be done about a service.
pub(super) struct Balance<'l> {
    /// Serving backends.
    shares: BTreeMap<u32, Share>,
    /// Connections that may move, by backend: those to be moved first are last.
    movable: BTreeMap<u32, Vec<&'l FlowLoad>>,
    /// Backends that are to lose all connections.
    leaving: Vec<u32>,
    /// Moves a second, for any cause but that a backend leaves.
    per_s: f64,
    /// Whether any excess counts.
    is_asked: bool,
    spreads: bool,
    in_turn: bool,
    node_rank: u32,
    caution: Caution,
}

// === impl Share ===

impl Share {
    const fn excess(self) -> u32 {
        self.has.saturating_sub(self.should)
    }

    const fn lack(self) -> u32 {
        self.may.saturating_sub(self.has)
    }
}

// === impl Balance ===

impl<'l> Balance<'l> {
    pub(super) fn new(
        load: &'l ServiceLoad,
        memory: &Memory,
        caution: &Caution,
        node_rank: u32,
        now: Duration,
    ) -> Self {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        // Who was told to move is counted where it will be.
        let stays = |flow: &&FlowLoad| !flow.is_moved && !memory.begun.contains_key(&flow.cookie);
        for flow in load.flows.iter().filter(stays) {
            *counts.entry(flow.backend).or_default() += 1;
        }
        for to in memory.begun.values().filter_map(|begun| begun.to) {
            *counts.entry(to).or_default() += 1;
        }
        let flows: u32 = counts.values().sum();
        let shares = shares(load, &counts, flows, caution, node_rank, now);
        let is_leaving = |id: u32| {
            load.backends.get(&id).is_none_or(|backend| backend.standing == Standing::Leaving)
        };
        let mut movable: BTreeMap<u32, Vec<&FlowLoad>> = BTreeMap::new();
        let moving: BTreeSet<u64> = if load.in_turn {
            memory.begun.values().map(|begun| begun.pod).collect()
        } else {
            BTreeSet::new()
        };
        for flow in load.flows.iter().filter(|flow| !moving.contains(&flow.pod)) {
            let is_old = now.saturating_sub(flow.since) >= caution.age_min;
            if flow.is_movable
                && !memory.begun.contains_key(&flow.cookie)
                && !memory.stubborn.contains(&flow.cookie)
                && (is_old || is_leaving(flow.backend))
            {
                movable.entry(flow.backend).or_default().push(flow);
            }
        }
        for flows in movable.values_mut() {
            // Quiet ones first: their clients notice nothing at all. Then the oldest.
            flows.sort_by_key(|flow| std::cmp::Reverse((flow.in_flight, flow.since, flow.cookie)));
        }
        let leaving = movable.keys().copied().filter(|id| is_leaving(*id)).collect();
        let per_s = f64::from(caution.moves_per_s).max(caution.moves_part * f64::from(flows));
        let (is_asked, spreads, in_turn) = (memory.is_asked, load.spreads, load.in_turn);
        let caution = *caution;
        Self { shares, movable, leaving, per_s, is_asked, spreads, in_turn, node_rank, caution }
    }

    /// The moves to begin now.
    pub(super) fn moves(mut self, memory: &mut Memory, now: Duration) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.shares.is_empty() {
            // Better there than nowhere.
            return moves;
        }
        for from in std::mem::take(&mut self.leaving) {
            while moves.len() < MOVES_MAX
                && let Some(flow) = self.movable.get_mut(&from).and_then(Vec::pop)
            {
                let to = self.neediest(|_| true);
                moves.push(self.begin(flow, to, Cause::Leaving));
            }
        }
        if !self.spreads {
            return moves;
        }
        memory.budget.fill(self.per_s, now);
        let is_out_of_balance = self.is_out_of_balance();
        while moves.len() < MOVES_MAX {
            let (to, cause) = match self.neediest(|share| share.is_new && share.lack() > 0) {
                Some(to) => (to, Cause::NewBackend),
                None if is_out_of_balance || self.is_asked => {
                    match self.neediest(|share| share.lack() > 0) {
                        Some(to) => (to, Cause::Imbalance),
                        None => break,
                    }
                }
                None => break,
            };
            let Some(from) = self.richest() else {
                break;
            };
            if !memory.budget.take() {
                // What was asked for goes on in the next plan.
                return moves;
            }
            if let Some(flow) = self.movable.get_mut(&from).and_then(Vec::pop) {
                if let Some(share) = self.shares.get_mut(&from) {
                    share.has -= 1;
                }
                moves.push(self.begin(flow, Some(to), cause));
            }
        }
        memory.is_asked = false;
        moves
    }

    fn begin(&mut self, flow: &FlowLoad, to: Option<u32>, cause: Cause) -> Move {
        if let Some(share) = to.and_then(|to| self.shares.get_mut(&to)) {
            share.has += 1;
        }
        if self.in_turn {
            for flows in self.movable.values_mut() {
                flows.retain(|other| other.pod != flow.pod);
            }
        }
        Move { cookie: flow.cookie, pod: flow.pod, from: flow.backend, to, cause }
    }

    /// The serving backend that lacks most.
    fn neediest(&self, is_meant: impl Fn(Share) -> bool) -> Option<u32> {
        let meant = self.shares.iter().filter(|(_, share)| is_meant(**share));
        let lack = |share: &Share| i64::from(share.may) - i64::from(share.has);
        meant.max_by_key(|(id, share)| (lack(share), self.turn(**id))).map(|(id, _)| *id)
    }

    /// The serving backend that has most beyond its share, and something that can move.
    fn richest(&self) -> Option<u32> {
        let can_give = |id: &u32| self.movable.get(id).is_some_and(|flows| !flows.is_empty());
        let rich = self.shares.iter().filter(|(id, share)| share.excess() > 0 && can_give(id));
        rich.max_by_key(|(id, share)| (share.excess(), self.turn(**id))).map(|(id, _)| *id)
    }

    /// Whose turn it is of those that are alike: not the same backend's on every node.
    const fn turn(&self, id: u32) -> u64 {
        mix(mix(self.node_rank as u64) ^ id as u64)
    }

    fn is_out_of_balance(&self) -> bool {
        self.shares.values().any(|share| {
            let part = self.caution.excess_part * f64::from(share.should);
            share.excess() >= self.caution.excess_min && f64::from(share.excess()) >= part
        })
    }
}

fn shares(
    load: &ServiceLoad,
    counts: &BTreeMap<u32, u32>,
    flows: u32,
    caution: &Caution,
    node_rank: u32,
    now: Duration,
) -> BTreeMap<u32, Share> {
    let mut serving: Vec<_> = load
        .backends
        .iter()
        .filter_map(|(id, backend)| match backend.standing {
            Standing::Serving { since } => {
                Some((backend.address, *id, backend.weight.max(1), since))
            }
            Standing::Leaving | Standing::Idle => None,
        })
        .collect();
    serving.sort_unstable();
    let first = serving.iter().map(|(.., since)| *since).min().unwrap_or_default();
    let weights: Vec<u32> = serving.iter().map(|(_, _, weight, _)| *weight).collect();
    let quotas = quotas(&weights, flows, node_rank);
    let each = serving.iter().zip(quotas);
    each.map(|((address, id, _, since), should)| {
        let has = counts.get(id).copied().unwrap_or_default();
        let chance = unit(mix(u64::from(node_rank)) ^ mix_address(*address));
        let share = match now.checked_sub(*since + caution.jitter_max.mul_f64(chance)) {
            // Those that were there when the service was first seen are not new to it.
            _ if *since == first => Share { has, should, may: should, is_new: false },
            None => Share { has, should, may: 0, is_new: false },
            Some(age) => {
                let may = grown(should, age, caution.slow_start, chance);
                Share { has, should, may, is_new: age < caution.new_for }
            }
        };
        (*id, share)
    })
    .collect()
}

/// How much of a share a backend of this age may have. What is less than one connection is left to
/// `chance`, below one: many nodes with one connection each do not all wait for the end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither negative nor more than the share"
)]
fn grown(should: u32, age: Duration, slow_start: Duration, chance: f64) -> u32 {
    if age >= slow_start {
        return should;
    }
    let part = (age.as_secs_f64() / slow_start.as_secs_f64()).max(GROWN_MIN);
    (f64::from(should) * part + chance) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of an IPv6 address is meant")]
fn mix_address(address: std::net::SocketAddr) -> u64 {
    let (high, low) = match address.ip() {
        std::net::IpAddr::V4(ip) => (0, u64::from(u32::from(ip))),
        std::net::IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            (u64::try_from(bits >> 64).unwrap_or_default(), bits as u64)
        }
    };
    mix(mix(high) ^ low) ^ u64::from(address.port())
}

#[expect(clippy::cast_precision_loss, reason = "any fraction will do")]
fn unit(seed: u64) -> f64 {
    (seed >> 11) as f64 / (1_u64 << 53) as f64
}
