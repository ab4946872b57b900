//! Moves state from the maps of one layout to those of another, so that new limits cost nothing.
//!
//! Before the programs are switched over, everything is copied; connections that began or ended
//! between the copy and the switch are brought up to date after it, when the old maps are still.

use super::{counters::SharedCounters, maps::Maps, raw::Raw};
use aya::maps::MapError;
use balancer_common::{flow::Flow, service::SERVICE_SELF_TEST};
use std::collections::{BTreeMap, HashMap};

/// Slots in a chunk, as schedules count.
#[expect(clippy::cast_possible_truncation, reason = "16")]
const CHUNK_SLOTS: u32 = balancer_common::service::CHUNK_SLOTS as u32;

/// What came along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Services.
    pub services: usize,
    /// Tracked connections.
    pub flows: usize,
    /// Records that did not fit the new limits.
    pub left_behind: usize,
}

/// Copies everything of `old` into the empty maps `new`; of its connections, those that `flows`
/// tells of. A backend's active connections are counted from these, not copied: between two reads
/// of maps in use some begin and end, and counters would never agree with the flows again.
///
/// # Errors
/// Whatever aya or the kernel says; what does not fit is counted instead.
pub fn copy(
    old: &Maps,
    new: &mut Maps,
    flows: &BTreeMap<u64, Flow>,
) -> Result<Transferred, MapError> {
    let mut done = Transferred::default();
    let mut active = HashMap::new();
    for (cookie, flow) in flows {
        if new.flows.add(*cookie, flow) {
            *active.entry(flow.backend).or_default() += 1;
            done.flows += 1;
        } else {
            done.left_behind += 1;
        }
    }
    for id in 0..old.limits.chunks.min(new.limits.chunks) {
        let chunk = old.slots.get(&id, 0)?;
        if chunk.0 != bytemuck::Zeroable::zeroed() {
            new.slots.set(id, chunk, 0)?;
        }
    }
    for id in 1..old.limits.backends.min(new.limits.backends) {
        let record = old.backends.get(&id, 0)?;
        if record.0.state != 0 {
            let mut stats = old.backend_stats.get(&id, 0)?.0;
            stats.active = active.get(&id).copied().unwrap_or(0);
            new.backend_stats.set(id, Raw(stats), 0)?;
            new.backends.set(id, record, 0)?;
        }
    }
    for entry in &old.service_names {
        let (id, name) = entry?;
        let record = old.services.get(&id.0, 0)?;
        if !fits(&record.0, id.0, new, old)? {
            done.left_behind += 1;
            continue;
        }
        new.service_names.insert(id, name, 0)?;
        new.cursors.set(id.0, old.cursors.get(&id.0, 0)?, 0)?;
        new.service_stats.set(id.0, old.service_stats.get(&id.0, 0)?, 0)?;
        new.services.set(id.0, record, 0)?;
        done.services += 1;
    }
    copy_frontends(old, new, &mut done)?;
    done.left_behind += copy_entries(&old.pod_cursors, &mut new.pod_cursors)?;
    done.left_behind += copy_entries(&old.affinities, &mut new.affinities)?;
    done.left_behind += copy_entries(&old.skipped_pods, &mut new.skipped_pods)?;
    new.hierarchy.set(0, old.hierarchy.get(&0, 0)?, 0)?;
    Ok(done)
}

/// Whether a service and all that it points to lie within the new limits.
fn fits(
    record: &balancer_common::service::Service,
    id: u32,
    new: &Maps,
    old: &Maps,
) -> Result<bool, MapError> {
    let bank = record.bank();
    let chunks_end = new.limits.chunks - 1;
    for schedule in [bank.v4, bank.v6] {
        let chunks = schedule.slots.div_ceil(CHUNK_SLOTS);
        let in_reach = old.read_schedule(schedule)?.iter().all(|id| *id < new.limits.backends);
        if schedule.chunk + chunks > chunks_end || !in_reach {
            return Ok(false);
        }
    }
    Ok(id < new.limits.services && id != SERVICE_SELF_TEST)
}

fn copy_frontends(old: &Maps, new: &mut Maps, done: &mut Transferred) -> Result<(), MapError> {
    for entry in &old.frontends_v4 {
        let (key, frontend) = entry?;
        if is_named(new, frontend.0.service) && new.frontends_v4.insert(key, frontend, 0).is_err() {
            done.left_behind += 1;
        }
    }
    for entry in &old.frontends_v6 {
        let (key, frontend) = entry?;
        if is_named(new, frontend.0.service) && new.frontends_v6.insert(key, frontend, 0).is_err() {
            done.left_behind += 1;
        }
    }
    Ok(())
}

fn is_named(maps: &Maps, service: u32) -> bool {
    maps.service_names.get(&Raw(service), 0).is_ok()
}

/// Copies a hash map; returns how many entries did not fit.
fn copy_entries<K, V>(
    old: &super::maps::Hash<K, V>,
    new: &mut super::maps::Hash<K, V>,
) -> Result<usize, MapError>
where
    K: bytemuck::Pod,
    V: bytemuck::Pod,
{
    let mut lost = 0;
    for entry in old {
        let (key, value) = entry?;
        if new.insert(key, value, 0).is_err() {
            lost += 1;
        }
    }
    Ok(lost)
}

/// After new connections are made on the new maps, while the programs of both maps still see every
/// connection's end: brings flows that began or ended since [`copy`] up to date. `copied` is what
/// that saw. Returns how many flows were corrected.
///
/// # Errors
/// Whatever aya or the kernel says.
pub fn catch_up(
    old: &Maps,
    new: &mut Maps,
    copied: &BTreeMap<u64, Flow>,
) -> Result<usize, MapError> {
    let counters = SharedCounters::open(new.backend_stats_data(), new.limits.backends)?;
    let still = old.read_flows()?;
    let mut corrected = 0;
    let began: Vec<_> = still.iter().filter(|(cookie, _)| !copied.contains_key(cookie)).collect();
    for (cookie, flow) in &began {
        // Counted first: the new programs may see its end at any moment.
        counters.add_active(flow.backend, 1);
        // A newer record of the same socket is the better one, and stays.
        if new.flows.add(**cookie, flow) {
            corrected += 1;
        } else {
            counters.add_active(flow.backend, -1);
        }
    }
    for (cookie, before) in copied {
        if let Some(flow) = still.get(cookie)
            && before.state != flow.state
        {
            // Only while the connection lives.
            new.flows.update(*cookie, flow);
        }
    }
    // Whatever ended before the new programs could see it. Those that they saw are gone already.
    let now = old.read_flows()?;
    let known = began.into_iter().chain(copied);
    for (cookie, flow) in known.filter(|(cookie, _)| !now.contains_key(cookie)) {
        if new.flows.remove(*cookie) {
            counters.add_active(flow.backend, -1);
            corrected += 1;
        }
    }
    Ok(corrected)
}
