//! The Kubernetes source: watches Services, EndpointSlices and the own Node, and emits the services
//! that discovery makes of them. Everything is dropped on arrival but what discovery keeps.

mod access;
mod annotation;
mod complain;
mod convert;
mod farewells;
mod guard;
mod health;
mod intern;
mod pace;
mod patience;
pub mod pods;
mod rank;
pub mod reading;
mod slice;
mod trigger;
mod watch;

pub use access::{AccessError, client};
pub use annotation::ANNOTATIONS;
pub use health::{Kind, KubernetesHealth, KubernetesReport, WatchHealth};
pub use patience::Pauses;

use crate::core::{
    discovery::{
        Discovery, Farewell, Message, NodeObject, Observed, PodKey, Rules, ServiceObject,
        SliceObject,
    },
    event::Event,
    model::Behaviour,
};
use farewells::{Farewells, Namespaces};
use guard::Guarded;
use intern::Interner;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, Resource, runtime::watcher};
use std::time::SystemTime;
use tokio::{
    sync::{mpsc, watch as channel},
    task::JoinSet,
    time::Instant,
};
use trigger::Triggers;
use watch::{Watched, Watches};

/// Objects that wait for discovery at most; watches wait beyond that.
const TOLD_MAX: usize = 1_024;
/// Most objects that one list request brings. A slice has up to 100 endpoints, some 50 KB of JSON.
const PAGE_OBJECTS: u32 = 200;

/// What a batch of changes comes to.
#[derive(Debug)]
pub struct Update {
    /// What the core is to know, in order.
    pub events: Vec<Event>,
    /// When the first change of the batch arrived, or somewhat earlier: while a watch gathers changes
    /// it does not know when each came.
    pub arrived_at: Instant,
    /// This node's place among all Nodes, with the first update, if that was asked for and is known.
    pub node_rank: Option<u32>,
    /// When those changes began that EndpointSlices tell the time of.
    pub triggered_at: Vec<SystemTime>,
}

/// The Kubernetes source, before it runs.
#[derive(Clone)]
pub struct KubernetesSource {
    rules: Rules,
    defaults: channel::Receiver<Behaviour>,
    watches: Watches,
    farewells: KubernetesHealth,
    ranking: bool,
}

/// What watches tell, with the earliest time at which it can have arrived.
type Timed = (Instant, Told);

/// What watches tell.
enum Told {
    Service(Message<ServiceObject>),
    /// With the time at which the change began, if it is known.
    Slice(Message<SliceObject>, Option<SystemTime>),
    Node(Option<NodeObject>),
    Pod(PodKey, Farewell),
}

// === impl KubernetesSource ===

impl KubernetesSource {
    /// A source that reads from `client`'s cluster. `defaults` take the place of those in `rules`
    /// whenever they change.
    pub fn new(client: Client, rules: Rules, defaults: channel::Receiver<Behaviour>) -> Self {
        let watches = Watches::of(client, Kind::OF_SERVICES);
        let farewells = KubernetesHealth::of(Kind::OF_FAREWELLS);
        Self { rules, defaults, watches, farewells, ranking: false }
    }

    /// The same with other pauses between tries.
    #[must_use]
    pub fn with_pauses(mut self, pauses: Pauses) -> Self {
        self.watches.pauses = pauses;
        self
    }

    /// The same, which asks for this node's rank as well.
    #[must_use]
    pub fn with_rank(mut self, ranking: bool) -> Self {
        self.ranking = ranking;
        self
    }

    /// Reads the health of the source while it runs.
    pub fn health(&self) -> KubernetesHealth {
        self.watches.health.clone()
    }

    /// Reads the health of the watches that tell which pods terminate. Nothing depends on them.
    pub fn farewells_health(&self) -> KubernetesHealth {
        self.farewells.clone()
    }

