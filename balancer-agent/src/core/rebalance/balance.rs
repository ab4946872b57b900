//! One look at a service: who has more than its share, who less, and which connections make up for it.

use super::{Caution, Cause, FlowLoad, Memory, Move, ServiceLoad, Standing, quota::quotas};
use balancer_common::pick::mix;
use std::{collections::BTreeMap, time::Duration};

/// Weights are refined by so much, so that a tenth of one is a whole number.
const WEIGHT_UNIT: u32 = 100;
/// Most moves of one plan: the kernel is told of each by a call of its own.
const MOVES_MAX: usize = 256;

/// A serving backend's connections and how many it should have.
#[derive(Clone, Copy, Debug)]
struct Share {
    has: u32,
    should: u32,
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
    caution: Caution,
}

// === impl Share ===

impl Share {
    const fn excess(self) -> u32 {
        self.has.saturating_sub(self.should)
    }

    const fn lack(self) -> u32 {
        self.should.saturating_sub(self.has)
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
        for flow in load.flows.iter().filter(|flow| !memory.begun.contains_key(&flow.cookie)) {
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
        for flow in &load.flows {
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
        let (is_asked, spreads, caution) = (memory.is_asked, load.spreads, *caution);
        Self { shares, movable, leaving, per_s, is_asked, spreads, caution }
    }

    /// The moves to begin now.
    pub(super) fn moves(mut self, memory: &mut Memory, now: Duration) -> Vec<Move> {
        let mut moves = Vec::new();
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
        Move { cookie: flow.cookie, pod: flow.pod, from: flow.backend, to, cause }
    }

    /// The serving backend that lacks most.
    fn neediest(&self, is_meant: impl Fn(Share) -> bool) -> Option<u32> {
        let meant = self.shares.iter().filter(|(_, share)| is_meant(**share));
        let lack = |share: &Share| i64::from(share.should) - i64::from(share.has);
        meant.max_by_key(|(id, share)| (lack(share), std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// The serving backend that has most beyond its share, and something that can move.
    fn richest(&self) -> Option<u32> {
        let can_give = |id: &u32| self.movable.get(id).is_some_and(|flows| !flows.is_empty());
        let rich = self.shares.iter().filter(|(id, share)| share.excess() > 0 && can_give(id));
        rich.max_by_key(|(id, share)| (share.excess(), std::cmp::Reverse(**id))).map(|(id, _)| *id)
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
            Standing::Serving { since } => Some((backend.address, *id, backend.weight.max(1), since)),
            Standing::Leaving | Standing::Idle => None,
        })
        .collect();
    serving.sort_unstable();
    let first = serving.iter().map(|(.., since)| *since).min().unwrap_or_default();
    let age = |address: std::net::SocketAddr, since: Duration| {
        let seed = mix(u64::from(node_rank)) ^ u64::from(address.port()) ^ mix_ip(address.ip());
        let jitter = caution.jitter_max.mul_f64(unit(mix(seed)));
        now.checked_sub(since)?.checked_sub(jitter)
    };
    let mut weights = Vec::with_capacity(serving.len());
    let mut are_new = Vec::with_capacity(serving.len());
    for (address, _, weight, since) in &serving {
        // Those that were there when the service was first seen are not new to it.
        let is_first = *since == first;
        let grown = match age(*address, *since) {
            _ if is_first => 1.0,
            None => 0.0,
            Some(age) if caution.slow_start.is_zero() || age >= caution.slow_start => 1.0,
            Some(age) => (age.as_secs_f64() / caution.slow_start.as_secs_f64()).max(0.1),
        };
        weights.push(refined(*weight, grown));
        let is_new = age(*address, *since).is_some_and(|age| age < caution.new_for);
        are_new.push(!is_first && is_new);
    }
    let quotas = quotas(&weights, flows, node_rank);
    let each = serving.iter().zip(quotas).zip(are_new);
    each.map(|(((_, id, ..), should), is_new)| {
        (*id, Share { has: counts.get(id).copied().unwrap_or_default(), should, is_new })
    })
    .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a weight is at most 1000, and its part at most the whole"
)]
fn refined(weight: u32, grown: f64) -> u32 {
    (f64::from(weight.min(1_000) * WEIGHT_UNIT) * grown) as u32
}

fn mix_ip(ip: std::net::IpAddr) -> u64 {
    match ip {
        std::net::IpAddr::V4(ip) => mix(u64::from(u32::from(ip))),
        std::net::IpAddr::V6(ip) => mix((u128::from(ip) >> 64) as u64 ^ u128::from(ip) as u64),
    }
}

#[expect(clippy::cast_precision_loss, reason = "any fraction will do")]
fn unit(seed: u64) -> f64 {
    (seed >> 11) as f64 / (1_u64 << 53) as f64
}
