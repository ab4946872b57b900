//! Services of a Kubernetes cluster: Services and EndpointSlices in, services of the core out. Pure:
//! time is an argument, as a duration since any fixed start.
//!
//! ```text
//! services(Message) ─┐                        ┌─> Snapshot, once all kinds were listed
//! slices(Message) ───┼─> dirty ──> settle() ──┤
//! node(…) ───────────┘                        └─> ServiceChanged, ServiceRemoved from then on
//! ```
//! Invariants: nothing is told before Services, EndpointSlices and the own Node are complete. What
//! is told depends on what is known alone, never on the order in which it came; only which pods have
//! left a headless Service is remembered. A later list is compared with what is known: only
//! differences are told.

mod choice;
mod departed;
mod farewell;
mod join;
mod object;
mod problem;
mod store;
#[cfg(test)]
mod tests;

pub use farewell::Farewell;
pub use join::ENDPOINTS_MAX;
pub use object::{
    Fault, Malformed, NodeObject, ObjectKey, Overrides, PodKey, Readiness, ServiceKind,
    ServiceObject, ServicePort, SliceEndpoint, SliceObject, SlicePort, Version,
};
pub use problem::ObjectProblem;
pub use store::{Keyed, Message, Observed};

use super::{
    event::{Event, Source},
    model::{Behaviour, Service, ServiceName},
};
use choice::Place;
use departed::Departed;
use farewell::Farewells;
use join::Joined;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use store::{Change, Store, note};

/// Annotations that begin so are ours.
pub const ANNOTATION_PREFIX: &str = "balancer.dev/";

/// What does not come from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The name of the own Node.
    pub node_name: Arc<str>,
    /// How long the address of a pod that left a headless Service stays a frontend.
    pub departed_grace: Duration,
    /// Whether pods tell of their end themselves ([`Discovery::pod`]).
    pub watch_pods: bool,
    /// What services are whose annotations do not say otherwise.
    pub defaults: Behaviour,
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Services of which a port is balanced.
    pub services_balanced: usize,
    /// EndpointSlices.
    pub slices: usize,
    /// Addresses in EndpointSlices, each once.
    pub addresses: usize,
    /// Objects and parts of objects that were refused so far.
    pub refused: u64,
    /// Changes so far that were older than what was known.
    pub outdated: u64,
}

/// Everything that is known of the cluster.
#[derive(Debug)]
pub struct Discovery {
    rules: Rules,
    services: Store<ServiceObject>,
    slices: Store<SliceObject>,
    /// Names of the slices of each Service.
    slices_of: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// How many endpoints have an address.
    addresses: HashMap<IpAddr, u32>,
    /// The own Node, once it was asked for.
    node: Option<NodeObject>,
    departed: Departed,
    farewells: Farewells,
    dirty: BTreeSet<ObjectKey>,
    /// What was told of each Service; `None` until the snapshot.
    told: Option<HashMap<ObjectKey, Vec<ServiceName>>>,
    /// How many Services of each namespace are balanced.
    namespaces: BTreeMap<Arc<str>, usize>,
    /// Objects that cannot be read, Services first.
    malformed: [BTreeMap<ObjectKey, Malformed>; 2],
    problems: BTreeMap<ObjectKey, BTreeSet<ObjectProblem>>,
    /// Raised whenever `problems` changes.
    revision: u64,
    news: Vec<ObjectProblem>,
    refused: u64,
}

/// Index into `malformed`.
const SERVICES: usize = 0;
const SLICES: usize = 1;

// === impl Keyed ===

impl Keyed for ServiceObject {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for SliceObject {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

// === impl Discovery ===

impl Discovery {
    /// Knows nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            services: Store::default(),
            slices: Store::default(),
            slices_of: HashMap::new(),
            addresses: HashMap::new(),
            node: None,
            departed: Departed::default(),
            farewells: Farewells::default(),
            dirty: BTreeSet::new(),
            told: None,
            namespaces: BTreeMap::new(),
            malformed: [BTreeMap::new(), BTreeMap::new()],
            problems: BTreeMap::new(),
            revision: 0,
            news: Vec::new(),
            refused: 0,
        }
    }

