//! The named lookups: the only place where map values are dereferenced.
//!
//! Array maps' values live as long as the program runs; hash maps' values may be given to another
//! key at any time after a delete (they are recycled without a grace period), which is why those are
//! copied or changed by single atomic additions only.

mod backend;
mod flow;

pub(crate) use backend::*;
pub(crate) use flow::*;

use crate::maps;
use balancer_common::{
    frontend::{FrontendKeyV4, FrontendKeyV6},
    hierarchy::Hierarchy,
    pod::{Affinity, PodServiceKey, Skip},
    reason::Reason,
    service::{Bank, CHUNK_SLOTS, POLICY_MAGLEV, Service, ServiceStats},
};
use core::{arch::asm, ptr};

const CHUNK_SLOTS_U32: u32 = CHUNK_SLOTS as u32;

/// The service that an IPv4 frontend stands for.
#[inline(always)]
pub(crate) fn frontend_v4(key: &FrontendKeyV4) -> Option<u32> {
    // SAFETY: the value is copied at once. An entry that is recycled meanwhile names another
    // frontend's service, as if the dial had come a moment later.
    maps::FRONTENDS_V4.get_ptr(key).map(|frontend| unsafe { (*frontend).service })
}

/// The service that an IPv6 frontend stands for.
#[inline(always)]
pub(crate) fn frontend_v6(key: &FrontendKeyV6) -> Option<u32> {
    // SAFETY: as in `frontend_v4`.
    maps::FRONTENDS_V6.get_ptr(key).map(|frontend| unsafe { (*frontend).service })
}

/// A service record that the agent may be changing.
#[derive(Clone, Copy)]
pub(crate) struct ServiceRef(*const Service);

#[inline(always)]
pub(crate) fn service(id: u32) -> Option<ServiceRef> {
    maps::SERVICES.get_ptr(id).map(ServiceRef)
}

impl ServiceRef {
    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        // SAFETY: array values stay valid; the read is volatile since the agent writes them.
        unsafe { ptr::read_volatile(&raw const (*self.0).generation) }
    }

    #[inline(always)]
    pub(crate) fn bank(self, generation: u32) -> Bank {
        // SAFETY: as in `generation`; the index is 0 or 1.
        unsafe {
            if generation & 1 == 0 {
                ptr::read_volatile(&raw const (*self.0).banks[0])
            } else {
                ptr::read_volatile(&raw const (*self.0).banks[1])
            }
        }
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        // SAFETY: as in `generation`.
        unsafe { ptr::read_volatile(&raw const (*self.0).flags) }
    }

    /// Whether its policy leads a pod to the same backend again.
    #[inline(always)]
    pub(crate) fn is_sticky(self) -> bool {
        let bank = self.bank(self.generation());
        bank.affinity_s != 0 || bank.policy == POLICY_MAGLEV
    }

    /// Socket options: user timeout (ms), keepalive idle (s), interval (s), probes.
    #[inline(always)]
    pub(crate) fn socket_options(self) -> [u32; 4] {
        // SAFETY: as in `generation`.
        unsafe {
            [
                ptr::read_volatile(&raw const (*self.0).user_timeout_ms),
                ptr::read_volatile(&raw const (*self.0).keepalive_idle_s),
                ptr::read_volatile(&raw const (*self.0).keepalive_interval_s),
                ptr::read_volatile(&raw const (*self.0).keepalive_probes),
            ]
        }
    }
}

/// The backend id in a slot of the schedule that starts at `chunk`.
#[inline(always)]
pub(crate) fn slot(chunk: u32, slot: u32) -> Option<u32> {
    let chunk = maps::SLOTS.get_ptr(chunk + slot / CHUNK_SLOTS_U32)?;
    // SAFETY: array values stay valid; the remainder is below the chunk's length.
    Some(unsafe {
        ptr::read_volatile((&raw const (*chunk).backends).cast::<u32>().add(
            // VERIFIER: the mask bounds the offset into the map value.
            (slot & (CHUNK_SLOTS_U32 - 1)) as usize,
        ))
    })
}

/// Adds to a counter that other CPUs add to as well.
///
/// In assembly since `core` has no read-modify-write atomics for targets without compare-and-swap,
/// and since this must be the plain add that kernels before 5.12 know.
#[inline(always)]
pub(crate) fn add(target: *mut u64, amount: i64) {
    // SAFETY: callers pass pointers to aligned map memory.
    unsafe {
        asm!("lock *(u64 *)({target} + 0) += {amount}", target = in(reg) target, amount = in(reg) amount);
    }
}

/// Takes the value of a cursor and moves it on.
#[inline(always)]
fn advance<const FETCH: bool>(cursor: *mut u64) -> u64 {
    let mut value = 1_u64;
    if FETCH {
        // SAFETY: callers pass pointers to aligned map memory.
        unsafe {
            asm!("{value} = atomic_fetch_add((u64 *)({cursor} + 0), {value})", cursor = in(reg) cursor, value = inout(reg) value);
        }
    } else {
        // SAFETY: as above. Two CPUs at once may read the same value; the next ones differ again.
        value = unsafe { ptr::read_volatile(cursor) };
        add(cursor, 1);
    }
    value
}

