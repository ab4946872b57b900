//! The members of one DNS set over time. It stands apart because it is pure: what an answer means
//! and when to ask again is decided here, and nothing is asked.
//!
//! ```text
//!              in an answer                  missing for `removal_delay` and from 2 answers,
//!  (unknown) ───────────────> Present ───── or no answer at all for `serve_stale` ─────> Departed
//!                                ^                                                     │   │
//!                                └──────────────────── in an answer ───────────────────┘   │
//!                                                                 after `grace`: forgotten v
//! ```
//! Invariants: a member was in an answer once. A failure never removes a member before
//! `serve_stale`. What a server leaves out once (a resolver that answers with a random subset, a
//! zone that is just being replaced) stays. IPv4 and IPv6 members are known by separate queries,
//! so that the failure of one family says nothing about the other.
//!
//! Times are durations since any fixed start.

use super::model::{Member, Presence, WEIGHT_MAX};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

#[cfg(test)]
mod tests;

/// Most members of a set, those that departed included.
pub const MEMBERS_MAX: usize = 1_000;
/// Answers in a row that must lack an address before it may depart.
const MISSING_ANSWERS_MIN: u32 = 2;
/// No set is asked for more often than this, even if the rules say zero.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// How long answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Shortest time between two queries; also the first delay after a failure.
    pub ttl_min: Duration,
    /// Longest time between two queries, also while they fail.
    pub ttl_max: Duration,
    /// How long members are kept while queries fail (RFC 8767).
    pub serve_stale: Duration,
    /// How long an address must be missing before it departs.
    pub removal_delay: Duration,
    /// How long a departed address stays a member.
    pub grace: Duration,
    /// Most members. A newcomer takes the place of the one that departed first; if none has
    /// departed it is left out and counted.
    pub members_max: usize,
}

/// Whether an answer is the whole truth about an address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// What the answer does not name does not exist. NXDOMAIN and NODATA are such answers.
    Complete,
    /// A query failed: what the answer does not name may well exist.
    Unknown,
}

/// What a round of queries for one set brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Addresses with their weights. Of an address named twice, the first counts.
    pub found: Vec<(SocketAddr, u32)>,
    /// Coverage of IPv4.
    pub v4: Coverage,
    /// Coverage of IPv6.
    pub v6: Coverage,
    /// For how long the records may be used; `None` if nothing said so.
    pub ttl: Option<Duration>,
}

/// The members of one set, and what is due when.
#[derive(Clone, Debug)]
pub struct Resolution {
    rules: Rules,
    entries: BTreeMap<SocketAddr, Entry>,
    /// Since when the queries of IPv4 and IPv6 fail.
    failing: [Option<Duration>; 2],
    failures: u32,
    round: u64,
    query_at: Duration,
    /// Complete answers without any member, while there is none.
    empty: Option<Missing>,
    /// What was last returned; `None` as long as the set is unknown.
    told: Option<Vec<Member>>,
    excess: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    weight: u32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Present { seen: Duration, round: u64, missing: Option<Missing> },
    Departed { since: Duration },
}

/// Complete answers in a row that lacked something.
#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Duration,
    answers: u32,
}

// === impl Answer ===

impl Answer {
    /// Nothing was learnt.
    pub const FAILED: Self =
        Self { found: Vec::new(), v4: Coverage::Unknown, v6: Coverage::Unknown, ttl: None };
}

// === impl Missing ===

impl Missing {
    fn again(missing: Option<Self>, now: Duration) -> Self {
        let before = missing.unwrap_or(Self { since: now, answers: 0 });
        Self { answers: before.answers.saturating_add(1), ..before }
    }

    /// When this is long enough; `None` as long as too few answers said so.
    fn due(self, removal_delay: Duration) -> Option<Duration> {
        (self.answers >= MISSING_ANSWERS_MIN).then(|| self.since.saturating_add(removal_delay))
    }
}

// === impl Resolution ===

impl Resolution {
    /// An unknown set, to be asked for at once.
    pub fn new(rules: Rules, now: Duration) -> Self {
        Self {
            rules,
            entries: BTreeMap::new(),
            failing: [None; 2],
            failures: 0,
            round: 0,
            query_at: now,
            empty: None,
            told: None,
            excess: 0,
        }
    }

    /// Changes the rules. The set is asked for at once, since its TTL was bounded by the old ones.
    pub fn set_rules(&mut self, rules: Rules, now: Duration) {
        self.rules = rules;
        self.failures = 0;
        self.query_at = now;
    }

    /// Takes in an answer. Returns the members if they are news.
    ///
    /// A set whose first answers say that there is nothing stays unknown until `removal_delay`
    /// has passed: one answer must not empty what the kernel kept over a restart.
    pub fn answer(&mut self, now: Duration, answer: &Answer) -> Option<Vec<Member>> {
        self.round += 1;
        self.excess = 0;
        let mut named = BTreeSet::new();
        for (address, weight) in &answer.found {
            if named.insert(*address) {
                self.found(now, *address, (*weight).clamp(1, WEIGHT_MAX));
            }
        }
        for (family, coverage) in [answer.v4, answer.v6].into_iter().enumerate() {
            match coverage {
                Coverage::Complete => {
                    self.failing[family] = None;
                    self.note_missing(now, family);
                }
                Coverage::Unknown => {
                    self.failing[family].get_or_insert(now);
                }
            }
        }
        let failed = self.failing.iter().any(Option::is_some);
        self.empty = (self.entries.is_empty() && !failed).then(|| Missing::again(self.empty, now));
        self.schedule(now, failed, answer.ttl);
        self.tick(now)
    }

