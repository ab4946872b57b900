//! Pods that terminate, as their own objects tell it: watches on the metadata of Pods, one for each
//! namespace with a balanced Service, or one for all when those are many.
//!
//! Nothing is kept, and nothing is listed: a watch begins with what happens from now on, and anew
//! after every loss, since the EndpointSlices carry the truth. All that a lost word costs is the time
//! until its slice says the same.

use super::{
    Timed, Told,
    health::{Kind, KubernetesHealth},
    patience::Patience,
    watch::Watches,
};
use crate::core::discovery::{Farewell, PodKey};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// Most namespaces that have a watch of their own; beyond that, one watch is on all of them.
pub(super) const NAMESPACES_MAX: usize = 64;
/// With as few as these, each has a watch of its own again: a namespace that comes and goes is not
/// to change all watches.
const NAMESPACES_FEW: usize = 48;

/// Namespaces in which pods are to be followed.
pub(super) type Namespaces = BTreeSet<Arc<str>>;

/// What one watch is on; all namespaces if none is named.
type Scope = Option<Arc<str>>;

/// How a watch fares: why it failed, or that it works.
type Report = (Scope, Result<(), kube::Error>);

/// The source, before it runs.
#[derive(Clone)]
pub(super) struct Farewells {
    pub(super) watches: Watches,
}

/// The watches that run.
#[derive(Default)]
struct Running {
    tasks: JoinSet<()>,
    scopes: BTreeMap<Scope, AbortHandle>,
    /// Those whose watch fails.
    failing: BTreeSet<Scope>,
}

// === impl Farewells ===

impl Farewells {
    /// Follows the pods of these namespaces, until nobody listens.
    pub(super) async fn run(
        self,
        mut namespaces: watch::Receiver<Namespaces>,
        told: mpsc::Sender<Timed>,
    ) {
        let (reports, mut reported) = mpsc::channel(NAMESPACES_MAX);
        let mut running = Running::default();
        self.watches.health.note_scopes(Kind::Farewells, 0);
        loop {
            tokio::select! {
                Some((scope, result)) = reported.recv() => running.take(scope, result, &self.watches.health),
                changed = namespaces.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let is_wide = running.scopes.contains_key(&None);
                    let wanted = scopes(&namespaces.borrow_and_update(), is_wide);
                    running.keep(&wanted, &self.watches.health);
                    for scope in wanted {
                        let follow = self.clone().follow(scope.clone(), told.clone(), reports.clone());
                        let tasks = &mut running.tasks;
                        running.scopes.entry(scope).or_insert_with(|| tasks.spawn(follow));
                    }
                    self.watches.health.note_scopes(Kind::Farewells, running.scopes.len());
                }
                () = told.closed() => return,
            }
        }
    }

    /// Watches one scope, over and over.
    async fn follow(self, scope: Scope, told: mpsc::Sender<Timed>, reports: mpsc::Sender<Report>) {
        let api: Api<Pod> = match &scope {
            Some(namespace) => Api::namespaced(self.watches.client.clone(), namespace),
            None => Api::all(self.watches.client.clone()),
        };
        let mut patience = Patience::new(self.watches.pauses);
        let mut version = None;
        loop {
            let error = match self.watch(&scope, &api, &mut version, &told, &reports).await {
                Ok(()) if told.is_closed() => return,
                // Its time was up, as it is every few minutes.
                Ok(()) => continue,
                Err(error) => error,
            };
            // The version may be gone; where the API says nothing of the kind it goes on from there.
            if matches!(error, kube::Error::Api(_)) {
                version = None;
            }
            let pause = patience.after(&error);
            // Whoever reads them ends all watches when it ends.
            let _ = reports.send((scope.clone(), Err(error))).await;
            tokio::time::sleep(pause).await;
            self.watches.health.note_restart(Kind::Farewells);
        }
    }

    /// One watch, from `version` or else from now on, until it ends.
    async fn watch(
        &self,
        scope: &Scope,
        api: &Api<Pod>,
        version: &mut Option<String>,
        told: &mpsc::Sender<Timed>,
        reports: &mpsc::Sender<Report>,
    ) -> Result<(), kube::Error> {
        let is_new = version.is_none();
        let from = if let Some(version) = version.take() {
            version
        } else {
            // One object is asked for, as none cannot be; what counts is the version of the list.
            let list = api.list_metadata(&ListParams::default().limit(1)).await?;
            list.metadata.resource_version.unwrap_or_default()
        };
        *version = Some(from.clone());
        let mut stream = pin!(api.watch_metadata(&WatchParams::default(), &from).await?.fuse());
        let _ = reports.send((scope.clone(), Ok(()))).await;
        if is_new {
            self.watches.health.note_list(Kind::Farewells);
        }
        while let Some(event) = stream.try_next().await? {
            let (metadata, farewell) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    let leaves = pod.metadata.deletion_timestamp.is_some();
                    (pod.metadata, leaves.then_some(Farewell::Terminating))
                }
                WatchEvent::Deleted(pod) => (pod.metadata, Some(Farewell::Gone)),
                WatchEvent::Bookmark(bookmark) => {
                    *version = Some(bookmark.metadata.resource_version);
                    self.watches.health.note_event(Kind::Farewells);
                    continue;
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            };
            self.watches.health.note_event(Kind::Farewells);
            let told_of = |farewell| Some((Instant::now(), Told::Pod(key(&metadata)?, farewell)));
            let message = farewell.and_then(told_of);
            if let Some(message) = message
                && told.send(message).await.is_err()
            {
                return Ok(());
            }
            *version = metadata.resource_version.or_else(|| version.take());
        }
        Ok(())
    }
}

