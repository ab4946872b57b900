//! The Kubernetes source's place in the daemon: started if the configuration says so, restarted if
//! it panics, its updates applied.

use super::Daemon;
use crate::{
    config::Config,
    core::{discovery::Rules, model::Behaviour},
    sources::kubernetes::{self, KubernetesHealth, KubernetesSource, Update},
};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The environment's name of the own Node, as manifests set it from the downward API.
const NODE_NAME: &str = "NODE_NAME";
/// Updates that wait for the core at most; the source waits beyond that.
const UPDATES_MAX: usize = 64;
/// How long the source rests after a panic, which will likely happen again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// What the daemon holds of the Kubernetes source.
#[derive(Default)]
pub(super) struct Kubernetes {
    running: Option<(KubernetesHealth, watch::Sender<Behaviour>)>,
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
        let rules = Rules {
            node_name: node_name.into(),
            departed_grace: settings.departed_grace,
            defaults: config.defaults,
        };
        let source = KubernetesSource::new(client, rules, defaults_receiver);
        let health = source.health();
        tokio::spawn(supervise(source, updates));
        Ok((Self { running: Some((health, defaults)) }, receiver))
    }

    /// Changes what services are that do not say otherwise.
    pub(super) fn set_defaults(&self, behaviour: Behaviour) {
        if let Some((_, defaults)) = &self.running {
            defaults.send_if_modified(|now| std::mem::replace(now, behaviour) != behaviour);
        }
    }

    /// The source's health, if it runs.
    pub(super) fn report(&self) -> Option<serde_json::Value> {
        let (health, _) = self.running.as_ref()?;
        serde_json::to_value(health.snapshot()).ok()
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

// === impl Daemon ===

impl Daemon {
    /// Applies what the Kubernetes source tells.
    pub(super) fn cluster_changed(&mut self, update: Update) {
        let first = self.engine.core.awaits_sources();
        for event in update.events {
            self.engine.observe(event);
        }
        self.engine.settle(update.arrived_at.into_std());
        self.want_lookups(None);
        if first && !self.engine.core.awaits_sources() {
            tracing::info!("the services of Kubernetes are known");
            self.memory_due = true;
        }
    }
}
