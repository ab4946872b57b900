//! Pods of the own Node, and which Namespaces opt out: who the clients are, and which are left alone.
//!
//! Told as a whole each time, and only once both kinds were listed: a pod of which nothing is known
//! yet must not lose what an earlier agent knew of it.

use super::{
    guard::Guarded,
    health::{Kind, KubernetesHealth},
    patience::Pauses,
    watch::{Watched, Watches},
};
use crate::{
    core::pods::{NodePods, PodObject, Wishes},
    sources::pods::object::{self, Read},
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Client, Resource,
    runtime::watcher::{self, Event},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Objects that wait at most; watches wait beyond that.
const TOLD_MAX: usize = 256;
/// Most objects that one list request brings.
const PAGE_OBJECTS: u32 = 200;

/// What the API tells; `None` until all of it was told once.
pub type Told = Option<Arc<NodePods>>;

/// The source, before it runs.
#[derive(Clone)]
pub struct PodsSource {
    node_name: String,
    watches: Watches,
}

/// One step of a watch: the object's own key, and what is kept of it.
enum Step<T> {
    ListBegins,
    /// Without what is kept, the object cannot be read: what is known of it stays.
    Listed(String, Option<T>),
    ListEnds,
    Applied(String, Option<T>),
    Deleted(String),
}

enum Message {
    Pod(Step<PodObject>),
    Namespace(Step<Wishes>),
}

/// The objects of one kind.
struct Kept<T> {
    objects: BTreeMap<String, T>,
    /// Those of a list that is under way.
    listed: BTreeMap<String, T>,
    is_known: bool,
}

// === impl PodsSource ===

impl PodsSource {
    /// A source for the pods of a node.
    pub fn new(client: Client, node_name: &str) -> Self {
        Self { node_name: node_name.to_owned(), watches: Watches::of(client, Kind::OF_PODS) }
    }

    /// The same with other pauses between tries.
    #[must_use]
    pub fn with_pauses(mut self, pauses: Pauses) -> Self {
        self.watches.pauses = pauses;
        self
    }

    /// Reads the health of the source while it runs.
    pub fn health(&self) -> KubernetesHealth {
        self.watches.health.clone()
    }

    /// Watches and tells, until nobody listens.
    pub async fn run(self, pictures: watch::Sender<Told>) {
        let (told, mut inbox) = mpsc::channel(TOLD_MAX);
        let mut running = JoinSet::new();
        let of_node = format!("spec.nodeName={}", self.node_name);
        let pods = watcher::Config::default().page_size(PAGE_OBJECTS).fields(&of_node);
        running.spawn(watch_pods(self.watches.on(Kind::Pods, pods), told.clone()));
        let all = watcher::Config::default().page_size(PAGE_OBJECTS);
        running.spawn(watch_namespaces(self.watches.on(Kind::Namespaces, all), told));
        let mut pods = Kept::default();
        let mut namespaces = Kept::default();
        let mut batch = Vec::with_capacity(TOLD_MAX);
        loop {
            tokio::select! {
                count = inbox.recv_many(&mut batch, TOLD_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                () = pictures.closed() => return,
            }
            for message in batch.drain(..) {
                match message {
                    Message::Pod(step) => pods.take(step),
                    Message::Namespace(step) => namespaces.take(step),
                }
            }
            if pods.is_known && namespaces.is_known {
                let picture = picture(&pods, &namespaces);
                pictures.send_if_modified(|known| {
                    let differs = known.as_deref() != Some(&picture);
                    if differs {
                        *known = Some(Arc::new(picture));
                    }
                    differs
                });
            }
        }
    }
}

fn picture(pods: &Kept<PodObject>, namespaces: &Kept<Wishes>) -> NodePods {
    let asking = namespaces.objects.iter().filter(|(_, wishes)| **wishes != Wishes::default());
    let namespaces = asking.map(|(name, wishes)| (name.clone(), *wishes)).collect();
    let pods = pods.objects.values().map(|pod| (pod.uid.clone(), pod.clone())).collect();
    NodePods { pods, namespaces }
}

async fn watch_pods(watched: Watched<Pod>, told: mpsc::Sender<Message>) {
    let read = |guarded: &Guarded<Pod>| {
        let read = match guarded.read() {
            Ok(pod) => object::pod(&pod),
            Err(error) => Err(format!("a Pod cannot be read: {error}")),
        };
        let Read { kept, fault } = read.inspect_err(|error| tracing::warn!("{error}")).ok()?;
        warn(fault.as_deref());
        Some(kept)
    };
    // Its name may be a successor's already.
    let uid = |guarded: &Guarded<Pod>| guarded.meta().uid.clone();
    let step = |event, _| Some(Message::Pod(step(event, read, uid)?));
    watched.run(told, step).await;
}

async fn watch_namespaces(watched: Watched<Namespace>, told: mpsc::Sender<Message>) {
    let read = |guarded: &Guarded<Namespace>| {
        let namespace = guarded.read().ok()?;
        let Read { kept: (_, wishes), fault } = object::namespace(&namespace)?;
        warn(fault.as_deref());
        Some(wishes)
    };
    let name = |guarded: &Guarded<Namespace>| guarded.meta().name.clone();
    let step = |event, _| Some(Message::Namespace(step(event, read, name)?));
    watched.run(told, step).await;
}

fn warn(fault: Option<&str>) {
    if let Some(fault) = fault {
        tracing::warn!("{fault}");
    }
}

/// What an event comes to; nothing for an object without a key.
fn step<K, T>(
    event: Event<K>,
    read: impl Fn(&K) -> Option<T>,
    key: impl Fn(&K) -> Option<String>,
) -> Option<Step<T>> {
    Some(match event {
        Event::Init => Step::ListBegins,
        Event::InitApply(object) => Step::Listed(key(&object)?, read(&object)),
        Event::InitDone => Step::ListEnds,
        Event::Apply(object) => Step::Applied(key(&object)?, read(&object)),
        Event::Delete(object) => Step::Deleted(key(&object)?),
    })
}

// === impl Kept ===

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: BTreeMap::new(), is_known: false }
    }
}