    /// Changes the settings that services have by default.
    pub fn set_defaults(&mut self, defaults: Behaviour) {
        if self.rules.defaults != defaults {
            self.rules.defaults = defaults;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// Takes in what the watch on Services tells.
    pub fn services(&mut self, message: Message<ServiceObject>) {
        let faults = |service: &ServiceObject| service.faults.len();
        let own = |key: &ObjectKey| Some(key.clone());
        let touched = note(&message, &mut self.malformed[SERVICES], &mut self.refused, faults, own);
        self.dirty.extend(touched);
        let dirty = &mut self.dirty;
        self.services.take(message, |change| {
            let service = change.after.or(change.before.as_ref());
            dirty.extend(service.map(|service| service.key.clone()));
        });
    }

    /// Takes in what the watch on EndpointSlices tells; returns whether anything is different now.
    pub fn slices(&mut self, message: Message<SliceObject>) -> bool {
        let faults = |slice: &SliceObject| slice.faults.len();
        let none = |_: &ObjectKey| None;
        let touched = note(&message, &mut self.malformed[SLICES], &mut self.refused, faults, none);
        self.dirty.extend(touched);
        let mut differs = false;
        let Self { rules, slices, slices_of, addresses, departed, farewells, dirty, .. } = self;
        slices.take(message, |Change { before, after }| {
            differs = true;
            if rules.watch_pods {
                farewells.change(before.as_ref(), after);
            }
            // Additions first, so that an address that stays is never unused in between.
            if let Some(slice) = after {
                slices_of.entry(slice.owner()).or_default().insert(slice.key.clone());
                dirty.insert(slice.owner());
                for endpoint in &slice.endpoints {
                    let count = addresses.entry(endpoint.address).or_default();
                    *count += 1;
                    if *count == 1 {
                        dirty.extend(departed.holders(&endpoint.address).cloned());
                    }
                }
            }
            let Some(slice) = before else { return };
            let owner = slice.owner();
            if after.is_none_or(|after| after.service != slice.service)
                && let Some(names) = slices_of.get_mut(&owner)
            {
                names.remove(&slice.key);
                if names.is_empty() {
                    slices_of.remove(&owner);
                }
            }
            dirty.insert(owner);
            for endpoint in &slice.endpoints {
                let Some(count) = addresses.get_mut(&endpoint.address) else {
                    continue;
                };
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&endpoint.address);
                    dirty.extend(departed.holders(&endpoint.address).cloned());
                }
            }
        });
        differs
    }

    /// Takes in what a Pod's object says of its end.
    pub fn pod(&mut self, pod: PodKey, farewell: Farewell) {
        self.dirty.extend(self.farewells.take(pod, farewell).iter().cloned());
    }