// === impl Running ===

impl Running {
    /// Ends the watches that are not wanted any more.
    fn keep(&mut self, wanted: &BTreeSet<Scope>, health: &KubernetesHealth) {
        let Self { tasks, scopes, failing } = self;
        scopes.retain(|scope, watch| {
            let stays = wanted.contains(scope);
            if !stays {
                watch.abort();
            }
            stays
        });
        if !failing.is_empty() {
            failing.retain(|scope| wanted.contains(scope));
            if failing.is_empty() {
                health.note_event(Kind::Farewells);
            }
        }
        while tasks.try_join_next().is_some() {}
    }

    /// Takes in how a watch fares. Failures are told of once, whatever the number of watches.
    fn take(&mut self, scope: Scope, result: Result<(), kube::Error>, health: &KubernetesHealth) {
        if !self.scopes.contains_key(&scope) {
            return;
        }
        let Err(error) = result else {
            self.failing.remove(&scope);
            if self.failing.is_empty() {
                health.note_event(Kind::Farewells);
            }
            return;
        };
        let text = match error {
            kube::Error::Api(status) => {
                format!("{} ({} {})", status.message, status.code, status.reason)
            }
            other => other.to_string(),
        };
        health.note_error(Kind::Farewells, text.clone());
        if self.failing.is_empty() {
            tracing::warn!(
                namespace = scope.as_deref(),
                error = text,
                "Pods cannot be watched: that one terminates is known from its EndpointSlice, some \
                 tens of milliseconds later; hint: let the agent's role list and watch pods, or set \
                 `kubernetes.watch-pods: false`"
            );
        }
        self.failing.insert(scope);
    }
}

/// What watches are on.
fn scopes(namespaces: &Namespaces, is_wide: bool) -> BTreeSet<Scope> {
    let max = if is_wide { NAMESPACES_FEW } else { NAMESPACES_MAX };
    if namespaces.len() > max {
        return BTreeSet::from([None]);
    }
    namespaces.iter().cloned().map(Some).collect()
}

fn key(metadata: &ObjectMeta) -> Option<PodKey> {
    PodKey::new(metadata.uid.as_deref()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_namespaces_have_one_watch_until_they_are_few() {
        let namespaces = |count: usize| -> Namespaces {
            (0..count).map(|n| Arc::from(format!("n{n:03}"))).collect()
        };
        let wide = BTreeSet::from([None]);
        for (count, is_wide, expected) in
            [(0, false, 0), (64, false, 64), (65, false, 1), (49, true, 1), (48, true, 48)]
        {
            let scopes = scopes(&namespaces(count), is_wide);
            assert_eq!((scopes.len(), scopes == wide), (expected, expected == 1), "{count}");
        }
    }
}
