//! The core and the maps together: every event ends in the writes that it calls for.

use super::kubernetes::NODE_NAME;
use crate::{
    admin::WorkStatus,
    config::Config,
    core::{
        Core,
        event::{Event, Source},
        plan::Change,
    },
    datapath::maps::Maps,
    http::ProgrammingLatency,
};
use anyhow::Context;
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Instant,
};

pub(super) struct Engine {
    pub(super) core: Core,
    pub(super) maps: Maps,
    write_failures: u64,
    latest_change_us: u64,
    pub(super) latency: ProgrammingLatency,
    pub(super) trigger_latency: ProgrammingLatency,
    /// The last refusal of the kernel, so that it is logged once.
    failing: Option<String>,
}

/// A rank for a node of which nothing but its name is known: any number that others do not have, too.
fn rank_by_name() -> u32 {
    let host = || nix::unistd::gethostname().ok()?.into_string().ok();
    let name = std::env::var(NODE_NAME).ok().or_else(host).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // Small enough that cursors do not wrap, and large enough for any number of backends.
    u32::try_from(hasher.finish() >> 40).unwrap_or_default()
}

impl Engine {
    /// Takes over what the maps hold.
    pub(super) fn new(maps: Maps, config: &Config) -> anyhow::Result<Self> {
        let mut limits = maps.limits;
        // The last chunk is the self-test's.
        limits.chunks -= 1;
        let kubernetes = config.kubernetes.enabled.then_some(Source::Kubernetes);
        let sources = [Source::File].into_iter().chain(kubernetes);
        let mut core = Core::new(limits, config.node_rank.unwrap_or_else(rank_by_name), sources);
        core.adopt(&maps.read_state().context("read the kernel's maps")?);
        Ok(Self {
            core,
            maps,
            write_failures: 0,
            latest_change_us: 0,
            latency: ProgrammingLatency::default(),
            trigger_latency: ProgrammingLatency::since_trigger(),
            failing: None,
        })
    }

    pub(super) fn observe(&mut self, event: Event) {
        self.core.observe(event);
    }

    /// Plans and applies until the kernel is as desired; tells whether anything was to be done. `at`
    /// is when the cause was observed.
    pub(super) fn settle(&mut self, at: Instant) -> bool {
        let mut changed = false;
        while let Some(change) = self.core.plan() {
            self.apply(change);
            changed = true;
        }
        if changed {
            let took = at.elapsed();
            self.latest_change_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.latency.observe(took);
        }
        changed
    }

    fn apply(&mut self, change: Change) {
        let mut landed = 0;
        for write in &change.writes {
            if let Err(error) = self.maps.write(write) {
                self.write_failures += 1;
                self.report_failure(error.to_string());
                break;
            }
            landed += 1;
        }
        if landed == change.writes.len() {
            if self.failing.take().is_some() {
                tracing::info!("map writes work again");
            }
            if let Some(service) = &change.service {
                tracing::debug!(%service, kind = ?change.kind, writes = landed, "applied");
            }
        }
        self.core.applied(change, landed);
    }

    fn report_failure(&mut self, error: String) {
        if self.failing.as_ref() != Some(&error) {
            tracing::error!(error, "a map write failed; it will be tried again");
            self.failing = Some(error);
        }
    }

    /// Frees the ids of backends that are gone and idle, and tries again what failed.
    pub(super) fn sweep(&mut self) {
        let maps = &self.maps;
        let sweep = self.core.sweep(|id| {
            // A backend that cannot be read is not known to be idle.
            maps.read_backend_stats(id).map_or(u64::MAX, |stats| stats.active)
        });
        if let Some(change) = sweep {
            self.apply(change);
        }
        if self.core.needs_retry() {
            self.core.retry();
        }
        self.settle(Instant::now());
    }

    /// Where the maps differ from what is wanted.
    pub(super) fn differences(&self) -> Vec<String> {
        match self.maps.read_state() {
            Ok(state) => self.core.differences(&state).iter().map(ToString::to_string).collect(),
            Err(error) => vec![format!("the kernel's maps cannot be read: {error}")],
        }
    }

    pub(super) fn work(&self) -> WorkStatus {
        let totals = self.core.totals();
        WorkStatus {
            changes: totals.changes,
            writes: totals.writes,
            write_failures: self.write_failures,
            latest_change_us: self.latest_change_us,
        }
    }
}
