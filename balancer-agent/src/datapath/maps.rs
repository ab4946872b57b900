//! Typed handles on the pinned maps, for the agent and for commands while the agent is down.

use super::{
    bpffs::{PinRoot, parse_layout},
    flows::Flows,
    raw::Raw,
};
use crate::core::write::Limits;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use balancer_common::{
    abi::{self, map},
    backend::{Backend, BackendStats},
    frontend::{Frontend, FrontendKeyV4, FrontendKeyV6},
    hierarchy::Hierarchy,
    http2::{
        counts::{Http2Totals, Http2TotalsKey},
        flow::{Http2Flow, Http2Key},
    },
    pod::{Affinity, PodServiceKey, Skip},
    service::{Service, ServiceName, ServiceStats, SlotChunk},
    settings::Settings,
};
use std::path::{Path, PathBuf};

/// A hash map of shared types.
pub type Hash<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;
/// An array of a shared type.
pub type Indexed<V> = Array<MapData, Raw<V>>;

/// Why the maps cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is pinned.
    #[error("nothing of balancer is loaded at `{}`; hint: start it with `balancer-agent run`", path.display())]
    NotLoaded {
        /// The pin directory.
        path: PathBuf,
    },
    /// Only maps of another version are pinned.
    #[error(
        "the maps at `{}` have ABI version {found}, this binary speaks {}; hint: use the \
         balancer-agent that runs on this node",
        path.display(), abi::ABI_VERSION
    )]
    OtherAbi {
        /// The pin directory.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// One map cannot be opened.
    #[error("open map `{}`: {cause}; hint: `balancer-agent unload` and start the agent again", path.display())]
    Map {
        /// Its pin.
        path: PathBuf,
        /// What aya or the kernel said.
        cause: MapError,
    },
}

/// Every pinned map but the ring buffer, which has one reader at a time.
pub struct Maps {
    /// Sizes, as the layout's name tells.
    pub limits: Limits,
    /// IPv4 frontends.
    pub frontends_v4: Hash<FrontendKeyV4, Frontend>,
    /// IPv6 frontends.
    pub frontends_v6: Hash<FrontendKeyV6, Frontend>,
    /// Services by id.
    pub services: Indexed<Service>,
    /// Names of services by id.
    pub service_names: Hash<u32, ServiceName>,
    /// Counters of services by id.
    pub service_stats: Indexed<ServiceStats>,
    /// Shared cursors by service id.
    pub cursors: Indexed<u64>,
    /// Chunks of slots.
    pub slots: Indexed<SlotChunk>,
    /// Backends by id.
    pub backends: Indexed<Backend>,
    /// Counters of backends by id.
    pub backend_stats: Indexed<BackendStats>,
    /// The same, to be shared with the kernel.
    backend_stats_map: MapData,
    /// Pods' own cursors.
    pub pod_cursors: Hash<PodServiceKey, u64>,
    /// Pods' affinities.
    pub affinities: Hash<PodServiceKey, Affinity>,
    /// Tracked connections by socket cookie.
    pub flows: Flows,
    /// Outcomes by reason.
    pub reasons: PerCpuArray<MapData, u64>,
    /// Settings of the programs.
    pub settings: Indexed<Settings>,
    /// Where the cgroups of pods are.
    pub hierarchy: Indexed<Hierarchy>,
    /// Pods that are left alone, by cgroup id.
    pub skipped_pods: Hash<u64, Skip>,
    /// Connections whose frames are followed. Never written to from here: programs change single bits.
    pub http2_flows: Hash<Http2Key, Http2Flow>,
    /// What closed connections of backends counted.
    pub http2_totals: Hash<Http2TotalsKey, Http2Totals>,
    /// Streams in flight by backend id. Never written to from here.
    pub http2_in_flight: Indexed<u64>,
}

