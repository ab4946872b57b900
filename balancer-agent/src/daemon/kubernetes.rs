//! The Kubernetes source's place in the daemon: started if the configuration says so, restarted if
//! it panics, its updates applied.

use super::{Daemon, drain::Authority};
use crate::{
    config::Config,
    core::{discovery::Rules, model::Behaviour},
    sources::kubernetes::{
        self, KubernetesHealth, KubernetesReport, KubernetesSource, Update,
        pods::{PodsSource, Told},
    },
};
use anyhow::{Context, bail};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// The environment's name of the own Node, as manifests set it from the downward API.
pub(super) const NODE_NAME: &str = "NODE_NAME";
/// Updates that wait for the core at most; the source waits beyond that.
const UPDATES_MAX: usize = 64;
/// How long the source rests after a panic, which will likely happen again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// What the daemon holds of the Kubernetes source.
#[derive(Default)]
pub(super) struct Kubernetes {
    running: Option<(KubernetesHealth, watch::Sender<Behaviour>)>,
    /// The watches that tell which pods terminate.
    farewells: Option<KubernetesHealth>,
    /// The watches of this node's pods, and what they have told.
    pods: Option<(KubernetesHealth, watch::Receiver<Told>)>,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Starts the source if it is enabled. The API need not answer: until it does, what is pinned
    /// stays in force.
    pub(super) async fn start(config: &Config) -> anyhow::Result<(Self, mpsc::Receiver<Update>)> {
        let (updates, receiver) = mpsc::channel(UPDATES_MAX);
        let settings = &config.kubernetes;
        if !settings.enabled {
            return Ok((Self::default(), receiver));
        }
        let from_environment = || std::env::var(NODE_NAME).ok().filter(|name| !name.is_empty());
        let Some(node_name) = settings.node_name.clone().or_else(from_environment) else {
            bail!(
                "`kubernetes.enabled` is true, but which Node this is, is not known; hint: set \
                 `kubernetes.node-name`, or {NODE_NAME} in the environment"
            );
        };
        let client = kubernetes::client(settings.kubeconfig.as_deref())
            .await
            .context("start the Kubernetes source")?;
        let (defaults, defaults_receiver) = watch::channel(config.defaults);
        let pods = PodsSource::new(client.clone(), &node_name);
        let pods_health = pods.health();
        let (told, pictures) = watch::channel(None);
        tokio::spawn(supervise_pods(pods, told));
        let rules = Rules {
            node_name: node_name.into(),
            departed_grace: settings.departed_grace,
            watch_pods: settings.watch_pods,
            defaults: config.defaults,
        };
        let source = KubernetesSource::new(client, rules, defaults_receiver)
            .with_rank(config.node_rank.is_none());
        let health = source.health();
        let farewells = settings.watch_pods.then(|| source.farewells_health());
        tokio::spawn(supervise(source, updates));
        let pods = Some((pods_health, pictures));
        Ok((Self { running: Some((health, defaults)), farewells, pods }, receiver))
    }

    /// Whether the source runs.
    pub(super) const fn is_enabled(&self) -> bool {
        self.running.is_some()
    }

    /// Changes what services are that do not say otherwise.
    pub(super) fn set_defaults(&self, behaviour: Behaviour) {
        if let Some((_, defaults)) = &self.running {
            defaults.send_if_modified(|now| std::mem::replace(now, behaviour) != behaviour);
        }
    }

    /// The source's health, if it runs.
    pub(super) fn report(&self) -> Option<KubernetesReport> {
        let (health, _) = self.running.as_ref()?;
        let mut report = health.snapshot();
        let pods = self.pods.as_ref().map(|(health, _)| health.snapshot().watches);
        report.watches.extend(pods.into_iter().flatten());
        let farewells = self.farewells.as_ref().map(|health| health.snapshot().watches);
        report.watches.extend(farewells.into_iter().flatten());
        Some(report)
    }

    /// What is told of this node's pods; nothing ever, outside of Kubernetes.
    pub(super) fn pods(&self) -> watch::Receiver<Told> {
        let told = self.pods.as_ref().map(|(_, pictures)| pictures.clone());
        told.unwrap_or_else(|| watch::channel(None).1)
    }

    /// Who can tell that a backend is gone.
    pub(super) fn authority(&self, gone_grace: Option<Duration>) -> Option<Authority> {
        let (health, _) = self.running.as_ref()?;
        Some(Authority { health: health.clone(), gone_grace })
    }
}

/// Keeps the source running. A new one begins with a snapshot, which the core compares.
async fn supervise(source: KubernetesSource, updates: mpsc::Sender<Update>) {
    while !updates.is_closed() {
        let run = tokio::spawn(source.clone().run(updates.clone()));
        if run.await.is_err_and(|error| error.is_panic()) {
            tracing::error!("the Kubernetes source panicked and begins anew; hint: report this");
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}

/// Keeps the watches of pods running. What they have told stays meanwhile.
async fn supervise_pods(source: PodsSource, told: watch::Sender<Told>) {
    while !told.is_closed() {
        let run = tokio::spawn(source.clone().run(told.clone()));
        if run.await.is_err_and(|error| error.is_panic()) {
            tracing::error!("the watches of pods panicked and begin anew; hint: report this");
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}

// === impl Daemon ===

impl Daemon {
    /// Applies what the Kubernetes source tells.
    pub(super) fn cluster_changed(&mut self, update: Update) {
        let first = self.engine.core.awaits_sources();
        if let Some(rank) = update.node_rank {
            tracing::info!(rank, "this node's place among all Nodes is known");
            self.engine.core.set_node_rank(rank);
        }
        for event in update.events {
            self.engine.observe(event);
        }
        self.prepare_http2();
        if self.engine.settle(update.arrived_at.into_std()) {
            let now = SystemTime::now();
            for at in update.triggered_at {
                // A clock that was set back says nothing.
                now.duration_since(at)
                    .into_iter()
                    .for_each(|it| self.engine.trigger_latency.observe(it));
            }
        }
        self.want_lookups(None);
        if first && !self.engine.core.awaits_sources() {
            tracing::info!("the services of Kubernetes are known");
            self.memory.is_due = true;
        }
    }
}