/// The next position of a pod's cursor; its first is the service's, which every connection moves.
#[inline(always)]
pub(crate) fn next_cursor<const FETCH: bool>(key: &PodServiceKey) -> u64 {
    let Some(shared) = maps::CURSORS.get_ptr_mut(key.service) else {
        return 0;
    };
    let shared = advance::<FETCH>(shared);
    if let Some(own) = maps::POD_CURSORS.get_ptr_mut(key) {
        return advance::<FETCH>(own);
    }
    let _ = maps::POD_CURSORS.insert(key, shared + 1, 0);
    shared
}

/// A pod's affinity to a backend of a service.
#[inline(always)]
pub(crate) fn affinity(key: &PodServiceKey) -> Option<Affinity> {
    // SAFETY: copied at once; the copy is compared with the backend's record before it is used.
    maps::AFFINITIES.get_ptr(key).map(|affinity| unsafe { ptr::read_volatile(affinity) })
}

/// Remembers or renews a pod's affinity.
#[inline(always)]
pub(crate) fn remember_affinity(key: &PodServiceKey, affinity: &Affinity) {
    let _ = maps::AFFINITIES.insert(key, affinity, 0);
}

/// Counts an outcome.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = maps::REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the value is this CPU's own, and programs do not migrate while they run. A
        // program that interrupts another one may lose it one count.
        unsafe { *counter += 1 };
    }
}

/// Counts a connection that was left untouched, for its service.
#[inline(always)]
pub(crate) fn count_untouched(service: u32) {
    if let Some(stats) = service_stats(service) {
        // SAFETY: array values stay valid, and the pointer is into the value.
        add(unsafe { &raw mut (*stats).untouched }, 1);
    }
}

/// Counts a socket option that the kernel refused.
#[inline(always)]
pub(crate) fn count_socket_option_failure(service: u32) {
    if let Some(stats) = service_stats(service) {
        // SAFETY: array values stay valid, and the pointer is into the value.
        add(unsafe { &raw mut (*stats).socket_option_failures }, 1);
    }
}

#[inline(always)]
fn service_stats(service: u32) -> Option<*mut ServiceStats> {
    maps::SERVICE_STATS.get_ptr_mut(service)
}

/// When tracing ends, by `CLOCK_MONOTONIC`; zero is off.
#[inline(always)]
pub(crate) fn trace_until_ns() -> u64 {
    match maps::SETTINGS.get_ptr(0) {
        // SAFETY: array values stay valid; the read is volatile since the agent writes them.
        Some(settings) => unsafe { ptr::read_volatile(&raw const (*settings).trace_until_ns) },
        None => 0,
    }
}

/// Where the cgroups of pods are.
#[derive(Clone, Copy)]
pub(crate) struct HierarchyRef(*const Hierarchy);

#[inline(always)]
pub(crate) fn hierarchy() -> Option<HierarchyRef> {
    maps::HIERARCHY.get_ptr(0).map(HierarchyRef)
}

// The agent writes the record when kubelet starts, and hardly ever again: fields that are read while
// it does may be from two records, whose only harm is a client that is told by another cgroup once.
impl HierarchyRef {
    #[inline(always)]
    pub(crate) fn kubepods(self) -> u64 {
        // SAFETY: array values stay valid; the read is volatile since the agent writes them.
        unsafe { ptr::read_volatile(&raw const (*self.0).kubepods) }
    }

    /// Whether a cgroup stands between `kubepods` and pods.
    #[inline(always)]
    pub(crate) fn is_quality_class(self, cgroup: u64) -> bool {
        // SAFETY: as in `kubepods`.
        unsafe {
            cgroup == ptr::read_volatile(&raw const (*self.0).burstable)
                || cgroup == ptr::read_volatile(&raw const (*self.0).besteffort)
        }
    }

    /// The level of `kubepods`, and how many more are to be searched.
    #[inline(always)]
    pub(crate) fn levels(self) -> (u32, u32) {
        // SAFETY: as in `kubepods`.
        unsafe {
            (
                ptr::read_volatile(&raw const (*self.0).level),
                ptr::read_volatile(&raw const (*self.0).search_levels),
            )
        }
    }

    #[inline(always)]
    fn is_skipping(self) -> bool {
        // SAFETY: as in `kubepods`.
        unsafe { ptr::read_volatile(&raw const (*self.0).skipping) != 0 }
    }
}

/// Why a pod's connections are to be left alone, if they are.
#[inline(always)]
pub(crate) fn skip(pod: u64) -> Option<Reason> {
    if !hierarchy()?.is_skipping() {
        return None;
    }
    // SAFETY: copied at once; an entry that is recycled meanwhile is another pod's wish, as if the
    // dial had come a moment earlier.
    let skip: Skip = unsafe { *maps::SKIPPED_PODS.get_ptr(pod)? };
    Some(skip.reason())
}
