//! Ends what is left of connections to backends that have left, when their time is over.

use super::Daemon;
use crate::{
    admin::DrainStatus,
    core::{
        drain::{Cause, Drain, Patience},
        event::Source,
    },
    datapath::{
        cgroup,
        destroy::{self, Destroyed, Target},
        reader::socket_address,
    },
    sources::kubernetes::KubernetesHealth,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior},
};

/// How often backends that are leaving are looked after.
const PERIOD: Duration = Duration::from_secs(1);

/// Connections to be destroyed, by the cgroup id of their pods.
type Jobs = BTreeMap<u64, (Option<PathBuf>, BTreeMap<u64, Target>)>;

/// What is leaving, and what is being destroyed.
pub(super) struct Drainer {
    drain: Drain,
    started_at: Instant,
    running: Option<Running>,
    pub(super) status: DrainStatus,
    /// Why nothing can be destroyed here.
    pub(super) unable: Option<String>,
    /// The source that can tell that a backend is gone; none outside of Kubernetes.
    pub(super) kubernetes: Option<Authority>,
}

/// A source that knows the backends themselves, so that it can tell that one is gone.
pub(super) struct Authority {
    pub(super) health: KubernetesHealth,
    /// How long connections to one that is gone are kept; for ever if not set.
    pub(super) gone_grace: Option<Duration>,
}

impl Authority {
    /// What is said while changes may go unseen says nothing about who is gone.
    fn gone_grace(&self) -> Option<Duration> {
        let report = self.health.snapshot();
        self.gone_grace.filter(|_| report.synced && report.staleness_ms == 0)
    }
}

struct Running {
    causes: BTreeMap<u64, Cause>,
    result: JoinHandle<Vec<Destroyed>>,
}

/// When backends that are leaving are to be looked after.
pub(super) fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

// === impl Drainer ===

impl Drainer {
    pub(super) fn new() -> Self {
        let unable = destroy::check().err().map(|error| error.to_string());
        if let Some(error) = &unable {
            tracing::warn!(error, "draining is left to clients");
        }
        Self {
            drain: Drain::default(),
            started_at: Instant::now(),
            running: None,
            status: DrainStatus::default(),
            unable,
            kubernetes: None,
        }
    }

    /// Takes in what became of the connections that were to be destroyed.
    async fn collect(&mut self) {
        let Some(running) = self.running.take_if(|running| running.result.is_finished()) else {
            return;
        };
        let results = match running.result.await {
            Ok(results) => results,
            Err(error) => {
                tracing::error!(%error, "destroying connections ended early");
                return;
            }
        };
        for result in results {
            for cookie in &result.destroyed {
                match running.causes.get(cookie) {
                    Some(Cause::DrainTimeout) => self.status.drain_timeout += 1,
                    Some(Cause::BackendGone) | None => self.status.backend_gone += 1,
                }
            }
            self.status.not_found += result.not_found.len() as u64;
            self.status.failed += result.failed.len() as u64;
            for cookie in result.not_found.iter().chain(&result.failed) {
                self.drain.failed(*cookie);
            }
            let error = result.errors.into_iter().next();
            if let Some(error) =
                error.filter(|error| self.status.latest_error.as_ref() != Some(error))
            {
                tracing::warn!(error, "connections to backends that have left stay");
                self.status.latest_error = Some(error);
            }
        }
        let DrainStatus { drain_timeout, backend_gone, .. } = self.status;
        tracing::info!(drain_timeout, backend_gone, "connections destroyed so far");
    }
}

impl Daemon {
    /// Looks after backends that are leaving.
    pub(super) async fn drain(&mut self) {
        self.drainer.collect().await;
        if self.drainer.running.is_some() || self.drainer.unable.is_some() {
            return;
        }
        let now = self.drainer.started_at.elapsed();
        let core = &self.engine.core;
        self.drainer.drain.observe(core.leaving(), now);
        let gone_grace = self.drainer.kubernetes.as_ref().and_then(Authority::gone_grace);
        let patience = |service: u32| {
            let declared = core.declared(service);
            declared.map_or(Patience::default(), |(source, service)| Patience {
                draining: service.drain_timeout_s.map(|s| Duration::from_secs(s.get().into())),
                gone: gone_grace.filter(|_| source == Source::Kubernetes),
            })
        };
        let due = self.drainer.drain.due(patience, now);
        if due.is_empty() {
            return;
        }
        let flows = match self.engine.maps.read_flows() {
            Ok(flows) => flows,
            Err(error) => {
                tracing::warn!(%error, "read the connections");
                return;
            }
        };
        let mut causes = BTreeMap::new();
        let mut jobs = Jobs::new();
        for (cookie, (flow, cause)) in self.drainer.drain.victims(&due, &flows) {
            let Some(backend) = core.backends().get(&flow.backend) else { continue };
            let path = || self.pods.registry.path(flow.pod).map(PathBuf::from);
            let (_, targets) = jobs.entry(flow.pod).or_insert_with(|| (path(), BTreeMap::new()));
            let backend = socket_address(backend.address, backend.port_be);
            targets.insert(cookie, Target { backend });
            causes.insert(cookie, cause);
        }
        if !jobs.is_empty() {
            let result = tokio::task::spawn_blocking(move || destroy_all(jobs));
            self.drainer.running = Some(Running { causes, result });
        }
    }
}

fn destroy_all(jobs: Jobs) -> Vec<Destroyed> {
    let root = cgroup::root().ok();
    let directory = |path: &Path| Some(root.as_ref()?.join(path.strip_prefix("/").unwrap_or(path)));
    jobs.into_iter()
        .map(|(pod, (path, targets))| {
            // Clients outside of all pods are found by their cgroups' ids.
            let path = path.or_else(|| cgroup::find(root.as_ref()?, pod));
            destroy::destroy(path.as_deref().and_then(directory).as_deref(), targets)
        })
        .collect()
}