impl Maps {
    /// Opens the maps of a layout.
    ///
    /// # Errors
    /// [`OpenError`] names the map and the fix.
    pub fn open(pins: &PinRoot, layout: &str) -> Result<Self, OpenError> {
        let not_loaded = || OpenError::NotLoaded { path: pins.path().into() };
        let (version, limits) = parse_layout(layout).ok_or_else(not_loaded)?;
        if version != abi::ABI_VERSION {
            return Err(OpenError::OtherAbi { path: pins.path().into(), found: version });
        }
        let dir = pins.maps(layout);
        let maps = Self {
            limits,
            frontends_v4: open(&dir, map::FRONTENDS_V4)?,
            frontends_v6: open(&dir, map::FRONTENDS_V6)?,
            services: open(&dir, map::SERVICES)?,
            service_names: open(&dir, map::SERVICE_NAMES)?,
            service_stats: open(&dir, map::SERVICE_STATS)?,
            cursors: open(&dir, map::CURSORS)?,
            slots: open(&dir, map::SLOTS)?,
            backends: open(&dir, map::BACKENDS)?,
            backend_stats: open(&dir, map::BACKEND_STATS)?,
            backend_stats_map: open_data(&dir, map::BACKEND_STATS)?,
            pod_cursors: open(&dir, map::POD_CURSORS)?,
            affinities: open(&dir, map::AFFINITIES)?,
            flows: open_flows(&dir)?,
            reasons: open(&dir, map::REASONS)?,
            settings: open(&dir, map::SETTINGS)?,
            hierarchy: open(&dir, map::HIERARCHY)?,
            skipped_pods: open(&dir, map::SKIPPED_PODS)?,
            http2_flows: open(&pins.http2_maps(), map::HTTP2_FLOWS)?,
            http2_totals: open(&pins.http2_maps(), map::HTTP2_TOTALS)?,
            http2_in_flight: open(&pins.http2_maps(), map::HTTP2_IN_FLIGHT)?,
        };
        Ok(maps)
    }

    /// The counters of backends as a map without its type.
    pub(super) fn backend_stats_data(&self) -> &MapData {
        &self.backend_stats_map
    }

    /// Marks the maps as those that programs are about to run on; see [`is_in_force`].
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn put_in_force(&mut self) -> Result<(), MapError> {
        let mut settings = self.settings.get(&0, 0)?.0;
        if settings.abi_version == abi::ABI_VERSION {
            return Ok(());
        }
        settings.abi_version = abi::ABI_VERSION;
        self.settings.set(0, Raw(settings), 0)
    }

    /// Opens whatever is loaded now: for commands, which do not know the limits in force.
    ///
    /// # Errors
    /// [`OpenError::NotLoaded`] when nothing is, [`OpenError::OtherAbi`] when it is not for us.
    pub fn open_loaded(pins: &PinRoot) -> Result<Self, OpenError> {
        let layouts = pins.layouts();
        let parsed = layouts.iter().filter_map(|name| Some((name, parse_layout(name)?)));
        let ours: Vec<_> =
            parsed.filter(|(_, (version, _))| *version == abi::ABI_VERSION).collect();
        // Two layouts stand side by side only while an agent moves from one to the other.
        match ours.last() {
            Some((name, _)) => Self::open(pins, name),
            None => match layouts.first() {
                Some(name) => Self::open(pins, name),
                None => Err(OpenError::NotLoaded { path: pins.path().into() }),
            },
        }
    }
}

/// Whether programs have run on the maps of a layout. Those of a start that broke off were filled
/// in part, or have fallen behind those in force since.
pub fn is_in_force(pins: &PinRoot, layout: &str) -> bool {
    let settings = open::<Indexed<Settings>>(&pins.maps(layout), map::SETTINGS);
    settings.is_ok_and(|settings| settings.get(&0, 0).is_ok_and(|record| record.0.abi_version != 0))
}

/// Opens one pinned map without its type.
fn open_data(dir: &Path, name: &str) -> Result<MapData, OpenError> {
    let path = dir.join(name);
    MapData::from_pin(&path).map_err(|cause| OpenError::Map { path, cause })
}

fn open_flows(dir: &Path) -> Result<Flows, OpenError> {
    let seats = open_data(dir, map::SEATS)?;
    let failed = |cause: std::io::Error| OpenError::Map {
        path: dir.join(map::SEATS),
        cause: MapError::IoError(cause),
    };
    // As many as whoever made them saw fit for its kernel.
    let count = seats.info().map_err(|error| failed(std::io::Error::other(error)))?.max_entries();
    Flows::open(&seats, count, open(dir, map::FLOWS)?).map_err(failed)
}

/// Opens one pinned map with its type.
fn open<T>(dir: &Path, name: &str) -> Result<T, OpenError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = dir.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|cause| OpenError::Map { path, cause })
}

/// Opens the ring buffer of traces of whatever is loaded now.
///
/// # Errors
/// As [`Maps::open_loaded`].
pub fn open_traces(pins: &PinRoot) -> Result<RingBuf<MapData>, OpenError> {
    let layout = pins
        .layouts()
        .into_iter()
        .rfind(|name| parse_layout(name).is_some_and(|(version, _)| version == abi::ABI_VERSION))
        .ok_or_else(|| OpenError::NotLoaded { path: pins.path().into() })?;
    open(&pins.maps(&layout), map::TRACES)
}
