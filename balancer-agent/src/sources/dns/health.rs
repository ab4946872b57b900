//! What DNS is like at the moment, for `status` and for metrics. It can be read at any time.

use super::{failure::FailureKind, query::Round};
use crate::core::{
    model::{Lookup, Member, Presence},
    resolution::{Coverage, Resolution},
};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Reads the health of DNS. Clones read the same.
#[derive(Clone, Debug, Default)]
pub struct DnsHealth(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Lookup, Record>,
    counts: DnsCounts,
    /// Why sets are left out.
    problem: Option<String>,
}

/// What concerns all sets together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsCounts {
    /// Sets that are wanted, and not followed since there is no room for them.
    pub left_out: usize,
    /// Times that the task which follows a set began anew after a fault of its own.
    pub restarted: u64,
}

/// The health of one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LookupHealth {
    /// The set, as [`Lookup`] prints it.
    pub lookup: String,
    /// How its queries fare.
    pub standing: Standing,
    /// Whether members are known. An unknown set is not an empty one.
    pub known: bool,
    /// Its members.
    pub members: Vec<MemberHealth>,
    /// Milliseconds since a round of queries brought all there is to know.
    pub last_success_age_ms: Option<u64>,
    /// What went wrong in the last round that did.
    pub last_error: Option<String>,
    /// Milliseconds since then.
    pub last_error_age_ms: Option<u64>,
    /// Milliseconds until the next round of queries; 0 while one is on its way.
    pub next_try_ms: u64,
    /// Queries so far.
    pub queries: u64,
    /// Failed queries so far.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Addresses so far that answers named and nobody can dial.
    pub addresses_refused: u64,
    /// Addresses and SRV targets of the last answer that were left out, because the set is full.
    pub excess: usize,
}

/// One member of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberHealth {
    /// Its address.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u32,
    /// Whether it has left the answers.
    pub departed: bool,
}

/// How the queries for a set fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No answer yet.
    #[default]
    Waiting,
    /// Everything is answered.
    Works,
    /// Some queries fail.
    Partial,
    /// Nothing is answered.
    Fails,
}

#[derive(Debug, Default)]
struct Record {
    standing: Standing,
    known: bool,
    members: Vec<MemberHealth>,
    success_at: Option<Instant>,
    error: Option<(Instant, String)>,
    next_at: Option<Instant>,
    queries: u64,
    failures: BTreeMap<FailureKind, u64>,
    addresses_refused: u64,
    excess: usize,
}

// === impl Standing ===

impl Standing {
    /// The name that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Works => "works",
            Self::Partial => "partial",
            Self::Fails => "fails",
        }
    }

    /// How `round` went.
    pub(super) fn of(round: &Round) -> Self {
        let answer = &round.answer;
        let nothing = answer.v4 == Coverage::Unknown && answer.v6 == Coverage::Unknown;
        match (round.failures.is_empty(), nothing && answer.found.is_empty()) {
            (true, _) => Self::Works,
            (false, false) => Self::Partial,
            (false, true) => Self::Fails,
        }
    }
}

// === impl DnsHealth ===

impl DnsHealth {
    /// The health of every set that is followed.
    pub fn snapshot(&self) -> Vec<LookupHealth> {
        let now = Instant::now();
        let state = self.0.borrow();
        state.records.iter().map(|(lookup, record)| record.report(lookup, now)).collect()
    }

    /// The health of one set, if it is followed.
    pub fn of(&self, lookup: &Lookup) -> Option<LookupHealth> {
        self.0.borrow().records.get(lookup).map(|record| record.report(lookup, Instant::now()))
    }

    /// What concerns all sets together.
    pub fn counts(&self) -> DnsCounts {
        self.0.borrow().counts
    }

    /// What is wrong with all sets together, and what to do about it.
    pub fn problem(&self) -> Option<String> {
        self.0.borrow().problem.clone()
    }

