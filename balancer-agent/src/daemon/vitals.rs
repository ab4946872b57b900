//! What the daemon's loop answers to HTTP: how it fares. Taken from what is at hand, without a look
//! at the maps, as it is asked for at every scrape and probe.

use super::Daemon;
use crate::{core::problem::Problem, http::Vitals, sources::kubernetes::KubernetesReport};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

impl Daemon {
    pub(super) fn vitals(&self) -> Vitals {
        let core = &self.engine.core;
        let mut problems = BTreeMap::from(Problem::KINDS.map(|kind| (kind, 0)));
        for problem in core.problems() {
            *problems.entry(problem.kind()).or_default() += 1;
        }
        let kubernetes = self.kubernetes.report();
        let waiting = kubernetes.iter().flat_map(KubernetesReport::waiting);
        let sources = core.silent_sources().map(|it| format!("services of source {it}"));
        // Computed, so that it follows when the clock is set right after the start.
        let started = SystemTime::now().checked_sub(self.started_at.elapsed());
        let since_epoch = started.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Vitals {
            started_unix_s: since_epoch.unwrap_or_default().as_secs_f64(),
            self_test: self.self_test.clone(),
            hooks_repaired: self.hooks_repaired,
            config: self.config_status.clone(),
            config_loaded: self.file.loaded(),
            totals: core.totals(),
            write_failures: self.engine.work().write_failures,
            needs_retry: core.needs_retry(),
            unsynced: sources.chain(waiting).collect(),
            problems,
            latency: self.engine.latency.clone(),
            trigger_latency: self.engine.trigger_latency.clone(),
            drained: self.drainer.status.clone(),
            http2: self.http2.status.clone(),
            pods: self.pods.registry.counts(),
            kubernetes,
        }
    }
}
