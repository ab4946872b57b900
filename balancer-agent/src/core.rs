//! The agent's decisions, pure: no IO, no async, time is an argument.
//!
//! Sources send [`event::Event`]s in, the datapath carries [`write::Write`]s out:
//! ```text
//! observe(Event) ──> plan() ──> Change ──> the datapath ──> applied(Change, writes that landed)
//!                      ^                                          │
//!                      └──────────────── until None ──────────────┘
//! ```

pub mod allocation;
pub mod desired;
pub mod difference;
pub mod discovery;
pub mod drain;
pub mod event;
pub mod fake;
mod hold;
mod inspect;
mod kernel;
mod leftovers;
pub mod maglev;
pub mod model;
mod observed;
pub mod plan;
pub mod pods;
pub mod problem;
pub mod rebalance;
pub mod report;
pub mod requests;
pub mod resolution;
pub mod schedule;
#[cfg(test)]
mod tests;
pub mod write;

use self::{
    desired::Desired,
    event::{Event, Source},
    kernel::Kernel,
    model::{EndpointState, Lookup, Service, ServiceName},
    observed::Observed,
    plan::{Change, Request, Reservation},
    problem::Problem,
    write::{KernelState, Limits},
};
use balancer_common::backend::Backend;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Sweeps in a row that must find a backend idle before its id is freed. One would do but for a
/// `connect()` that had picked the backend and not yet counted itself.
pub const IDLE_SWEEPS: u32 = 2;

/// Running totals since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Events observed.
    pub events: u64,
    /// Changes applied in full.
    pub changes: u64,
    /// Changes cut short by a failed write.
    pub changes_failed: u64,
    /// Writes that landed.
    pub writes: u64,
    /// Times that a service did not fit.
    pub refusals: u64,
}

/// The core: what was observed, what the kernel has, and what is to be done about the difference.
#[derive(Debug)]
pub struct Core {
    observed: Observed,
    kernel: Kernel,
    node_rank: u32,
    /// Backends that a user drains on this node, whatever sources say.
    drained: BTreeSet<SocketAddr>,
    /// Services whose claims on frontends are to be computed anew.
    unclaimed: BTreeSet<ServiceName>,
    /// Services to be planned.
    dirty: BTreeSet<ServiceName>,
    /// Services to be removed once all dirty ones are planned: those may take frontends over.
    leaving: BTreeSet<u32>,
    /// Services whose change was cut short, until [`Core::retry`].
    failed: BTreeSet<ServiceName>,
    /// Services of which every record is to be written, whatever the picture says.
    suspects: BTreeSet<ServiceName>,
    refused: BTreeMap<ServiceName, Problem>,
    /// What was free when a service was last refused.
    room: [u64; 5],
    tidy_due: bool,
    totals: Totals,
}

// === impl Core ===

impl Core {
    /// A core for empty maps of these sizes. Services of an earlier agent are removed only when all
    /// of `sources` have sent their first snapshot. `node_rank` is this node's number among all.
    pub fn new(limits: Limits, node_rank: u32, sources: impl IntoIterator<Item = Source>) -> Self {
        Self {
            observed: Observed::new(sources),
            kernel: Kernel::new(limits),
            node_rank,
            drained: BTreeSet::new(),
            unclaimed: BTreeSet::new(),
            dirty: BTreeSet::new(),
            leaving: BTreeSet::new(),
            failed: BTreeSet::new(),
            suspects: BTreeSet::new(),
            refused: BTreeMap::new(),
            room: [0; 5],
            tidy_due: false,
            totals: Totals::default(),
        }
    }

    /// Changes this node's number among all, for services that are added from now on.
    pub fn set_node_rank(&mut self, node_rank: u32) {
        self.node_rank = node_rank;
    }

    /// This node's number among all.
    pub const fn node_rank(&self) -> u32 {
        self.node_rank
    }

    /// Takes over the maps of an earlier agent, as they were read back. Before the first event.
    pub fn adopt(&mut self, state: &KernelState) {
        let (kernel, suspects) = Kernel::adopt(self.kernel.limits, state);
        self.kernel = kernel;
        self.suspects = suspects;
        self.unclaimed.extend(self.observed.services().map(|(_, service)| service.name.clone()));
        let nameless = |held: &kernel::Held| held.name.is_none() && held.is_valid();
        let services = self.kernel.services.iter();
        self.leaving.extend(services.filter(|(_, held)| nameless(held)).map(|(id, _)| *id));
        self.tidy_due = true;
        self.part_with_undeclared();
    }

