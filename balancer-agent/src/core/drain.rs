//! Which connections are to be destroyed: those to backends whose time to drain is over, and those to
//! backends that are gone. Never any other.
//!
//! A backend that is ejected (not ready, or meant for other nodes) may be back at any time: its
//! connections are left alone, however long that takes.
//!
//! The kernel's records tell which backends drain or are gone, but not since when: that is counted
//! from the moment when it was first seen, so that a new agent gives each backend its time anew.

use balancer_common::{
    backend::{Backend, STATE_DRAINING, STATE_GONE},
    flow::Flow,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Most connections that are destroyed at once; more wait for the next time.
pub const VICTIMS_MAX: usize = 4_096;
/// Tries after which a connection that cannot be destroyed is left to end by itself.
pub const TRIES_MAX: u32 = 3;

/// How long the connections of a service's backends are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Those of a draining backend; for ever if not set.
    pub draining: Option<Duration>,
    /// Those of a backend that is gone; for ever if not set, as where nobody can know that it is.
    pub gone: Option<Duration>,
}

/// Why a connection is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its backend drained for longer than its service allows.
    DrainTimeout,
    /// Its backend is gone.
    BackendGone,
}

/// A backend's identity: its id, and whose turn with it that is.
type Identity = (u32, u32);

/// Since when a backend shuts down or has left.
#[derive(Clone, Copy, Debug, Default)]
struct Leaving {
    service: u32,
    /// Since when it drains or is gone.
    since: Duration,
    /// Since when it is gone.
    gone_since: Option<Duration>,
    /// Whether nothing is left that could be destroyed: it takes no new connections.
    done: bool,
}

/// Backends that are leaving, and connections that were tried in vain.
#[derive(Debug, Default)]
pub struct Drain {
    leaving: BTreeMap<Identity, Leaving>,
    tries: BTreeMap<u64, u32>,
}

/// Backends whose connections are to be destroyed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due(BTreeMap<Identity, Cause>);

// === impl Due ===

impl Due {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn cause(&self, flow: &Flow) -> Option<Cause> {
        self.0.get(&(flow.backend, flow.incarnation)).copied()
    }
}

// === impl Drain ===

