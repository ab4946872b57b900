//! How full the maps are, for `status` and for metrics.

use super::maps::Maps;
use aya::maps::MapError;
use balancer_common::service::{Bank, CHUNK_SLOTS};
use serde::Serialize;

/// One table that can be full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableUse {
    /// What it holds.
    #[serde(rename = "table")]
    pub name: &'static str,
    /// Entries in use.
    pub used: usize,
    /// Entries that fit.
    pub limit: usize,
    /// Whether a full one leaves connections or services out; others forget the oldest entry.
    pub strict: bool,
}

/// What was counted already by whoever read the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Valid services, the self-test's left out.
    pub services: usize,
    /// Backend ids in use.
    pub backends: usize,
    /// Frontends of IPv4.
    pub frontends_v4: usize,
    /// Frontends of IPv6.
    pub frontends_v6: usize,
    /// Chunks of slots in force.
    pub chunks: usize,
    /// Tracked connections.
    pub connections: usize,
}

/// Chunks that the two schedules of a bank take.
pub fn chunks(bank: &Bank) -> usize {
    [bank.v4, bank.v6].iter().map(|it| (it.slots as usize).div_ceil(CHUNK_SLOTS)).sum()
}

/// Every table. What the agent keeps for itself is not counted into the limits.
///
/// # Errors
/// Whatever aya or the kernel says.
pub fn tables(maps: &Maps, counted: &Counted) -> Result<Vec<TableUse>, MapError> {
    let limits = &maps.limits;
    let table =
        |name, used, limit: u32, strict| TableUse { name, used, limit: limit as usize, strict };
    let cursors = count(maps.pod_cursors.keys())?;
    let affinities = count(maps.affinities.keys())?;
    Ok(vec![
        table("services", counted.services, limits.services - 1, true),
        table("backends", counted.backends, limits.backends - 1, true),
        table("frontends IPv4", counted.frontends_v4, limits.frontends - 1, true),
        table("frontends IPv6", counted.frontends_v6, limits.frontends, true),
        table("slots", counted.chunks * CHUNK_SLOTS, (limits.chunks - 1) * 16, true),
        table("connections", counted.connections, limits.flows, true),
        table("pod cursors", cursors, limits.pod_services, false),
        table("pod affinities", affinities, limits.pod_services, false),
    ])
}

/// Keys of a map.
///
/// # Errors
/// Whatever aya or the kernel says.
pub fn count<K>(mut keys: impl Iterator<Item = Result<K, MapError>>) -> Result<usize, MapError> {
    keys.try_fold(0, |count, key| key.map(|_| count + 1))
}
