//! Picking a backend: session affinity first, then the service's policy over its schedule in force.

use crate::{context, lookup, lookup::ServiceRef, outcome::Pick};
use balancer_common::{
    address::FAMILY_V4,
    backend::{Backend, STATE_ACTIVE},
    pick::{self, Load},
    pod::{Affinity, PodServiceKey},
    reason::Reason,
    service::{
        Bank, POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST, POLICY_MAGLEV, POLICY_RANDOM,
        SCHEDULE_SLOTS_MAX, Schedule,
    },
};

/// How often a pick is tried anew when the backend set changed meanwhile. A pick takes less than a
/// tenth of the time of the fastest change, so that eight misses in a row do not happen by chance.
const TRIES_MAX: u32 = 8;

/// Picks for a pod that dialled a frontend of `family`; `pick` is valid if the reason's effect is
/// that the dial is balanced.
#[inline(always)]
pub(crate) fn pick<const FETCH: bool>(
    service: ServiceRef,
    key: &PodServiceKey,
    family: u16,
    pick: &mut Pick,
) -> Reason {
    // VERIFIER: a constant bound; loops with one are accepted from Linux 5.3 on.
    for _ in 0..TRIES_MAX {
        let generation = service.generation();
        let bank = service.bank(generation);
        pick.generation = generation;
        let reason = pick_from::<FETCH>(&bank, key, family, pick);
        // The bank was written while it was read only if the generation went on.
        if service.generation() == generation {
            return reason;
        }
    }
    Reason::GenerationRaced
}

// VERIFIER: a function of its own, so that its records leave the stack to the other functions.
#[inline(never)]
fn pick_from<const FETCH: bool>(
    bank: &Bank,
    key: &PodServiceKey,
    family: u16,
    pick: &mut Pick,
) -> Reason {
    let schedule = if family == FAMILY_V4 { bank.v4 } else { bank.v6 };
    if schedule.slots == 0 || schedule.slots > SCHEDULE_SLOTS_MAX {
        return Reason::NoBackend;
    }
    pick.slots = schedule.slots;
    if bank.affinity_s != 0 && keep_affinity(bank.affinity_s, key, pick) {
        return Reason::AffinityKept;
    }
    pick.slot = pick_slot::<FETCH>(bank.policy, &schedule, key);
    let Some(mut id) = lookup::slot(schedule.chunk, pick.slot) else {
        return Reason::BackendMissing;
    };
    let mut reason = Reason::Picked;
    // Nearly all backends never failed: no clock is read for those.
    let ejected_until_ns = lookup::ejected_until_ns(id);
    if ejected_until_ns != 0
        && let Some(slot) = pass_over(&schedule, pick.slot, ejected_until_ns)
        && let Some(next) = lookup::slot(schedule.chunk, slot)
    {
        (id, pick.slot, reason) = (next, slot, Reason::EjectedPassedOver);
    }
    let Some(backend) = usable(id, key.service) else {
        return Reason::BackendMissing;
    };
    lead_to(id, &backend, pick);
    if bank.affinity_s != 0 {
        let used_ns = context::now_ns();
        let affinity = Affinity { used_ns, backend: id, incarnation: backend.incarnation };
        lookup::remember_affinity(key, &affinity);
    }
    reason
}

/// The nearest slot whose backend is not ejected, if that of `first` still is. If there is none, the
/// first stays: somebody has to find out that they serve again.
#[inline(always)]
fn pass_over(schedule: &Schedule, first: u32, ejected_until_ns: u64) -> Option<u32> {
    let now_ns = context::now_ns();
    if ejected_until_ns <= now_ns {
        return None;
    }
    let next = next_admitted(schedule.chunk, schedule.slots, first, now_ns);
    (next < schedule.slots).then_some(next)
}

/// The nearest slot whose backend is not ejected; `slots` if there is none.
// VERIFIER: a global function, as `least_loaded` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn next_admitted(chunk: u32, slots: u32, first: u32, now_ns: u64) -> u32 {
    let is_ejected = |slot| match lookup::slot(chunk, slot) {
        Some(id) => lookup::ejected_until_ns(id) > now_ns,
        None => true,
    };
    pick::next_admitted(first, slots, is_ejected).unwrap_or(slots)
}

#[inline(always)]
fn lead_to(id: u32, backend: &Backend, pick: &mut Pick) {
    pick.backend = id;
    pick.address = backend.address;
    pick.port_be = backend.port_be;
    pick.incarnation = backend.incarnation;
}

#[inline(always)]
fn pick_slot<const FETCH: bool>(policy: u32, schedule: &Schedule, key: &PodServiceKey) -> u32 {
    let slots = schedule.slots;
    match policy {
        POLICY_RANDOM => pick::slot_of_cursor(u64::from(context::random()), slots),
        POLICY_MAGLEV => pick::slot_of_cursor(pick::mix(key.pod), slots),
        POLICY_LEAST_CONNECTION | POLICY_LEAST_REQUEST => {
            let cursor = lookup::next_cursor::<FETCH>(key);
            let now_ns = if FETCH { context::now_coarse_ns() } else { context::now_ns() };
            least_loaded(schedule.chunk, slots, cursor, now_ns, policy)
        }
        _ => pick::slot_of_cursor(lookup::next_cursor::<FETCH>(key), slots),
    }
}

/// The slot whose backend has the fewest connections, and by `POLICY_LEAST_REQUEST` requests in flight, for
/// its weight, of those that are not ejected.
// VERIFIER: a global function (Linux 5.6), which is verified once and by itself: inlined, its loop
// was verified for every path that leads to it, a million instructions in all. Its arguments are
// numbers, since kernels before 5.13 take no other pointers than contexts.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn least_loaded(
    chunk: u32,
    slots: u32,
    cursor: u64,
    now_ns: u64,
    policy: u32,
) -> u32 {
    pick::least_loaded(cursor, context::random, slots, |slot| {
        let id = lookup::slot(chunk, slot)?;
        let mut active = lookup::backend_active(id, now_ns)?;
        if policy == POLICY_LEAST_REQUEST {
            active += lookup::requests_in_flight(id);
        }
        Some(Load { active, weight: lookup::backend_weight(id)? })
    })
}

/// Leads to the backend that the pod used last, if it still serves and the affinity has not run out.
#[inline(always)]
fn keep_affinity(affinity_s: u32, key: &PodServiceKey, pick: &mut Pick) -> bool {
    let Some(mut affinity) = lookup::affinity(key) else {
        return false;
    };
    let now_ns = context::now_ns();
    if !affinity.holds(now_ns, affinity_s) {
        return false;
    }
    let Some(backend) = usable(affinity.backend, key.service) else {
        return false;
    };
    let is_ejected = lookup::ejected_until_ns(affinity.backend) > now_ns;
    if backend.incarnation != affinity.incarnation || is_ejected {
        return false;
    }
    affinity.used_ns = now_ns;
    lookup::remember_affinity(key, &affinity);
    lead_to(affinity.backend, &backend, pick);
    true
}

/// A backend of this service that takes new connections.
#[inline(always)]
fn usable(id: u32, service: u32) -> Option<Backend> {
    let backend = lookup::backend(id)?;
    (backend.state == STATE_ACTIVE && backend.service == service).then_some(backend)
}