    /// Watches and sends updates, until nobody receives them.
    pub async fn run(mut self, updates: mpsc::Sender<Update>) {
        let (told, mut inbox) = mpsc::channel(TOLD_MAX);
        let Watches { client, health, .. } = self.watches.clone();
        let mut running = JoinSet::new();
        running.spawn(watch_services(self.watches.on(Kind::Services, config()), told.clone()));
        running.spawn(watch_slices(self.watches.on(Kind::EndpointSlices, config()), told.clone()));
        let name = format!("metadata.name={}", self.rules.node_name);
        let own = watcher::Config::default().fields(&name);
        let name = self.rules.node_name.to_string();
        running.spawn(watch_node(self.watches.on(Kind::Node, own), name, told.clone()));
        let namespaces = self.follow_pods(&mut running, told);
        let (problems, waiting) = mpsc::channel(complain::WAITING_MAX);
        let node = self.rules.node_name.to_string();
        let mut node_rank =
            if self.ranking { rank::ask(client.clone(), &node).await } else { None };
        running.spawn(complain::run(client, node, waiting, health.clone()));
        let started_at = Instant::now();
        let mut discovery = Discovery::new(self.rules);
        discovery.set_defaults(*self.defaults.borrow_and_update());
        let mut revision = 0;
        let mut batch = Vec::with_capacity(TOLD_MAX);
        loop {
            let expiry = discovery.next_at().map_or(started_at, |at| started_at + at);
            tokio::select! {
                count = inbox.recv_many(&mut batch, TOLD_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                Ok(()) = self.defaults.changed() => {
                    discovery.set_defaults(*self.defaults.borrow_and_update());
                }
                () = tokio::time::sleep_until(expiry), if discovery.next_at().is_some() => {}
                () = updates.closed() => return,
            }
            let arrived_at = batch.iter().map(|told| told.0).min().unwrap_or_else(Instant::now);
            let mut triggers = Triggers::default();
            batch.drain(..).for_each(|(_, told)| told.take_in(&mut discovery, &mut triggers));
            let events = discovery.settle(started_at.elapsed());
            let triggered_at = triggers.of(&events);
            for problem in discovery.take_news() {
                tracing::warn!("{problem}");
                if problems.try_send(problem).is_err() {
                    health.note_event_written(false);
                }
            }
            health.note_counts(discovery.counts());
            tell_namespaces(&discovery, &namespaces);
            if discovery.revision() != revision {
                revision = discovery.revision();
                health.note_problems(discovery.problems());
            }
            if events.is_empty() {
                continue;
            }
            let node_rank = node_rank.take();
            let update = Update { events, arrived_at, node_rank, triggered_at };
            if updates.send(update).await.is_err() {
                return;
            }
        }
    }

    /// Starts to follow the pods of the namespaces that are sent.
    fn follow_pods(
        &self,
        running: &mut JoinSet<()>,
        told: mpsc::Sender<Timed>,
    ) -> channel::Sender<Namespaces> {
        let (sender, namespaces) = channel::channel(Namespaces::new());
        if self.rules.watch_pods {
            let watches = Watches { health: self.farewells.clone(), ..self.watches.clone() };
            running.spawn(Farewells { watches }.run(namespaces, told));
        }
        sender
    }
}

// === impl Told ===

impl Told {
    fn take_in(self, discovery: &mut Discovery, triggers: &mut Triggers) {
        match self {
            Self::Service(message) => discovery.services(message),
            Self::Slice(message, triggered_at) => {
                let service = match &message {
                    Message::Applied(Observed { object: Ok(slice), .. }) => Some(slice.owner()),
                    _ => None,
                };
                let differs = discovery.slices(message);
                if let (true, Some(service), Some(time)) = (differs, service, triggered_at) {
                    triggers.add(service, time);
                }
            }
            Self::Node(node) => discovery.node(node),
            Self::Pod(pod, farewell) => discovery.pod(pod, farewell),
        }
    }
}

/// Tells in which namespaces pods are to be followed, if that is new.
fn tell_namespaces(discovery: &Discovery, namespaces: &channel::Sender<Namespaces>) {
    namespaces.send_if_modified(|known| {
        let differs = !known.iter().eq(discovery.namespaces());
        if differs {
            *known = discovery.namespaces().cloned().collect();
        }
        differs
    });
}

/// Objects that another proxy is in charge of stay at the API server.
fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_OBJECTS).labels(&format!("!{}", convert::PROXY_NAME))
}

async fn watch_services(watched: Watched<Service>, told: mpsc::Sender<Timed>) {
    let message = |event| match event {
        watcher::Event::Init => Message::ListBegins,
        watcher::Event::InitApply(object) => Message::Listed(reading::service(&object)),
        watcher::Event::InitDone => Message::ListEnds,
        watcher::Event::Apply(object) => Message::Applied(reading::service(&object)),
        watcher::Event::Delete(object) => deleted(&object),
    };
    watched.run(told, |event, at| Some((at, Told::Service(message(event))))).await;
}

async fn watch_slices(watched: Watched<EndpointSlice>, told: mpsc::Sender<Timed>) {
    let mut interner = Interner::default();
    // A slice that belongs to no Service (any more) is as good as gone.
    let mut read = |guarded: &Guarded<EndpointSlice>| reading::slice(guarded, &mut interner);
    let mut message = |event| match event {
        watcher::Event::Init => Some(Message::ListBegins),
        watcher::Event::InitApply(object) => read(&object).map(Message::Listed),
        watcher::Event::InitDone => Some(Message::ListEnds),
        watcher::Event::Apply(object) => {
            Some(read(&object).map_or_else(|| deleted(&object), Message::Applied))
        }
        watcher::Event::Delete(object) => Some(deleted(&object)),
    };
    let health = watched.health.clone();
    let told_of = |event: watcher::Event<Guarded<EndpointSlice>>, at| {
        // Lists tell of what is, however long it has been so.
        let triggered_at = match &event {
            watcher::Event::Apply(object) => trigger::read(object.meta(), &health),
            _ => None,
        };
        Some((at, Told::Slice(message(event)?, triggered_at)))
    };
    watched.run(told, told_of).await;
}

async fn watch_node(watched: Watched<Node>, name: String, told: mpsc::Sender<Timed>) {
    let mut listed = None;
    let is_own = |object: &Guarded<Node>| object.meta().name.as_deref() == Some(&*name);
    // An unreadable Node tells no zone.
    let read = |object: &Guarded<Node>| {
        object.read().map_or_else(|_| NodeObject::default(), |node| convert::node(&node))
    };
    let message = |event, at| {
        let node = match event {
            watcher::Event::Init => {
                listed = None;
                return None;
            }
            watcher::Event::InitApply(object) => {
                if is_own(&object) {
                    listed = Some(read(&object));
                }
                return None;
            }
            watcher::Event::InitDone => listed.take(),
            watcher::Event::Apply(object) if is_own(&object) => Some(read(&object)),
            watcher::Event::Delete(object) if is_own(&object) => None,
            watcher::Event::Apply(_) | watcher::Event::Delete(_) => return None,
        };
        Some((at, Told::Node(node)))
    };
    watched.run(told, message).await;
}

fn deleted<K: Resource, T>(object: &K) -> Message<T> {
    Message::Deleted(convert::key(object.meta()), convert::version(object.meta()))
}