impl Drain {
    /// Takes in the kernel's records of backends, as of `now`.
    pub fn observe<'b>(
        &mut self,
        backends: impl IntoIterator<Item = (&'b u32, &'b Backend)>,
        now: Duration,
    ) {
        let mut left = BTreeSet::new();
        for (id, backend) in backends {
            if !matches!(backend.state, STATE_DRAINING | STATE_GONE) {
                continue;
            }
            let identity = (*id, backend.incarnation);
            left.insert(identity);
            let leaving = self.leaving.entry(identity).or_insert(Leaving {
                service: backend.service,
                since: now,
                gone_since: None,
                done: false,
            });
            if backend.state == STATE_GONE {
                leaving.gone_since.get_or_insert(now);
            } else {
                leaving.gone_since = None;
            }
        }
        // One that came back, or whose id was freed, begins anew.
        self.leaving.retain(|identity, _| left.contains(identity));
    }

    /// The backends whose patience is over at `now`, but for those that nothing is left of.
    pub fn due(&self, patience: impl Fn(u32) -> Patience, now: Duration) -> Due {
        let is_over = |since: Duration, patience: Option<Duration>| {
            patience.is_some_and(|patience| now.saturating_sub(since) >= patience)
        };
        let cause = |leaving: &Leaving| {
            let patience = patience(leaving.service);
            match leaving.gone_since {
                Some(since) if is_over(since, patience.gone) => Some(Cause::BackendGone),
                _ if is_over(leaving.since, patience.draining) => Some(Cause::DrainTimeout),
                _ => None,
            }
        };
        let leaving = self.leaving.iter().filter(|(_, leaving)| !leaving.done);
        Due(leaving.filter_map(|(it, leaving)| Some((*it, cause(leaving)?))).collect())
    }

    /// The connections that are to be destroyed, out of all.
    pub fn victims(
        &mut self,
        due: &Due,
        flows: &BTreeMap<u64, Flow>,
    ) -> BTreeMap<u64, (Flow, Cause)> {
        self.tries.retain(|cookie, _| flows.contains_key(cookie));
        let tries = &self.tries;
        let is_hopeless = |cookie: &u64| tries.get(cookie).is_some_and(|tries| *tries >= TRIES_MAX);
        let victims: BTreeMap<_, _> = flows
            .iter()
            .filter(|(cookie, _)| !is_hopeless(cookie))
            .filter_map(|(cookie, flow)| Some((*cookie, (*flow, due.cause(flow)?))))
            .take(VICTIMS_MAX)
            .collect();
        if victims.len() < VICTIMS_MAX {
            let busy: BTreeSet<Identity> =
                victims.values().map(|(flow, _)| (flow.backend, flow.incarnation)).collect();
            for identity in due.0.keys().filter(|identity| !busy.contains(identity)) {
                if let Some(leaving) = self.leaving.get_mut(identity) {
                    leaving.done = true;
                }
            }
        }
        victims
    }

    /// Tells that a connection could not be destroyed.
    pub fn failed(&mut self, cookie: u64) {
        *self.tries.entry(cookie).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_common::backend::{STATE_ACTIVE, STATE_INACTIVE};
    use proptest::prelude::*;

    const PATIENCE: Patience =
        Patience { draining: Some(Duration::from_mins(1)), gone: Some(Duration::from_secs(5)) };
    const NONE: Patience = Patience { draining: None, gone: None };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn backend(state: u32, incarnation: u32) -> Backend {
        Backend { state, incarnation, service: 1, ..Backend::default() }
    }

    fn flow(backend: u32, incarnation: u32) -> Flow {
        Flow { backend, incarnation, service: 1, ..Flow::default() }
    }

    /// What is destroyed of three flows to backends 7 (incarnation 1), 7 (incarnation 2) and 8.
    fn destroyed(drain: &mut Drain, patience: Patience, now_s: u64) -> Vec<(u64, Cause)> {
        let due = drain.due(|_| patience, s(now_s));
        let flows = BTreeMap::from([(70, flow(7, 1)), (71, flow(7, 2)), (80, flow(8, 1))]);
        let victims = drain.victims(&due, &flows);
        victims.into_iter().map(|(cookie, (_, cause))| (cookie, cause)).collect()
    }

    fn observe(drain: &mut Drain, records: &[(u32, Backend)], now_s: u64) {
        drain.observe(records.iter().map(|(id, record)| (id, record)), s(now_s));
    }

    #[test]
    fn a_draining_backend_keeps_its_connections_until_the_timeout() {
        let mut drain = Drain::default();
        let records = [(7, backend(STATE_DRAINING, 1)), (8, backend(STATE_ACTIVE, 1))];
        observe(&mut drain, &records, 100);
        observe(&mut drain, &records, 130);
        assert_eq!(destroyed(&mut drain, PATIENCE, 159), []);
        assert_eq!(destroyed(&mut drain, PATIENCE, 160), [(70, Cause::DrainTimeout)]);
        assert_eq!(destroyed(&mut drain, NONE, 10_000), [], "off");
    }

    #[test]
    fn one_that_is_inactive_keeps_its_connections_for_ever() {
        let mut drain = Drain::default();
        observe(&mut drain, &[(7, backend(STATE_INACTIVE, 1))], 0);
        observe(&mut drain, &[(7, backend(STATE_INACTIVE, 1))], 5_000);
        assert_eq!(destroyed(&mut drain, PATIENCE, 9_999), []);
        // Once it terminates its time begins.
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 1))], 10_000);
        assert_eq!(destroyed(&mut drain, PATIENCE, 10_059), []);
        assert_eq!(destroyed(&mut drain, PATIENCE, 10_060), [(70, Cause::DrainTimeout)]);
    }

    #[test]
    fn one_that_came_back_begins_anew() {
        let mut drain = Drain::default();
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 1))], 100);
        observe(&mut drain, &[(7, backend(STATE_ACTIVE, 1))], 150);
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 1))], 155);
        assert_eq!(destroyed(&mut drain, PATIENCE, 200), []);
        // The id was given to another backend.
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 2))], 210);
        assert_eq!(destroyed(&mut drain, PATIENCE, 230), []);
        assert_eq!(destroyed(&mut drain, PATIENCE, 270), [(71, Cause::DrainTimeout)]);
    }

    #[test]
    fn a_backend_that_is_gone_has_a_short_grace_of_its_own() {
        let mut drain = Drain::default();
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 1))], 100);
        observe(&mut drain, &[(7, backend(STATE_GONE, 1))], 110);
        assert_eq!(destroyed(&mut drain, PATIENCE, 114), []);
        assert_eq!(destroyed(&mut drain, PATIENCE, 115), [(70, Cause::BackendGone)]);
        // Where nobody can tell that it is gone, it drains on.
        let draining = Patience { gone: None, ..PATIENCE };
        assert_eq!(destroyed(&mut drain, draining, 159), []);
        assert_eq!(destroyed(&mut drain, draining, 160), [(70, Cause::DrainTimeout)]);
        // Back in the API, though still draining: the grace begins anew with its next departure.
        observe(&mut drain, &[(7, backend(STATE_DRAINING, 1))], 116);
        observe(&mut drain, &[(7, backend(STATE_GONE, 1))], 120);
        assert_eq!(destroyed(&mut drain, PATIENCE, 124), []);
    }

    #[test]
    fn what_cannot_be_destroyed_is_left_after_some_tries() {
        let mut drain = Drain::default();
        observe(&mut drain, &[(7, backend(STATE_GONE, 1))], 0);
        for _ in 0..TRIES_MAX {
            assert_eq!(destroyed(&mut drain, PATIENCE, 9), [(70, Cause::BackendGone)]);
            drain.failed(70);
        }
        assert_eq!(destroyed(&mut drain, PATIENCE, 9), []);
        // Its cookie is forgotten with it.
        let due = drain.due(|_| PATIENCE, s(9));
        assert_eq!(drain.victims(&due, &BTreeMap::new()), BTreeMap::new());
        assert!(drain.tries.is_empty());
    }

    #[test]
    fn a_backend_without_connections_is_looked_at_once() {
        let mut drain = Drain::default();
        let records = [(7, backend(STATE_DRAINING, 1)), (9, backend(STATE_DRAINING, 1))];
        observe(&mut drain, &records, 0);
        assert_eq!(destroyed(&mut drain, PATIENCE, 60), [(70, Cause::DrainTimeout)]);
        assert_eq!(drain.due(|_| PATIENCE, s(61)).0.len(), 1, "backend 9 has none");
        let due = drain.due(|_| PATIENCE, s(61));
        assert!(drain.victims(&due, &BTreeMap::new()).is_empty());
        observe(&mut drain, &records, 62);
        assert!(drain.due(|_| PATIENCE, s(63)).is_empty());
    }

    #[test]
    fn no_more_than_a_bound_at_once() {
        let mut drain = Drain::default();
        observe(&mut drain, &[(7, backend(STATE_GONE, 1))], 0);
        let flows = (0..VICTIMS_MAX as u64 + 10).map(|cookie| (cookie, flow(7, 1))).collect();
        let due = drain.due(|_| PATIENCE, s(9));
        assert_eq!(drain.victims(&due, &flows).len(), VICTIMS_MAX);
    }

    proptest! {
        /// Whatever happened before: a connection is destroyed only if its very backend takes no
        /// new connections now, and has not for as long as is allowed.
        #[test]
        fn only_connections_of_leaving_backends_are_destroyed(
            history in proptest::collection::vec((0_u64..20, 0_u32..4, 0_u32..5, 0_u32..2), 0..40),
        ) {
            let mut drain = Drain::default();
            let mut records: BTreeMap<u32, Backend> = BTreeMap::new();
            // Since when each identity has been draining or gone without a break.
            let mut since: BTreeMap<Identity, Duration> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for (pause_s, id, state, incarnation) in history {
                now += s(pause_s);
                let states = [0, STATE_ACTIVE, STATE_DRAINING, STATE_INACTIVE, STATE_GONE];
                records.insert(id, backend(states[state as usize], incarnation));
                drain.observe(&records, now);
                let leaving: BTreeSet<Identity> = records
                    .iter()
                    .filter(|(_, b)| matches!(b.state, STATE_DRAINING | STATE_GONE))
                    .map(|(id, b)| (*id, b.incarnation))
                    .collect();
                since.retain(|identity, _| leaving.contains(identity));
                for identity in leaving {
                    since.entry(identity).or_insert(now);
                }
                let flows = (0..4_u32)
                    .flat_map(|id| (0..2_u32).map(move |turn| (id, turn)))
                    .map(|(id, turn)| (u64::from(id * 2 + turn), flow(id, turn)))
                    .collect();
                let due = drain.due(|_| PATIENCE, now);
                for (flow, cause) in drain.victims(&due, &flows).into_values() {
                    let began = since.get(&(flow.backend, flow.incarnation));
                    prop_assert!(began.is_some(), "{flow:?}");
                    let waited = now.saturating_sub(*began.unwrap());
                    let least = match cause {
                        Cause::DrainTimeout => s(60),
                        Cause::BackendGone => s(5),
                    };
                    prop_assert!(waited >= least, "{cause:?} after {waited:?}");
                }
            }
        }
    }
}
