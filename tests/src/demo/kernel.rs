//! What the kernel holds of the demo's service: read from the pinned maps, not from the agent.

use super::agent::{Member, SERVICE};
use crate::world::World;
use anyhow::{Context, bail};
use balancer_agent::datapath::{maps::Maps, reader::socket_address};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, interval};

/// Longest wait for a change to arrive in the kernel.
const CHANGE_MS_MAX: u64 = 10_000;

/// The pinned maps.
pub struct Kernel {
    maps: Maps,
}

impl Kernel {
    /// Opens the maps of the agent that runs, or ran, in `world`.
    ///
    /// # Errors
    /// When none are pinned.
    pub fn open(world: &World) -> anyhow::Result<Self> {
        Ok(Self { maps: Maps::open_loaded(world.pins()).context("open the pinned maps")? })
    }

    /// Waits until the backends that can be picked are exactly those that do not drain.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_not_picked(&self, members: &[Member]) -> anyhow::Result<()> {
        let wanted: BTreeSet<_> =
            members.iter().filter(|member| !member.draining).map(|member| member.address).collect();
        let deadline = Instant::now() + Duration::from_millis(CHANGE_MS_MAX);
        // Map writes raise no event.
        let mut look = interval(Duration::from_millis(1));
        loop {
            look.tick().await;
            let state = self.maps.read_state().context("read the pinned maps")?;
            let service = state.services.values().find(|service| service.name == SERVICE);
            let service = service.with_context(|| format!("the kernel has no `{SERVICE}`"))?;
            let picked: BTreeSet<_> = service
                .slots_v4
                .iter()
                .filter_map(|id| state.backends.get(id))
                .map(|backend| socket_address(backend.address, backend.port_be))
                .collect();
            if picked == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after {CHANGE_MS_MAX} ms the kernel picks from {picked:?}, not {wanted:?}");
            }
        }
    }

    /// Connections that are counted for all backends together.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn connections(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for id in self.maps.read_backends().context("read the backends")?.into_keys() {
            sum += self.maps.read_backend_stats(id).context("read a backend's counters")?.active;
        }
        Ok(sum)
    }
}
