//! From nothing, or from what an earlier agent left, to loaded programs that may take over.

use super::Options;
use crate::{
    admin::DatapathStatus,
    config::Config,
    datapath::{
        bpffs::{PinLock, parse_layout},
        hooks::{self, Taken},
        http2,
        loader::{self, Loaded},
        maps::{self, Maps},
        transfer,
    },
};
use anyhow::Context;
use balancer_common::{abi::ABI_VERSION, flow::Flow, http2::Http2Request};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use std::{collections::BTreeMap, time::Duration};

/// How long DNS may take to answer before maps of another ABI version are left behind.
pub(super) const ANSWERS_PATIENCE: Duration = Duration::from_secs(10);

/// Kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK, which is small by default.
pub(super) fn lift_memlock_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is; only kernels before 5.11 mind");
    }
}

/// Where the state came from.
enum Origin {
    Fresh,
    Adopted,
    /// From maps of the same ABI with other limits.
    Resized {
        old: Box<Maps>,
        copied: BTreeMap<u64, Flow>,
        summary: String,
    },
    /// From maps of another ABI, which cannot be read.
    OtherAbi {
        found: Vec<String>,
    },
}

/// Loaded programs and what is to be done when they take over.
pub(super) struct Started {
    loaded: Loaded,
    maps: Option<Maps>,
    origin: Origin,
    origin_text: String,
    /// Layouts to be removed once the programs have taken over.
    leftovers: Vec<String>,
    _lock: PinLock,
}

/// Takes the pin directory, loads the programs and makes or adopts their maps.
pub(super) fn start(options: &Options, config: &Config) -> anyhow::Result<Started> {
    crate::datapath::cgroup::id(&options.cgroup)?;
    options.pins.create()?;
    let lock = options.pins.lock()?;
    let before = options.pins.layouts();
    let mut loaded = loader::load(&options.pins, &config.limits, config.datapath_log_level.code())?;
    super::log_forwarding::start(&mut loaded.ebpf);
    let layout = loaded.report.layout.clone();
    let leftovers: Vec<_> = before.into_iter().filter(|found| *found != layout).collect();
    let mut maps = Maps::open(&options.pins, &layout)?;
    let origin = if loaded.report.adopted {
        Origin::Adopted
    } else {
        find_origin(options, &leftovers, &mut maps)?
    };
    let origin_text = origin.to_string();
    tracing::info!(layout, origin = origin_text, "programs loaded");
    for loss in &loaded.report.degraded {
        tracing::warn!(loss, "this kernel lacks a feature");
    }
    Ok(Started { loaded, maps: Some(maps), origin, origin_text, leftovers, _lock: lock })
}

fn find_origin(options: &Options, leftovers: &[String], new: &mut Maps) -> anyhow::Result<Origin> {
    let of_our_abi =
        |name: &String| parse_layout(name).is_some_and(|(version, _)| version == ABI_VERSION);
    let (ours, others): (Vec<_>, Vec<_>) = leftovers.iter().cloned().partition(of_our_abi);
    let in_force = ours.iter().find(|name| maps::is_in_force(&options.pins, name));
    if let Some(name) = in_force {
        let old = Maps::open(&options.pins, name)?;
        let copied = old.read_flows().context("read the earlier maps")?;
        let done = transfer::copy(&old, new, &copied).context("copy the earlier maps")?;
        let summary = format!(
            "{} services and {} connections from maps with other limits ({} did not fit)",
            done.services, done.flows, done.left_behind
        );
        return Ok(Origin::Resized { old: Box::new(old), copied, summary });
    }
    if others.is_empty() {
        return Ok(Origin::Fresh);
    }
    Ok(Origin::OtherAbi { found: others })
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fresh => f.write_str("fresh"),
            Self::Adopted => f.write_str("adopted from an earlier agent"),
            Self::Resized { summary, .. } => write!(f, "migrated: {summary}"),
            Self::OtherAbi { found } => write!(
                f,
                "migrated from another ABI version ({}): services are balanced without a gap; \
                 connections made before stay alive, but are not counted any more",
                found.join(", ")
            ),
        }
    }
}

impl Started {
    pub(super) fn take_maps(&mut self) -> anyhow::Result<Maps> {
        self.maps.take().context("the maps were taken already")
    }

    /// Handles on the maps for a reader of its own.
    pub(super) fn open_maps(&self, options: &Options) -> anyhow::Result<Maps> {
        Ok(Maps::open(&options.pins, &self.loaded.report.layout)?)
    }

    /// Whether HTTP/2 connections are followed on this kernel.
    pub(super) fn follows_http2(&self) -> bool {
        !self.loaded.http2.is_empty()
    }

    /// Asks the kernel to move a connection; whether that was there.
    pub(super) fn request(&self, request: &Http2Request) -> Result<bool, String> {
        http2::request(&self.loaded, request).map_err(|error| error.to_string())
    }

    /// Whether programs run on maps that could not be carried over.
    pub(super) fn awaits_answers(&self) -> bool {
        matches!(self.origin, Origin::OtherAbi { .. })
    }

    /// Attaches the programs or replaces those of an earlier agent, then removes what only the
    /// replaced ones needed.
    pub(super) fn attach(&mut self, options: &Options, maps: &mut Maps) -> anyhow::Result<()> {
        // Before any connection is made that they are to follow from its first byte on.
        if self.follows_http2() {
            http2::install(&self.loaded, &options.pins)?;
        }
        let taken = hooks::attach(&mut self.loaded, &options.pins, &options.cgroup)?;
        let replaced = taken.iter().filter(|(_, how)| *how == Taken::Replaced).count();
        tracing::info!(programs = taken.len(), replaced, "programs attached");
        if let Origin::Resized { old, copied, .. } = &self.origin {
            let corrected = transfer::catch_up(old, maps, copied).context("catch up")?;
            tracing::info!(corrected, "connections of the earlier maps brought up to date");
        }
        hooks::retire(&options.pins)?;
        self.loaded.report.adopted = true;
        self.origin = Origin::Adopted;
        for layout in self.leftovers.drain(..) {
            if let Err(error) = options.pins.remove_layout(&layout) {
                tracing::warn!(%error, "maps of an earlier agent stay behind");
            }
        }
        Ok(())
    }

    pub(super) fn status(&self, options: &Options) -> DatapathStatus {
        DatapathStatus {
            pin_root: options.pins.path().into(),
            cgroup: options.cgroup.clone(),
            layout: self.loaded.report.layout.clone(),
            origin: self.origin_text.clone(),
            degraded: self.loaded.report.degraded.clone(),
            hooks_repaired: 0,
        }
    }
}