    /// Takes an event in.
    pub fn observe(&mut self, event: Event) {
        self.totals.events += 1;
        let awaited = !self.observed.silent.is_empty();
        let dirty = self.observed.observe(event);
        self.unclaimed.extend(dirty);
        // Later snapshots tell by themselves which services left.
        if awaited {
            self.part_with_undeclared();
        }
    }

    /// Lets services go that no source declares, once all sources have spoken.
    fn part_with_undeclared(&mut self) {
        if self.observed.silent.is_empty() {
            let names = self.kernel.by_name.keys();
            let undeclared = names.filter(|name| self.observed.service(name).is_none());
            self.dirty.extend(undeclared.cloned());
        }
    }

    /// The next change to apply; `None` when the kernel is as desired, but for what has failed.
    pub fn plan(&mut self) -> Option<Change> {
        loop {
            self.settle_claims();
            if let Some(name) = self.dirty.pop_first() {
                if let Some(change) = self.plan_service(&name) {
                    return Some(change);
                }
            } else if let Some(id) = self.leaving.pop_first() {
                if let Some(change) = self.plan_removal(id) {
                    return Some(change);
                }
            } else if std::mem::take(&mut self.tidy_due) {
                if let Some(change) = self.plan_tidying() {
                    return Some(change);
                }
            } else if !self.refused.is_empty() && self.has_more_room() {
                self.room = self.current_room();
                self.dirty.extend(self.refused.keys().cloned());
            } else {
                return None;
            }
        }
    }

    /// Takes a change back, with the number of its writes that landed.
    pub fn applied(&mut self, change: Change, landed: usize) {
        let Change { service, writes, reservation, .. } = change;
        let landed = landed.min(writes.len());
        for write in &writes[..landed] {
            self.kernel.land(write);
        }
        self.totals.writes += landed as u64;
        self.release(reservation);
        let complete = landed == writes.len();
        if complete {
            self.totals.changes += 1;
        } else {
            self.totals.changes_failed += 1;
        }
        let Some(name) = service else { return };
        if complete {
            self.suspects.remove(&name);
            self.failed.remove(&name);
        } else {
            self.suspects.insert(name.clone());
            self.failed.insert(name);
        }
    }

    /// Plans again what has failed; to be called after a pause.
    pub fn retry(&mut self) {
        self.unclaimed.append(&mut self.failed);
        self.tidy_due = true;
        let nameless = |held: &kernel::Held| held.name.is_none() && held.is_valid();
        let services = self.kernel.services.iter();
        self.leaving.extend(services.filter(|(_, held)| nameless(held)).map(|(id, _)| *id));
    }

    /// Sets which backends a user drains on this node, whatever sources say. Only those that sources take
    /// for active change by that.
    pub fn set_drained(&mut self, drained: BTreeSet<SocketAddr>) {
        let changed: BTreeSet<_> = self.drained.symmetric_difference(&drained).copied().collect();
        self.drained = drained;
        let is_changed = |backend: &&Backend| changed.contains(&kernel::socket(backend));
        let services = self.kernel.backends.values().filter(is_changed).map(|it| it.service);
        let names = services.filter_map(|id| self.kernel.services.get(&id)?.name.clone());
        self.dirty.extend(names);
    }

    /// Backends that a user drains on this node.
    pub const fn drained(&self) -> &BTreeSet<SocketAddr> {
        &self.drained
    }