impl<T: Clone> Kept<T> {
    fn take(&mut self, step: Step<T>) {
        match step {
            Step::ListBegins => self.listed.clear(),
            Step::Listed(key, object) => {
                if let Some(object) = object.or_else(|| self.objects.get(&key).cloned()) {
                    self.listed.insert(key, object);
                }
            }
            Step::ListEnds => {
                self.objects = std::mem::take(&mut self.listed);
                self.is_known = true;
            }
            Step::Applied(key, object) => {
                self.objects.extend(object.map(|object| (key, object)));
            }
            Step::Deleted(key) => {
                self.objects.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_what_was_known_only_when_it_is_complete() {
        let mut kept = Kept::default();
        kept.take(Step::ListBegins);
        kept.take(Step::Listed("a".into(), Some(1)));
        assert!(!kept.is_known);
        kept.take(Step::ListEnds);
        assert!(kept.is_known);
        kept.take(Step::Applied("b".into(), Some(2)));
        kept.take(Step::ListBegins);
        kept.take(Step::Listed("b".into(), Some(3)));
        let known = |kept: &Kept<i32>| -> Vec<i32> { kept.objects.values().copied().collect() };
        assert_eq!(known(&kept), [1, 2], "half a list says nothing");
        kept.take(Step::ListEnds);
        assert_eq!(known(&kept), [3]);
        kept.take(Step::Deleted("b".into()));
        kept.take(Step::Deleted("unknown".into()));
        assert!(known(&kept).is_empty());
    }

    #[test]
    fn what_cannot_be_read_keeps_what_is_known_of_it() {
        let mut kept = Kept::default();
        kept.take(Step::Applied("a".into(), Some(1)));
        kept.take(Step::Applied("a".into(), None));
        kept.take(Step::ListBegins);
        kept.take(Step::Listed("a".into(), None));
        kept.take(Step::Listed("b".into(), None));
        kept.take(Step::ListEnds);
        assert_eq!(kept.objects, BTreeMap::from([("a".into(), 1)]));
    }
}