    /// Waits until what concerns all sets together is as wanted.
    pub async fn wait_for_counts(&self, mut wanted: impl FnMut(DnsCounts) -> bool) -> DnsCounts {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as `self`, so that this does not fail.
        match receiver.wait_for(|state| wanted(state.counts)).await {
            Ok(state) => state.counts,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the health of a set is as wanted.
    pub async fn wait_for(
        &self,
        lookup: &Lookup,
        mut wanted: impl FnMut(&LookupHealth) -> bool,
    ) -> LookupHealth {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(health) = self.of(lookup).filter(|health| wanted(health)) {
                return health;
            }
            // The sender lives as long as `self`.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn add(&self, lookup: &Lookup) {
        self.0.send_modify(|state| {
            state.records.entry(lookup.clone()).or_default();
        });
    }

    pub(super) fn remove(&self, lookup: &Lookup) {
        self.0.send_modify(|state| {
            state.records.remove(lookup);
        });
    }

    /// Takes down how many sets are left out now, and returns how many were.
    pub(super) fn note_left_out(&self, left_out: usize, problem: Option<String>) -> usize {
        let mut before = left_out;
        self.0.send_modify(|state| {
            before = std::mem::replace(&mut state.counts.left_out, left_out);
            state.problem = problem;
        });
        before
    }

    /// Takes down that the task which follows a set began anew.
    pub(super) fn note_restart(&self) {
        self.0.send_modify(|state| state.counts.restarted += 1);
    }

    /// Takes down a round whose answer left out `excess` members.
    pub(super) fn note_round(&self, lookup: &Lookup, round: &Round, excess: usize) {
        self.modify(lookup, |record| {
            record.standing = Standing::of(round);
            record.queries += round.queries;
            record.addresses_refused += round.refused.len() as u64;
            record.excess = excess;
            for failure in &round.failures {
                *record.failures.entry(failure.kind).or_default() += 1;
            }
            match round.failures.first() {
                Some(failure) => record.error = Some((Instant::now(), failure.text.clone())),
                None => record.success_at = Some(Instant::now()),
            }
        });
    }

    /// Takes over what `resolution` says; the next round is due in `pause`.
    pub(super) fn note_members(&self, lookup: &Lookup, resolution: &Resolution, pause: Duration) {
        let members = resolution.members().unwrap_or_default().iter();
        let members = members.map(MemberHealth::from).collect();
        self.modify(lookup, |record| {
            record.known = resolution.members().is_some();
            record.members = members;
            record.next_at = Instant::now().checked_add(pause);
        });
    }

    /// A set that is not followed any more stays out.
    fn modify(&self, lookup: &Lookup, change: impl FnOnce(&mut Record)) {
        self.0.send_if_modified(|state| match state.records.get_mut(lookup) {
            Some(record) => {
                change(record);
                true
            }
            None => false,
        });
    }
}

// === impl MemberHealth ===

impl From<&Member> for MemberHealth {
    fn from(member: &Member) -> Self {
        Self {
            address: member.address,
            weight: member.weight,
            departed: member.presence == Presence::Departed,
        }
    }
}

// === impl Record ===

impl Record {
    fn report(&self, lookup: &Lookup, now: Instant) -> LookupHealth {
        let age = |at: Instant| ms(now.saturating_duration_since(at));
        LookupHealth {
            lookup: lookup.to_string(),
            standing: self.standing,
            known: self.known,
            members: self.members.clone(),
            last_success_age_ms: self.success_at.map(age),
            last_error: self.error.as_ref().map(|(_, text)| text.clone()),
            last_error_age_ms: self.error.as_ref().map(|(at, _)| age(*at)),
            next_try_ms: self.next_at.map_or(0, |at| ms(at.saturating_duration_since(now))),
            queries: self.queries,
            failures: self.failures.clone(),
            addresses_refused: self.addresses_refused,
            excess: self.excess,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
