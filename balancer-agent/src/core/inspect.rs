//! What can be asked of the core: how far it is, what it waits for, what is wrong.

use super::{Core, Totals, event::Source, kernel::Held, model::ServiceName, problem::Problem};
use balancer_common::backend::Backend;
use std::collections::BTreeSet;

// === impl Core ===

impl Core {
    /// Running totals.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// The id of the service of that name, if the kernel has it.
    pub fn id_of(&self, name: &ServiceName) -> Option<u32> {
        self.kernel.find(name).map(|(id, _)| id)
    }

    /// Whether the kernel balances a service of that name. It may hold what is left of others.
    pub fn balances(&self, name: &str) -> bool {
        let id = self.kernel.by_name.get(name);
        id.and_then(|id| self.kernel.services.get(id)).is_some_and(Held::is_valid)
    }

    /// The backends of a service, with their ids.
    pub fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, &Backend)> {
        let held = self.kernel.services.get(&service);
        let ids = held.into_iter().flat_map(|held| held.backends.values());
        ids.filter_map(|id| Some((*id, self.kernel.backends.get(id)?)))
    }

    /// Backends that began to serve since the last call, those of an earlier agent included: they are new,
    /// or drained and came back.
    pub fn take_newcomers(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.kernel.newcomers)
    }

    /// Services whose backends have changed since the last [`Core::take_touched`], or were taken over.
    pub const fn touched(&self) -> &BTreeSet<u32> {
        &self.kernel.touched
    }

    /// The same, which are not told of any more.
    pub fn take_touched(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.kernel.touched)
    }

    /// Sources whose first snapshot is still awaited.
    pub fn silent_sources(&self) -> impl Iterator<Item = Source> {
        self.observed.silent.iter().copied()
    }

    /// Whether a declared service needs a DNS set that nobody has told of yet.
    pub fn waits(&self) -> bool {
        self.lookups().any(|lookup| !self.observed.sets.contains_key(lookup))
    }

    /// Whether a source has not told yet what it declares.
    pub fn awaits_sources(&self) -> bool {
        !self.observed.silent.is_empty()
    }

    /// Whether something failed and waits for [`Core::retry`].
    pub fn needs_retry(&self) -> bool {
        !self.failed.is_empty() || !self.kernel.orphans.is_empty() || !self.kernel.strays.is_empty()
    }

    /// Everything that is not balanced as declared, in order.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.observed.conflicts();
        problems.extend(self.refused.values().cloned());
        for (_, service) in self.observed.services() {
            if service.policy.needs_counts() && !service.tracked {
                let policy = service.policy.name();
                problems.push(Problem::Untracked { service: service.name.clone(), policy });
            }
        }
        problems.sort_unstable();
        problems
    }
}
