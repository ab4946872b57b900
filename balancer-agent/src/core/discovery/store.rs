//! All objects of one kind as the API last told: lists that replace everything, and single changes.
//!
//! Invariants: a list counts only once it is complete, so that a connection cut in the middle of one
//! takes nothing away. An object that cannot be read keeps its last good form. Changes that are
//! older than what is known are left out.

use super::object::{Malformed, ObjectKey, Version};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Deleted objects that are remembered, so that a late change does not bring them back.
const GRAVES_MAX: usize = 4_096;

/// What a watch tells about one kind of object.
#[derive(Clone, Debug)]
pub enum Message<T> {
    /// A complete list begins.
    ListBegins,
    /// An object of that list.
    Listed(Observed<T>),
    /// The list is complete: what it did not name is gone.
    ListEnds,
    /// An object is new or different.
    Applied(Observed<T>),
    /// An object is gone.
    Deleted(ObjectKey, Version),
}

/// An object, or why it was refused.
#[derive(Clone, Debug)]
pub struct Observed<T> {
    /// Its version.
    pub version: Version,
    /// The object.
    pub object: Result<T, Malformed>,
}

/// Objects that have a key.
pub trait Keyed: PartialEq {
    /// Namespace and name.
    fn key(&self) -> &ObjectKey;
}

/// A change of one object: what it was before and what it is now.
pub(super) struct Change<'s, T> {
    pub(super) before: Option<T>,
    pub(super) after: Option<&'s T>,
}

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Store<T> {
    objects: HashMap<ObjectKey, (Version, T)>,
    /// The list that is being received.
    incoming: Option<HashMap<ObjectKey, (Version, T)>>,
    /// Objects of that list that could not be read.
    unreadable: Vec<ObjectKey>,
    graves: HashMap<ObjectKey, u64>,
    graves_in_order: VecDeque<ObjectKey>,
    /// Whether a list has been complete once.
    pub(super) synced: bool,
    /// Changes that were older than what was known.
    pub(super) outdated: u64,
}

// === impl Store ===

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            incoming: None,
            unreadable: Vec::new(),
            graves: HashMap::new(),
            graves_in_order: VecDeque::new(),
            synced: false,
            outdated: 0,
        }
    }
}

impl<T: Keyed> Store<T> {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&T> {
        self.objects.get(key).map(|(_, object)| object)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Takes a message in and calls `changed` for every object that is different now.
    pub(super) fn take(&mut self, message: Message<T>, mut changed: impl FnMut(Change<'_, T>)) {
        match message {
            Message::ListBegins => {
                self.incoming = Some(HashMap::new());
                self.unreadable.clear();
            }
            Message::Listed(Observed { version, object }) => match object {
                Ok(object) => {
                    let incoming = self.incoming.get_or_insert_default();
                    incoming.insert(object.key().clone(), (version, object));
                }
                Err(malformed) => self.unreadable.push(malformed.key),
            },
            Message::ListEnds => self.replace(changed),
            // What cannot be read says nothing: the last good form stays.
            Message::Applied(Observed { object: Err(_), .. }) => {}
            Message::Applied(Observed { version, object: Ok(object) }) => {
                let key = object.key().clone();
                if self.is_outdated(&key, version) {
                    self.outdated += 1;
                    return;
                }
                self.graves.remove(&key);
                if self.get(&key) == Some(&object) {
                    self.objects.entry(key).and_modify(|known| known.0 = version);
                    return;
                }
                let before = self.objects.insert(key.clone(), (version, object));
                let before = before.map(|(_, object)| object);
                changed(Change { before, after: self.get(&key) });
            }
            Message::Deleted(key, version) => {
                if self.is_outdated(&key, version) {
                    self.outdated += 1;
                    return;
                }
                self.bury(&key, version);
                if let Some((_, before)) = self.objects.remove(&key) {
                    changed(Change { before: Some(before), after: None });
                }
            }
        }
    }

    fn replace(&mut self, mut changed: impl FnMut(Change<'_, T>)) {
        let incoming = self.incoming.take().unwrap_or_default();
        let unreadable = self.unreadable.drain(..);
        let kept: Vec<_> = unreadable
            .filter(|key| !incoming.contains_key(key))
            .filter_map(|key| self.objects.remove_entry(&key))
            .collect();
        let mut before = std::mem::replace(&mut self.objects, incoming);
        for (key, (_, object)) in &self.objects {
            let before = before.remove(key).map(|(_, object)| object);
            if before.as_ref() != Some(object) {
                changed(Change { before, after: Some(object) });
            }
        }
        for (_, object) in before.into_values() {
            changed(Change { before: Some(object), after: None });
        }
        self.objects.extend(kept);
        self.graves.clear();
        self.graves_in_order.clear();
        self.synced = true;
    }

    fn is_outdated(&self, key: &ObjectKey, version: Version) -> bool {
        let Some(version) = version else {
            return false;
        };
        let known = self.objects.get(key).and_then(|(known, _)| *known);
        let known = known.max(self.graves.get(key).copied());
        known.is_some_and(|known| version < known)
    }

    fn bury(&mut self, key: &ObjectKey, version: Version) {
        let Some(version) = version else {
            return;
        };
        if self.graves.insert(key.clone(), version).is_none() {
            self.graves_in_order.push_back(key.clone());
        }
        if self.graves_in_order.len() > GRAVES_MAX
            && let Some(oldest) = self.graves_in_order.pop_front()
        {
            self.graves.remove(&oldest);
        }
    }
}

/// Notes what of a message is refused; returns the Services that this concerns. `own` tells the
/// Service of an object by its key, where that is possible.
pub(super) fn note<T>(
    message: &Message<T>,
    malformed: &mut BTreeMap<ObjectKey, Malformed>,
    refused: &mut u64,
    faults: impl Fn(&T) -> usize,
    own: impl Fn(&ObjectKey) -> Option<ObjectKey>,
) -> Vec<ObjectKey>
where
    T: Keyed,
{
    let service_of = |it: &Malformed| it.service.clone().or_else(|| own(&it.key));
    match message {
        Message::ListBegins => {
            let before = std::mem::take(malformed);
            before.values().filter_map(service_of).collect()
        }
        Message::Listed(observed) | Message::Applied(observed) => match &observed.object {
            Ok(object) => {
                *refused += faults(object) as u64;
                malformed.remove(object.key()).iter().filter_map(service_of).collect()
            }
            Err(it) => {
                *refused += 1;
                malformed.insert(it.key.clone(), it.clone());
                service_of(it).into_iter().collect()
            }
        },
        Message::Deleted(key, _) => malformed.remove(key).iter().filter_map(service_of).collect(),
        Message::ListEnds => Vec::new(),
    }
}
