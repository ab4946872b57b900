//! Totals of services that never fall. Pure.
//!
//! The kernel counts for each backend, and forgets a backend's counts when its id is given away. A
//! plain sum over a service's backends would fall at every scale-down, which Prometheus takes for a
//! restart of the counter and answers with a burst that never was. So the ledger adds up what was
//! added between two looks. It starts at zero with the agent, as counters of a process do.

use super::view::Counts;
use balancer_common::service::ServiceStats;
use std::{collections::HashMap, sync::Arc};

/// Totals of services by name.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Whether the first look is over, which only tells where counting starts.
    started: bool,
    services: HashMap<Arc<str>, Entry>,
    backends: HashMap<u32, Seen>,
}

/// What was added to a service since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) counts: Counts,
    pub(super) untouched: u64,
    pub(super) socket_option_failures: u64,
}

#[derive(Debug, Default)]
struct Entry {
    account: Account,
    /// The id and its counters at the last look.
    seen: Option<(u32, ServiceStats)>,
    /// The look that found it last.
    present: bool,
}

#[derive(Debug)]
struct Seen {
    incarnation: u32,
    service: Arc<str>,
    counts: Counts,
    present: bool,
}

// === impl Ledger ===

impl Ledger {
    /// Takes down a service's own counters. Services come before their backends.
    pub(super) fn service(&mut self, name: &Arc<str>, id: u32, stats: ServiceStats) {
        let entry = self.services.entry(Arc::clone(name)).or_default();
        entry.present = true;
        // An id that is given to another service keeps its counters, which are not the new one's.
        if let Some((_, before)) = entry.seen.filter(|(seen_id, _)| *seen_id == id) {
            let account = &mut entry.account;
            account.untouched += stats.untouched.saturating_sub(before.untouched);
            account.socket_option_failures +=
                stats.socket_option_failures.saturating_sub(before.socket_option_failures);
        }
        entry.seen = Some((id, stats));
    }

    /// Takes down a backend's counters.
    pub(super) fn backend(
        &mut self,
        service: &Arc<str>,
        id: u32,
        incarnation: u32,
        counts: Counts,
    ) {
        let before = match self.backends.get_mut(&id) {
            Some(seen) if seen.incarnation == incarnation && seen.service == *service => {
                seen.present = true;
                std::mem::replace(&mut seen.counts, counts)
            }
            _ => {
                let service = Arc::clone(service);
                let seen = Seen { incarnation, service, counts, present: true };
                self.backends.insert(id, seen);
                // What an earlier agent saw happen does not count.
                if self.started { Counts::default() } else { counts }
            }
        };
        if let Some(entry) = self.services.get_mut(service) {
            entry.account.counts += counts.since(before);
        }
    }

    /// Ends a look: forgets what it did not find. `last_counts` reads the counters of a backend id
    /// that nobody has now, which stay until it is given away.
    pub(super) fn close(&mut self, mut last_counts: impl FnMut(u32) -> Option<Counts>) {
        let services = &mut self.services;
        self.backends.retain(|id, seen| {
            if !seen.present
                && let Some(entry) = services.get_mut(&seen.service)
                && let Some(counts) = last_counts(*id)
            {
                entry.account.counts += counts.since(seen.counts);
            }
            std::mem::take(&mut seen.present)
        });
        services.retain(|_, entry| std::mem::take(&mut entry.present));
        self.started = true;
    }

    /// What was added to a service.
    pub(super) fn account(&self, service: &str) -> Account {
        self.services.get(service).map(|entry| entry.account).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(opened: u64) -> Counts {
        Counts { opened, ..Counts::default() }
    }

    /// One look at service `shop` with these backends: id, incarnation, connections opened.
    fn look(ledger: &mut Ledger, backends: &[(u32, u32, u64)]) -> u64 {
        ledger.service(&"shop".into(), 1, ServiceStats::default());
        for (id, incarnation, count) in backends {
            ledger.backend(&"shop".into(), *id, *incarnation, opened(*count));
        }
        ledger.close(|_| None);
        ledger.account("shop").counts.opened
    }

    #[test]
    fn totals_never_fall_while_backends_come_and_go() {
        let mut ledger = Ledger::default();
        assert_eq!(look(&mut ledger, &[(1, 0, 100), (2, 0, 50)]), 0, "counts start with the agent");
        assert_eq!(look(&mut ledger, &[(1, 0, 110), (2, 0, 50)]), 10);
        assert_eq!(look(&mut ledger, &[(2, 0, 50)]), 10, "a backend left");
        assert_eq!(look(&mut ledger, &[(2, 0, 51), (3, 0, 4)]), 15, "another one came");
        assert_eq!(look(&mut ledger, &[(2, 1, 7), (3, 0, 4)]), 22, "an id was given away");
    }

    #[test]
    fn the_last_counts_of_a_freed_id_are_not_lost() {
        let mut ledger = Ledger::default();
        look(&mut ledger, &[]);
        look(&mut ledger, &[(1, 0, 5)]);
        ledger.service(&"shop".into(), 1, ServiceStats::default());
        ledger.close(|id| (id == 1).then(|| opened(8)));
        assert_eq!(ledger.account("shop").counts.opened, 8);
        assert_eq!(look(&mut ledger, &[]), 8);
    }

    #[test]
    fn a_service_does_not_inherit_the_counters_of_its_id() {
        let stats = |untouched| ServiceStats { untouched, socket_option_failures: 0 };
        let mut ledger = Ledger::default();
        for (name, untouched, expected) in
            [("old", 40, 0), ("old", 42, 2), ("new", 42, 0), ("new", 45, 3), ("old", 50, 0)]
        {
            ledger.service(&name.into(), 7, stats(untouched));
            ledger.close(|_| None);
            assert_eq!(ledger.account(name).untouched, expected, "{name} at {untouched}");
        }
    }
}