    /// Takes in the own Node; `None` if the API has none of that name.
    pub fn node(&mut self, node: Option<NodeObject>) {
        let node = node.unwrap_or_default();
        if self.node.as_ref() != Some(&node) {
            self.node = Some(node);
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// Whether all kinds were listed.
    pub fn is_synced(&self) -> bool {
        self.services.synced && self.slices.synced && self.node.is_some()
    }

    /// What is new since the last call; nothing before all kinds were listed.
    pub fn settle(&mut self, now: Duration) -> Vec<Event> {
        if !self.is_synced() {
            return Vec::new();
        }
        self.dirty.extend(self.departed.expired(now).cloned());
        let source = Source::Kubernetes;
        let dirty = std::mem::take(&mut self.dirty);
        let Some(mut told) = self.told.take() else {
            let mut told = HashMap::new();
            let mut services = Vec::new();
            // Problems may concern Services that do not exist.
            let keys: BTreeSet<ObjectKey> =
                dirty.into_iter().chain(self.services.keys().cloned()).collect();
            for key in keys {
                let joined = self.join(&key, now);
                if !joined.is_empty() {
                    *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
                    told.insert(key, joined.iter().map(|service| service.name.clone()).collect());
                }
                services.extend(joined);
            }
            self.told = Some(told);
            return vec![Event::Snapshot { source, services }];
        };
        let mut events = Vec::new();
        for key in dirty {
            let services = self.join(&key, now);
            let names: Vec<ServiceName> = services.iter().map(|it| it.name.clone()).collect();
            let before = told.remove(&key);
            self.count_namespace(&key, before.is_some(), !names.is_empty());
            for name in before.into_iter().flatten() {
                if !names.contains(&name) {
                    events.push(Event::ServiceRemoved { source, name });
                }
            }
            if !names.is_empty() {
                told.insert(key, names);
            }
            let changed = |service| Event::ServiceChanged { source, service };
            events.extend(services.into_iter().map(changed));
        }
        self.told = Some(told);
        events
    }

    /// Notes whether a Service was balanced, and whether it is.
    fn count_namespace(&mut self, key: &ObjectKey, before: bool, after: bool) {
        let count = self.namespaces.entry(key.namespace.clone()).or_default();
        *count = *count + usize::from(after) - usize::from(before);
        if *count == 0 {
            self.namespaces.remove(&key.namespace);
        }
    }

    /// Namespaces in which a Service is balanced.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// When [`Self::settle`] has something to tell by time alone.
    pub fn next_at(&self) -> Option<Duration> {
        self.departed.next_at()
    }

    /// Everything that is refused at the moment.
    pub fn problems(&self) -> impl Iterator<Item = &ObjectProblem> {
        self.problems.values().flatten()
    }

    /// A number that differs whenever [`Self::problems`] do.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What was refused since the last call and was not before.
    pub fn take_news(&mut self) -> Vec<ObjectProblem> {
        std::mem::take(&mut self.news)
    }

    /// How much is known.
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            services_balanced: self.told.as_ref().map_or(0, HashMap::len),
            slices: self.slices.len(),
            addresses: self.addresses.len(),
            refused: self.refused,
            outdated: self.services.outdated + self.slices.outdated,
        }
    }

    /// Computes what a Service should be by all that is known.
    fn join(&mut self, key: &ObjectKey, now: Duration) -> Vec<Service> {
        let Self { rules, services, slices, slices_of, addresses, node, departed, .. } = self;
        let farewells = &self.farewells;
        let names = slices_of.get(key);
        let of_service = names.into_iter().flatten().filter_map(|name| slices.get(name));
        let service = services.get(key);
        let joined = match service {
            Some(service) if service.is_balanced() => {
                let present = join::pod_addresses(service, &of_service);
                departed.update(key, &present, now, rules.departed_grace);
                let zone = node.as_ref().and_then(|node| node.zone.as_deref());
                let place = Place { node: &rules.node_name, zone };
                let free = |address: &IpAddr| !addresses.contains_key(address);
                let gone = departed.addresses(key, free);
                join::join(service, &of_service, &gone, farewells, place, &rules.defaults)
            }
            Some(service) => {
                departed.forget(key);
                let place = Place { node: &rules.node_name, zone: None };
                let none = join::Addresses::new();
                join::join(service, &of_service, &none, farewells, place, &rules.defaults)
            }
            None => {
                departed.forget(key);
                Joined::default()
            }
        };
        let problems = self.problems_of(key, &joined.faults);
        let known = self.problems.get(key);
        let is_new = |problem: &&ObjectProblem| !known.is_some_and(|all| all.contains(*problem));
        self.news.extend(problems.iter().filter(is_new).cloned());
        if problems.is_empty() {
            self.revision += u64::from(self.problems.remove(key).is_some());
        } else if known != Some(&problems) {
            self.revision += 1;
            self.problems.insert(key.clone(), problems);
        }
        joined.services
    }
}
