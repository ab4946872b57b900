//! Picking a backend: session affinity first, then the service's policy over its schedule in force.

use crate::{context, lookup, lookup::ServiceRef, outcome::Pick};
use balancer_common::{
    address::FAMILY_V4,
    backend::{Backend, STATE_ACTIVE},
    pick::{self, Load},
    pod::{Affinity, PodServiceKey},
    reason::Reason,
    service::{
        Bank, POLICY_LEAST_CONNECTION, POLICY_MAGLEV, POLICY_RANDOM, SCHEDULE_SLOTS_MAX, Schedule,
    },
};

/// How often a pick is tried anew when the backend set changed meanwhile.
const TRIES_MAX: u32 = 3;

/// A backend to go to.
#[must_use]
pub(crate) struct Choice {
    pub(crate) pick: Pick,
    pub(crate) backend: Backend,
    pub(crate) reason: Reason,
}

/// Picks for a pod that dialled a frontend of `family`.
#[inline(always)]
pub(crate) fn pick<const FETCH: bool>(
    service: ServiceRef,
    key: &PodServiceKey,
    family: u16,
) -> Result<Choice, Reason> {
    // VERIFIER: a constant bound; loops with one are accepted from Linux 5.3 on.
    for _ in 0..TRIES_MAX {
        let generation = service.generation();
        let bank = service.bank(generation);
        let choice = pick_from::<FETCH>(&bank, key, family, generation);
        // The bank was written while it was read only if the generation went on.
        if service.generation() == generation {
            return choice;
        }
    }
    Err(Reason::GenerationRaced)
}

#[inline(always)]
fn pick_from<const FETCH: bool>(
    bank: &Bank,
    key: &PodServiceKey,
    family: u16,
    generation: u32,
) -> Result<Choice, Reason> {
    let schedule = if family == FAMILY_V4 {
        bank.v4
    } else {
        bank.v6
    };
    if schedule.slots == 0 || schedule.slots > SCHEDULE_SLOTS_MAX {
        return Err(Reason::NoBackend);
    }
    if bank.affinity_s != 0 {
        if let Some(choice) = keep_affinity(bank.affinity_s, &schedule, key, generation) {
            return Ok(choice);
        }
    }
    let slot = pick_slot::<FETCH>(bank.policy, &schedule, key);
    let id = lookup::slot(schedule.chunk, slot).ok_or(Reason::BackendMissing)?;
    let backend = usable(id, key.service).ok_or(Reason::BackendMissing)?;
    if bank.affinity_s != 0 {
        let used_ns = context::now_ns();
        let affinity = Affinity {
            used_ns,
            backend: id,
            incarnation: backend.incarnation,
        };
        lookup::remember_affinity(key, &affinity);
    }
    let pick = Pick {
        backend: id,
        generation,
        slot,
        slots: schedule.slots,
    };
    Ok(Choice {
        pick,
        backend,
        reason: Reason::Picked,
    })
}

#[inline(always)]
fn pick_slot<const FETCH: bool>(policy: u32, schedule: &Schedule, key: &PodServiceKey) -> u32 {
    let slots = schedule.slots;
    match policy {
        POLICY_RANDOM => pick::slot_of_cursor(u64::from(context::random()), slots),
        POLICY_MAGLEV => pick::slot_of_cursor(pick::mix(key.pod), slots),
        POLICY_LEAST_CONNECTION => {
            let cursor = lookup::next_cursor::<FETCH>(key);
            pick::least_loaded(cursor, context::random(), slots, |slot| {
                let id = lookup::slot(schedule.chunk, slot)?;
                let active = lookup::backend_active(id)?;
                Some(Load {
                    active,
                    weight: lookup::backend_weight(id)?,
                })
            })
        }
        _ => pick::slot_of_cursor(lookup::next_cursor::<FETCH>(key), slots),
    }
}

/// The backend that the pod used last, if it still serves and the affinity has not run out.
#[inline(always)]
fn keep_affinity(
    affinity_s: u32,
    schedule: &Schedule,
    key: &PodServiceKey,
    generation: u32,
) -> Option<Choice> {
    let mut affinity = lookup::affinity(key)?;
    let now_ns = context::now_ns();
    if !affinity.holds(now_ns, affinity_s) {
        return None;
    }
    let backend = usable(affinity.backend, key.service)?;
    if backend.incarnation != affinity.incarnation {
        return None;
    }
    affinity.used_ns = now_ns;
    lookup::remember_affinity(key, &affinity);
    let pick = Pick {
        backend: affinity.backend,
        generation,
        slot: 0,
        slots: schedule.slots,
    };
    Some(Choice {
        pick,
        backend,
        reason: Reason::AffinityKept,
    })
}

/// A backend of this service that takes new connections.
#[inline(always)]
fn usable(id: u32, service: u32) -> Option<Backend> {
    let backend = lookup::backend(id)?;
    (backend.state == STATE_ACTIVE && backend.service == service).then_some(backend)
}
