//! A world with the datapath loaded and attached, whose services are declared without the agent's
//! core: what a kernel test sees is the kernel programs alone.

pub mod service;

use crate::{dialer::Dialer, world::World};
use anyhow::{Context, bail};
use balancer_agent::{
    core::write::{Limits, Write},
    datapath::{
        hooks::{self, Taken},
        loader::{self, Loaded},
        maps::Maps,
        raw::Raw,
    },
};
use balancer_common::{
    backend::BackendStats, flow::Flow, reason::Reason, service::ServiceStats, settings::Settings,
};
use std::{collections::BTreeMap, net::SocketAddr};

/// Sizes that a test fills in no time.
pub const LIMITS: Limits = Limits {
    services: 16,
    backends: 256,
    frontends: 64,
    chunks: 256,
    flows: 4_096,
    pod_services: 256,
};

/// A world whose cgroup is balanced.
pub struct Fixture {
    loaded: Loaded,
    limits: Limits,
    /// Identities of backends: id and incarnation by service and address, as the kernel knows them.
    backends: BTreeMap<(u32, SocketAddr), (u32, u32)>,
    services: u32,
    // Last, so that everything is closed when it is taken down.
    world: World,
}

impl Fixture {
    /// A world of its own with everything attached, and [`LIMITS`].
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn new(purpose: &str) -> anyhow::Result<Self> {
        Self::with_limits(purpose, LIMITS)
    }

    /// As [`Self::new`], with maps of the given sizes.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn with_limits(purpose: &str, limits: Limits) -> anyhow::Result<Self> {
        let world = World::new(purpose)?;
        let (loaded, _) = load(&world, &limits)?;
        Ok(Self { loaded, limits, backends: BTreeMap::new(), services: 0, world })
    }

    /// Where it runs.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Loads and attaches once more, as a new agent does; returns how the hooks were taken.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn restart(&mut self) -> anyhow::Result<Vec<Taken>> {
        let (loaded, taken) = load(&self.world, &self.limits)?;
        self.loaded = loaded;
        Ok(taken)
    }

    /// The loaded programs.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The loaded programs, to load more of them.
    pub fn loaded_mut(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// What this kernel lacks.
    pub fn degraded(&self) -> &[String] {
        &self.loaded.report.degraded
    }

    /// A client of a pod with this name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn pod(&self, name: &str) -> anyhow::Result<Dialer> {
        Dialer::start(&self.world.pod(name)?)
    }

    /// Writes to the kernel's maps.
    ///
    /// # Errors
    /// Names what was refused.
    pub fn write(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        for write in writes {
            self.loaded.maps.write(write)?;
        }
        Ok(())
    }

    /// The kernel's maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.loaded.maps
    }

    /// How often each outcome happened.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn reasons(&self) -> anyhow::Result<BTreeMap<Reason, u64>> {
        self.loaded.maps.read_reasons().context("read the reasons")
    }

    /// What happened since `before`, without what did not.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn reasons_since(
        &self,
        before: &BTreeMap<Reason, u64>,
    ) -> anyhow::Result<BTreeMap<Reason, u64>> {
        let mut now = self.reasons()?;
        for (reason, count) in &mut now {
            *count -= before.get(reason).copied().unwrap_or(0);
        }
        now.retain(|_, count| *count != 0);
        Ok(now)
    }

    /// The counters of a backend.
    ///
    /// # Errors
    /// When there is no such backend.
    pub fn stats(&self, service: u32, backend: SocketAddr) -> anyhow::Result<BackendStats> {
        let (id, _) = self.backends.get(&(service, backend)).context("no such backend")?;
        self.loaded.maps.read_backend_stats(*id).context("read a backend's counters")
    }

    /// The counters of a service.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn service_stats(&self, service: u32) -> anyhow::Result<ServiceStats> {
        Ok(self.loaded.maps.service_stats.get(&service, 0)?.0)
    }

    /// Runs of a program by the kernel's statistics, and the nanoseconds that they took. Both stand
    /// still unless statistics are on.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn runs(&self, program: &str) -> anyhow::Result<(u64, u64)> {
        let chosen = &self.loaded.chosen;
        let (_, variant) = chosen
            .iter()
            .find(|(name, _)| *name == program)
            .with_context(|| format!("no program `{program}`"))?;
        let program = self.loaded.ebpf.program(variant);
        let info = program.context("a program that was loaded")?.info()?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok((info.run_count(), ns))
    }

    /// How many connections are tracked.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&self) -> anyhow::Result<usize> {
        Ok(self.loaded.maps.read_flows()?.len())
    }

    /// The one connection that is tracked.
    ///
    /// # Errors
    /// When there is none or are several, or the map cannot be read.
    pub fn only_flow(&self) -> anyhow::Result<Flow> {
        let flows = self.loaded.maps.read_flows()?;
        let mut flows = flows.into_values();
        match (flows.next(), flows.next()) {
            (Some(flow), None) => Ok(flow),
            (None, _) => bail!("no connection is tracked"),
            (Some(_), Some(_)) => bail!("several connections are tracked"),
        }
    }

    /// Turns tracing on until `until_ns`, by `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn trace_until(&mut self, until_ns: u64) -> anyhow::Result<()> {
        let mut settings: Settings = self.loaded.maps.settings.get(&0, 0)?.0;
        settings.trace_until_ns = until_ns;
        self.loaded.maps.settings.set(0, Raw(settings), 0).context("write the settings")
    }
}

/// Loads and attaches everything.
fn load(world: &World, limits: &Limits) -> anyhow::Result<(Loaded, Vec<Taken>)> {
    world.pins().create()?;
    let mut loaded = loader::load(world.pins(), limits, 0)?;
    let taken = hooks::attach(&mut loaded, world.pins(), world.cgroup())?;
    Ok((loaded, taken.into_iter().map(|(_, taken)| taken).collect()))
}