    /// Lets time pass. Returns the members if they are news.
    pub fn tick(&mut self, now: Duration) -> Option<Vec<Member>> {
        let due: Vec<SocketAddr> = self
            .entries
            .iter()
            .filter(|(address, entry)| {
                self.departs_at(**address, entry).is_some_and(|at| at <= now)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            if let Some(entry) = self.entries.get_mut(&address) {
                entry.state = State::Departed { since: now };
            }
        }
        let grace = self.rules.grace;
        self.entries.retain(|_, entry| match entry.state {
            State::Present { .. } => true,
            State::Departed { since } => since.saturating_add(grace) > now,
        });
        self.news(now)
    }

    /// When the set is to be asked for.
    pub fn query_at(&self) -> Duration {
        self.query_at
    }

    /// When members change by time alone.
    pub fn change_at(&self) -> Option<Duration> {
        let entries = self.entries.iter().filter_map(|(address, entry)| match entry.state {
            State::Present { .. } => self.departs_at(*address, entry),
            State::Departed { since } => Some(since.saturating_add(self.rules.grace)),
        });
        entries.chain(self.empty_at()).min()
    }

    /// When there is something to do: a query or a [`Self::tick`].
    pub fn next_at(&self) -> Duration {
        self.change_at().map_or(self.query_at, |at| at.min(self.query_at))
    }

    /// The members that were last returned; `None` as long as the set is unknown.
    pub fn members(&self) -> Option<&[Member]> {
        self.told.as_deref()
    }

    /// How many addresses of the last answer were left out, because the set is full.
    pub fn excess(&self) -> usize {
        self.excess
    }

    fn found(&mut self, now: Duration, address: SocketAddr, weight: u32) {
        if !self.entries.contains_key(&address) && !self.make_room() {
            self.excess += 1;
            return;
        }
        let state = State::Present { seen: now, round: self.round, missing: None };
        self.entries.insert(address, Entry { weight, state });
    }

    /// Whether there is a place for one more.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < self.rules.members_max {
            return true;
        }
        let departed = self.entries.iter().filter_map(|(address, entry)| match entry.state {
            State::Present { .. } => None,
            State::Departed { since } => Some((since, *address)),
        });
        let Some((_, first)) = departed.min() else {
            return false;
        };
        self.entries.remove(&first);
        true
    }

    fn note_missing(&mut self, now: Duration, family: usize) {
        for (address, entry) in &mut self.entries {
            if let State::Present { round, missing, .. } = &mut entry.state
                && family_of(*address) == family
                && *round != self.round
            {
                *missing = Some(Missing::again(*missing, now));
            }
        }
    }

    fn schedule(&mut self, now: Duration, failed: bool, ttl: Option<Duration>) {
        let delay_min = self.rules.ttl_min.max(DELAY_MIN);
        let delay_max = self.rules.ttl_max.max(delay_min);
        let ttl = ttl.map(|ttl| ttl.clamp(delay_min, delay_max));
        let delay = if failed {
            let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
            self.failures = self.failures.saturating_add(1);
            let backoff = delay_min.saturating_mul(factor).min(delay_max);
            // Half an answer: the half that works keeps its pace.
            ttl.map_or(backoff, |ttl| ttl.min(backoff))
        } else {
            self.failures = 0;
            // RFC 2308 section 5: a negative answer without SOA record SHOULD NOT be cached.
            ttl.unwrap_or(delay_min)
        };
        self.query_at = now.saturating_add(delay);
    }

    fn departs_at(&self, address: SocketAddr, entry: &Entry) -> Option<Duration> {
        let State::Present { seen, missing, .. } = entry.state else {
            return None;
        };
        let removed = missing.and_then(|missing| missing.due(self.rules.removal_delay));
        let stale = self.failing[family_of(address)]
            .map(|since| since.max(seen).saturating_add(self.rules.serve_stale));
        removed.into_iter().chain(stale).min()
    }

    /// When a set without members stops being unknown.
    fn empty_at(&self) -> Option<Duration> {
        let empty = self.empty.filter(|_| self.told.is_none())?;
        empty.due(self.rules.removal_delay)
    }

    fn news(&mut self, now: Duration) -> Option<Vec<Member>> {
        let known = self.told.is_some()
            || !self.entries.is_empty()
            || self.empty_at().is_some_and(|at| at <= now);
        if !known {
            return None;
        }
        let members: Vec<Member> = self
            .entries
            .iter()
            .map(|(address, entry)| Member {
                address: *address,
                weight: entry.weight,
                presence: match entry.state {
                    State::Present { .. } => Presence::Present,
                    State::Departed { .. } => Presence::Departed,
                },
            })
            .collect();
        if self.told.as_ref() == Some(&members) {
            return None;
        }
        self.told = Some(members.clone());
        Some(members)
    }
}

const fn family_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(_) => 1,
    }
}
