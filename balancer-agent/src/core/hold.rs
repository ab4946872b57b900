//! What a declared service should be, in view of what the kernel holds.
//!
//! Invariant: a service that needs a DNS set nobody has told of keeps what the kernel has.

use super::{
    Core,
    desired::{self, Desired, DesiredBackend},
    event::Source,
    kernel::socket,
    model::{EndpointState, ServiceName},
};
use balancer_common::backend::{Backend, STATE_ACTIVE, STATE_GONE, STATE_INACTIVE};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

// === impl Core ===

impl Core {
    pub(super) fn claimed_frontends(
        &self,
        name: &ServiceName,
    ) -> Option<(Source, BTreeSet<SocketAddr>)> {
        let (source, service) = self.observed.service(name)?;
        let known = desired::frontends(service, &self.observed.sets);
        let held = self.kernel.find(name).map(|(_, held)| held).filter(|held| {
            let fallback = held.partial && !known.set.is_empty();
            !known.complete && !held.frontends.is_empty() && !fallback
        });
        Some((source, held.map_or(known.set, |held| held.frontends.clone())))
    }

    /// What a declared service should be.
    pub(super) fn desired(&self, name: &ServiceName) -> Option<Desired> {
        let (_, service) = self.observed.service(name)?;
        let known = desired::backends(service, &self.observed.sets);
        let frontends_complete = desired::frontends(service, &self.observed.sets).complete;
        let held = self.held_backends(name);
        let was_partial = self.kernel.find(name).is_some_and(|(_, held)| held.partial);
        let serves = known.set.values().any(|backend| backend.state == EndpointState::Active);
        let enough = known.complete || was_partial && serves;
        let holds = !enough && !held.is_empty();
        let complete = known.complete && frontends_complete;
        let mut backends = if holds { held } else { known.set };
        for address in &self.drained {
            if let Some(backend) = backends.get_mut(address) {
                backend.state = backend.state.max(EndpointState::Draining);
            }
        }
        Some(Desired {
            frontends: self.observed.owned(name),
            backends,
            policy: desired::effective_policy(service),
            settings: desired::settings(service),
            affinity_s: service.affinity_s.map_or(0, std::num::NonZeroU32::get),
            partial: !complete && (was_partial || self.is_new(name)),
        })
    }

    pub(super) fn is_new(&self, name: &ServiceName) -> bool {
        self.kernel.find(name).is_none_or(|(_, held)| !held.is_valid())
    }

    /// The backends that the kernel has for a service.
    pub(super) fn held_backends(&self, name: &ServiceName) -> BTreeMap<SocketAddr, DesiredBackend> {
        let Some((_, held)) = self.kernel.find(name).filter(|(_, held)| held.is_valid()) else {
            return BTreeMap::new();
        };
        let records = held.backends.values().filter_map(|id| self.kernel.backends.get(id));
        let present = records.filter(|record| record.state != STATE_GONE);
        let as_desired = |record: &Backend| DesiredBackend {
            weight: record.weight,
            state: match record.state {
                STATE_ACTIVE => EndpointState::Active,
                STATE_INACTIVE => EndpointState::Inactive,
                _ => EndpointState::Draining,
            },
        };
        present.map(|record| (socket(record), as_desired(record))).collect()
    }

    /// The part of a service that the kernel has already; `None` if it has nothing of it.
    pub(super) fn reduced(&self, name: &ServiceName, desired: &Desired) -> Option<Desired> {
        let (_, held) = self.kernel.find(name).filter(|(_, held)| held.is_valid())?;
        let mut reduced = desired.clone();
        reduced.backends.retain(|address, _| held.backends.contains_key(address));
        reduced.frontends.retain(|address| held.frontends.contains(address));
        Some(reduced)
    }

    /// Whether a backend in the slots in force takes no new connections any more.
    pub(super) fn leaves_slots(&self, name: &ServiceName, desired: &Desired) -> bool {
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
}