    /// The DNS sets that the declared services need.
    pub fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.observed.lookups()
    }

    /// The backends that the kernel has, by id.
    pub const fn backends(&self) -> &BTreeMap<u32, Backend> {
        &self.kernel.backends
    }

    /// Those of them that drain or are gone.
    pub fn leaving(&self) -> impl Iterator<Item = (&u32, &Backend)> {
        self.kernel.leaving.iter().filter_map(|id| self.kernel.backends.get_key_value(id))
    }

    /// Every declared service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.observed.declared()
    }

    /// What a service is declared as, and by whom.
    pub fn declared(&self, service: u32) -> Option<(Source, &Service)> {
        self.observed.service(self.kernel.services.get(&service)?.name.as_ref()?)
    }

    /// Computes what changed services claim, and dirties whoever gains or loses by it.
    fn settle_claims(&mut self) {
        while let Some(name) = self.unclaimed.pop_first() {
            let claim = self.claimed_frontends(&name);
            // Without a service the source does not matter: nothing is claimed.
            let (source, frontends) = claim.unwrap_or((Source::File, BTreeSet::new()));
            let affected = self.observed.claim(&name, source, frontends);
            self.dirty.extend(affected);
            self.dirty.insert(name);
        }
    }

    fn plan_service(&mut self, name: &ServiceName) -> Option<Change> {
        self.refused.remove(name);
        let Some(desired) = self.desired(name) else {
            let id = self.kernel.by_name.get(name);
            self.leaving.extend(id.filter(|_| self.observed.silent.is_empty()));
            return None;
        };
        let moving = self.moving_frontends(name, &desired);
        self.kernel.strays.extend(&moving);
        self.tidy_due |= !moving.is_empty();
        let force = self.suspects.contains(name);
        let request = Request { name, desired: &desired, force, node_rank: self.node_rank, moving };
        match plan::update(&mut self.kernel, &request) {
            Ok(change) => change,
            Err(problem) => {
                self.totals.refusals += 1;
                self.refused.insert(name.clone(), problem);
                self.room = self.current_room();
                // What has left must not be chosen any more, though what is new does not fit.
                let Some(mut reduced) = self.reduced(name, &desired) else {
                    // An earlier attempt may have left it half-made.
                    let id = self.kernel.by_name.get(name)?;
                    return plan::remove(&self.kernel, *id);
                };
                if let Ok(change) = plan::update(&mut self.kernel, &request.with(&reduced)) {
                    return change;
                }
                if !self.leaves_slots(name, &reduced) {
                    return self.plan_letting_go(name, &reduced, &request.moving);
                }
                // Not even that fits: no slots at all leaves clients untouched.
                for backend in reduced.backends.values_mut() {
                    backend.state = backend.state.max(EndpointState::Inactive);
                }
                plan::update(&mut self.kernel, &request.with(&reduced)).ok().flatten()
            }
        }
    }

    /// Frontends that a service loses to another one which is still to be planned.
    fn moving_frontends(&self, name: &ServiceName, desired: &Desired) -> BTreeSet<SocketAddr> {
        let Some((_, held)) = self.kernel.find(name) else {
            return BTreeSet::new();
        };
        let lost = held.frontends.difference(&desired.frontends);
        let heir = |address: &SocketAddr| self.observed.owner(address);
        lost.filter(|address| heir(address).is_some_and(|n| self.dirty.contains(n)))
            .copied()
            .collect()
    }

    /// Settles what a change held: unused ids and extents go back, old extents are freed.
    fn release(&mut self, reservation: Reservation) {
        let kernel = &mut self.kernel;
        for id in reservation.backends {
            if !kernel.backends.contains_key(&id) {
                kernel.backend_ids.put(id);
            }
        }
        let Some(id) = reservation.service else {
            return;
        };
        let Some(held) = kernel.services.get_mut(&id) else {
            return;
        };
        let mut unused = Vec::new();
        if let Some((generation, schedules)) = reservation.schedules {
            if held.is_valid() && held.record.generation == generation {
                unused = std::mem::replace(&mut held.schedules, schedules).extents;
            } else {
                unused = schedules.extents;
            }
        } else if !held.is_valid() {
            unused = std::mem::take(&mut held.schedules).extents;
        }
        if let Some(partial) = reservation.partial {
            held.partial = partial;
        }
        for extent in unused {
            kernel.extents.put(extent);
        }
        kernel.release_if_empty(id);
    }

    fn current_room(&self) -> [u64; 5] {
        let kernel = &self.kernel;
        let frontends =
            |v4| u64::from(kernel.limits.frontends.saturating_sub(kernel.frontend_count(v4)));
        [
            kernel.services_available(),
            kernel.backend_ids.available(),
            kernel.extents.available(),
            frontends(true),
            frontends(false),
        ]
    }

    fn has_more_room(&self) -> bool {
        self.current_room().iter().zip(self.room).any(|(now, then)| *now > then)
    }
}
