//! Pods that are on their way out by the word of their own objects: a kubelet is told of a deletion
//! by the Pod's `deletionTimestamp`, some tens of milliseconds before an EndpointSlice says so.
//!
//! Invariants: a UID is never given twice, so that what was said of a pod holds for ever, whatever
//! its slices say later and in whichever order. It is remembered for as long as any slice names the
//! pod; of pods that no slice names, only of the latest [`STRANGERS_MAX`].

use super::object::{ObjectKey, PodKey, Readiness, SliceObject};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Pods without an endpoint that are remembered: their slices may be on their way still.
const STRANGERS_MAX: usize = 4_096;

/// What a Pod's object says of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Farewell {
    /// It shuts down (`metadata.deletionTimestamp`).
    Terminating,
    /// It is gone.
    Gone,
}

/// Which pods have endpoints, and which of all pods are leaving.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    said: HashMap<PodKey, Farewell>,
    endpoints: HashMap<PodKey, Owners>,
    /// Pods that had no endpoint when they came to stand here, the latest last.
    strangers: VecDeque<PodKey>,
}

/// The Services of a pod's endpoints, once for each slice. Most pods have one.
#[derive(Debug)]
enum Owners {
    One(ObjectKey),
    Several(Vec<ObjectKey>),
}

// === impl Farewells ===

impl Farewells {
    /// Takes in what a Pod's object says; returns the Services that this concerns.
    pub(super) fn take(&mut self, pod: PodKey, farewell: Farewell) -> &[ObjectKey] {
        let known = self.said.get(&pod).copied();
        if known >= Some(farewell) {
            return &[];
        }
        self.said.insert(pod, farewell);
        if known.is_none() && !self.endpoints.contains_key(&pod) {
            self.remember(pod);
        }
        self.endpoints.get(&pod).map_or(&[], Owners::all)
    }

    /// Takes in that a slice is different now.
    pub(super) fn change(&mut self, before: Option<&SliceObject>, after: Option<&SliceObject>) {
        let pods = |slice: Option<&SliceObject>| -> BTreeSet<(PodKey, ObjectKey)> {
            let endpoints =
                slice.into_iter().flat_map(|it| it.endpoints.iter().map(move |e| (it, e)));
            endpoints.filter_map(|(slice, endpoint)| Some((endpoint.pod?, slice.owner()))).collect()
        };
        let (before, after) = (pods(before), pods(after));
        // Additions first, so that a pod that stays is no stranger in between.
        for (pod, owner) in after.difference(&before) {
            self.join(*pod, owner.clone());
        }
        for (pod, owner) in before.difference(&after) {
            self.part(*pod, owner);
        }
    }

    fn join(&mut self, pod: PodKey, owner: ObjectKey) {
        match self.endpoints.get_mut(&pod) {
            None => {
                self.endpoints.insert(pod, Owners::One(owner));
            }
            Some(Owners::Several(all)) => all.push(owner),
            Some(one) => {
                let mut all = one.all().to_vec();
                all.push(owner);
                *one = Owners::Several(all);
            }
        }
    }

    fn part(&mut self, pod: PodKey, owner: &ObjectKey) {
        if let Some(owners @ Owners::Several(_)) = self.endpoints.get_mut(&pod) {
            let mut all = owners.all().to_vec();
            if let Some(index) = all.iter().position(|known| known == owner) {
                all.swap_remove(index);
            }
            match all.len() {
                0 => {}
                1 => return *owners = Owners::One(all.swap_remove(0)),
                _ => return *owners = Owners::Several(all),
            }
        }
        self.endpoints.remove(&pod);
        if self.said.contains_key(&pod) {
            self.remember(pod);
        }
    }

    /// How an endpoint is by its slice and by its pod's own word. One that shuts down and serves is
    /// what KEP-1669 falls back to when there is no other.
    pub(super) fn readiness(&self, pod: Option<PodKey>, told: Readiness) -> Readiness {
        match (pod.and_then(|pod| self.said.get(&pod)), told) {
            (None, _) => told,
            (Some(Farewell::Terminating), Readiness::Ready | Readiness::Terminating) => {
                Readiness::Terminating
            }
            (Some(_), _) => Readiness::Stopping,
        }
    }

    /// How many pods are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.said.len()
    }

    fn remember(&mut self, pod: PodKey) {
        self.strangers.push_back(pod);
        while self.strangers.len() > STRANGERS_MAX {
            let oldest = self.strangers.pop_front();
            // One that has got an endpoint meanwhile is remembered with that.
            if let Some(oldest) = oldest.filter(|pod| !self.endpoints.contains_key(pod)) {
                self.said.remove(&oldest);
            }
        }
    }
}

// === impl Owners ===

impl Owners {
    fn all(&self) -> &[ObjectKey] {
        match self {
            Self::One(owner) => std::slice::from_ref(owner),
            Self::Several(owners) => owners,
        }
    }
}
