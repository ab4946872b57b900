//! Schedules as extents of chunks: when they are to be laid anew, where, and the writes for it.

use super::Request;
use crate::core::{
    desired::{Desired, Slots},
    kernel::{Kernel, Schedules},
    model::ServiceName,
    problem::{Problem, Resource},
    write::Write,
};
use balancer_common::service::{Bank, CHUNK_SLOTS, Schedule, SlotChunk};
use std::{collections::BTreeMap, net::SocketAddr, ops::Range, sync::Arc};

/// Whether the schedules in force are other than the desired ones.
pub(super) fn needs_flip(
    kernel: &Kernel,
    request: &Request<'_>,
    slots: &Slots<SocketAddr>,
) -> bool {
    let Some((_, held)) = kernel.find(request.name).filter(|(_, held)| held.is_valid()) else {
        return true;
    };
    let bank = held.record.bank();
    let same = |ids: &[u32], addresses: &[SocketAddr]| {
        ids.len() == addresses.len()
            && ids.iter().zip(addresses).all(|(id, a)| held.backends.get(a) == Some(id))
    };
    request.force
        || bank.policy != request.desired.policy.code()
        || bank.affinity_s != request.desired.affinity_s
        || !same(&held.schedules.v4, &slots.v4)
        || !same(&held.schedules.v6, &slots.v6)
}

/// Takes one extent if both families share their slots, else one for each that has any.
pub(super) fn take_extents(
    kernel: &mut Kernel,
    name: &ServiceName,
    slots: &Slots<SocketAddr>,
) -> Result<Vec<Range<u32>>, Problem> {
    let second = if slots.v4 == slots.v6 { 0 } else { slots.v6.len() };
    let mut extents = Vec::new();
    for length in [slots.v4.len(), second].into_iter().filter(|length| *length > 0) {
        if let Some(extent) = kernel.extents.take(length) {
            extents.push(extent);
            continue;
        }
        for extent in extents {
            kernel.extents.put(extent);
        }
        return Err(Problem::OverLimit {
            service: name.clone(),
            resource: Resource::Chunks,
            needed: length.div_ceil(CHUNK_SLOTS) as u64,
            available: kernel.extents.available(),
            limit: kernel.limits.chunks,
        });
    }
    Ok(extents)
}

pub(super) fn fill(
    slots: &Slots<SocketAddr>,
    ids: &BTreeMap<SocketAddr, u32>,
    extents: Vec<Range<u32>>,
) -> Schedules {
    let to_ids = |addresses: &[SocketAddr]| -> Arc<[u32]> {
        addresses.iter().map(|address| ids.get(address).copied().unwrap_or_default()).collect()
    };
    let v4 = to_ids(&slots.v4);
    let v6 = if slots.v4 == slots.v6 { Arc::clone(&v4) } else { to_ids(&slots.v6) };
    Schedules { v4, v6, extents }
}

pub(super) fn slot_writes(schedules: &Schedules) -> Vec<Write> {
    let mut writes = Vec::new();
    for (slots, extent) in placed(schedules) {
        for (chunk, ids) in extent.zip(slots.chunks(CHUNK_SLOTS)) {
            let mut slots = SlotChunk::default();
            slots.backends[..ids.len()].copy_from_slice(ids);
            writes.push(Write::Slots { chunk, slots });
        }
    }
    writes
}

/// Slots with their extents, each extent once.
fn placed(schedules: &Schedules) -> impl Iterator<Item = (&Arc<[u32]>, Range<u32>)> {
    let shared = Arc::ptr_eq(&schedules.v4, &schedules.v6);
    let families = [Some(&schedules.v4), Some(&schedules.v6).filter(|_| !shared)];
    let used = families.into_iter().flatten().filter(|slots| !slots.is_empty());
    used.zip(schedules.extents.iter().cloned())
}

pub(super) fn bank(schedules: &Schedules, desired: &Desired) -> Bank {
    let schedule = |slots: &[u32], extent: Option<&Range<u32>>| match extent {
        Some(extent) if !slots.is_empty() => {
            Schedule { chunk: extent.start, slots: u32::try_from(slots.len()).unwrap_or_default() }
        }
        _ => Schedule::default(),
    };
    Bank {
        v4: schedule(&schedules.v4, schedules.extents.first()),
        v6: schedule(&schedules.v6, schedules.extents.last()),
        policy: desired.policy.code(),
        affinity_s: desired.affinity_s,
    }
}
