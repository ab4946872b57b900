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
pub mod event;
pub mod fake;
mod kernel;
pub mod maglev;
pub mod model;
mod observed;
pub mod plan;
pub mod problem;
pub mod report;
pub mod resolution;
pub mod schedule;
#[cfg(test)]
mod tests;
pub mod write;

use self::{
    desired::{Desired, DesiredBackend},
    event::{Event, Source},
    kernel::{Kernel, socket},
    model::{EndpointState, Lookup, Policy, ServiceName},
    observed::Observed,
    plan::{Change, ChangeKind, Request, Reservation},
    problem::Problem,
    write::{KernelState, Limits, Write},
};
use balancer_common::backend::{Backend, STATE_ACTIVE, STATE_GONE};
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

    /// Takes over the maps of an earlier agent, as they were read back. Before the first event.
    pub fn adopt(&mut self, state: &KernelState) {
        let (kernel, suspects) = Kernel::adopt(self.kernel.limits, state);
        self.kernel = kernel;
        self.suspects = suspects;
        self.unclaimed.extend(
            self.observed
                .services()
                .map(|(_, service)| service.name.clone()),
        );
        let nameless = |held: &kernel::Held| held.name.is_none() && held.is_valid();
        let services = self.kernel.services.iter();
        self.leaving.extend(
            services
                .filter(|(_, held)| nameless(held))
                .map(|(id, _)| *id),
        );
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
        let Change {
            service,
            writes,
            reservation,
            ..
        } = change;
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
        self.leaving.extend(
            services
                .filter(|(_, held)| nameless(held))
                .map(|(id, _)| *id),
        );
    }

    /// Frees the ids of backends that are gone and were found without connections
    /// [`IDLE_SWEEPS`] times in a row; `active` tells the connections of a backend id. To be
    /// called every few seconds, while no other change is being applied.
    pub fn sweep(&mut self, active: impl Fn(u32) -> u64) -> Option<Change> {
        let mut writes = Vec::new();
        for (id, idle) in &mut self.kernel.gone {
            *idle = if active(*id) == 0 {
                idle.saturating_add(1)
            } else {
                0
            };
            let record = self.kernel.backends.get(id);
            let newest = record.is_some_and(|r| r.incarnation == self.kernel.incarnation_max);
            if *idle >= IDLE_SWEEPS && !newest {
                writes.push(Write::Backend {
                    id: *id,
                    record: Backend::default(),
                });
            }
        }
        let kind = ChangeKind::Swept;
        let change = Change {
            service: None,
            kind,
            writes,
            reservation: Reservation::default(),
        };
        (!change.writes.is_empty()).then_some(change)
    }

    /// The DNS sets that the declared services need.
    pub fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.observed.lookups()
    }

    /// Running totals.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a declared service needs a DNS set that nobody has told of yet.
    pub fn waits(&self) -> bool {
        self.lookups()
            .any(|lookup| !self.observed.sets.contains_key(lookup))
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
            if service.policy == Policy::LeastConnection && !service.tracked {
                problems.push(Problem::Untracked {
                    service: service.name.clone(),
                });
            }
        }
        problems.sort_unstable();
        problems
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

    fn claimed_frontends(&self, name: &ServiceName) -> Option<(Source, BTreeSet<SocketAddr>)> {
        let (source, service) = self.observed.service(name)?;
        let known = desired::frontends(service, &self.observed.sets);
        let held = self.kernel.find(name).map(|(_, held)| held).filter(|held| {
            let fallback = held.partial && !known.set.is_empty();
            !known.complete && !held.frontends.is_empty() && !fallback
        });
        Some((
            source,
            held.map_or(known.set, |held| held.frontends.clone()),
        ))
    }

    /// What a declared service should be.
    fn desired(&self, name: &ServiceName) -> Option<Desired> {
        let (_, service) = self.observed.service(name)?;
        let known = desired::backends(service, &self.observed.sets);
        let frontends_complete = desired::frontends(service, &self.observed.sets).complete;
        let held = self.held_backends(name);
        let was_partial = self.kernel.find(name).is_some_and(|(_, held)| held.partial);
        let serves = known
            .set
            .values()
            .any(|backend| backend.state == EndpointState::Active);
        let holds = !known.complete && !held.is_empty() && !(was_partial && serves);
        let complete = known.complete && frontends_complete;
        Some(Desired {
            frontends: self.observed.owned(name),
            backends: if holds { held } else { known.set },
            policy: desired::effective_policy(service),
            settings: desired::settings(service),
            affinity_s: service.affinity_s.map_or(0, std::num::NonZeroU32::get),
            partial: !complete && (was_partial || self.is_new(name)),
        })
    }

    fn is_new(&self, name: &ServiceName) -> bool {
        self.kernel
            .find(name)
            .is_none_or(|(_, held)| !held.is_valid())
    }

    /// The backends that the kernel has for a service.
    fn held_backends(&self, name: &ServiceName) -> BTreeMap<SocketAddr, DesiredBackend> {
        let Some((_, held)) = self.kernel.find(name).filter(|(_, held)| held.is_valid()) else {
            return BTreeMap::new();
        };
        let records = held
            .backends
            .values()
            .filter_map(|id| self.kernel.backends.get(id));
        let present = records.filter(|record| record.state != STATE_GONE);
        let as_desired = |record: &Backend| DesiredBackend {
            weight: record.weight,
            state: match record.state {
                STATE_ACTIVE => EndpointState::Active,
                _ => EndpointState::Draining,
            },
        };
        present
            .map(|record| (socket(record), as_desired(record)))
            .collect()
    }

    fn plan_service(&mut self, name: &ServiceName) -> Option<Change> {
        self.refused.remove(name);
        let Some(desired) = self.desired(name) else {
            let id = self.kernel.by_name.get(name);
            self.leaving
                .extend(id.filter(|_| self.observed.silent.is_empty()));
            return None;
        };
        let moving = self.moving_frontends(name, &desired);
        self.kernel.strays.extend(&moving);
        self.tidy_due |= !moving.is_empty();
        let force = self.suspects.contains(name);
        let request = Request {
            name,
            desired: &desired,
            force,
            node_rank: self.node_rank,
            moving,
        };
        match plan::update(&mut self.kernel, &request) {
            Ok(change) => change,
            Err(problem) => {
                self.totals.refusals += 1;
                self.refused.insert(name.clone(), problem);
                self.room = self.current_room();
                // What has left must not be chosen any more, though what is new does not fit.
                let mut reduced = self.reduced(name, &desired)?;
                if let Ok(change) = plan::update(&mut self.kernel, &request.with(&reduced)) {
                    return change;
                }
                if !self.leaves_slots(name, &reduced) {
                    return None;
                }
                // Not even that fits: no slots at all leaves clients untouched.
                for backend in reduced.backends.values_mut() {
                    backend.state = EndpointState::Draining;
                }
                plan::update(&mut self.kernel, &request.with(&reduced))
                    .ok()
                    .flatten()
            }
        }
    }

    /// Whether a backend in the slots in force takes no new connections any more.
    fn leaves_slots(&self, name: &ServiceName, desired: &Desired) -> bool {
        let Some((_, held)) = self.kernel.find(name) else {
            return false;
        };
        let stays = |id: &u32| {
            let address = self.kernel.backends.get(id).map(socket);
            let backend = address.and_then(|address| desired.backends.get(&address));
            backend.is_some_and(|backend| backend.state == EndpointState::Active)
        };
        let mut slots = held.schedules.v4.iter().chain(held.schedules.v6.iter());
        !slots.all(stays)
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

    /// The part of a service that the kernel has already; `None` if it has nothing of it.
    fn reduced(&self, name: &ServiceName, desired: &Desired) -> Option<Desired> {
        let (_, held) = self.kernel.find(name).filter(|(_, held)| held.is_valid())?;
        let mut reduced = desired.clone();
        reduced
            .backends
            .retain(|address, _| held.backends.contains_key(address));
        reduced
            .frontends
            .retain(|address| held.frontends.contains(address));
        Some(reduced)
    }

    fn plan_removal(&mut self, id: u32) -> Option<Change> {
        let name = self.kernel.services.get(&id)?.name.clone();
        // It may have been declared anew since.
        if name.is_some_and(|name| self.observed.service(&name).is_some()) {
            return None;
        }
        plan::remove(&self.kernel, id)
    }

    fn plan_tidying(&mut self) -> Option<Change> {
        let kernel = &self.kernel;
        let name_of = |id| kernel.services.get(id).and_then(|held| held.name.as_ref());
        let observed = &self.observed;
        let is_stray = |address: &SocketAddr| match kernel.frontends.get(address).map(name_of) {
            None => false,
            Some(None) => true,
            Some(Some(name)) => observed.owner(address) != Some(name),
        };
        let strays: BTreeSet<SocketAddr> = kernel
            .strays
            .iter()
            .filter(|address| is_stray(address))
            .copied()
            .collect();
        let mut writes: Vec<Write> = strays
            .iter()
            .map(|address| Write::FrontendRemoved { address: *address })
            .collect();
        writes.extend(plan::gone_writes(kernel, kernel.orphans.iter().copied()));
        self.kernel.strays = strays;
        let kind = ChangeKind::Tidied;
        let change = Change {
            service: None,
            kind,
            writes,
            reservation: Reservation::default(),
        };
        (!change.writes.is_empty()).then_some(change)
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
        let frontends = |v4| {
            u64::from(
                kernel
                    .limits
                    .frontends
                    .saturating_sub(kernel.frontend_count(v4)),
            )
        };
        [
            kernel.services_available(),
            kernel.backend_ids.available(),
            kernel.extents.available(),
            frontends(true),
            frontends(false),
        ]
    }

    fn has_more_room(&self) -> bool {
        self.current_room()
            .iter()
            .zip(self.room)
            .any(|(now, then)| *now > then)
    }
}
