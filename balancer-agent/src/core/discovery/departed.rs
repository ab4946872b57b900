//! Addresses of pods that left a headless Service. Clients that resolved it earlier still dial them
//! for a while: as frontends they lead to a pod that is alive.

use super::{join::Addresses, object::ObjectKey};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Most departed addresses of one Service; the one that left first is forgotten.
const DEPARTED_MAX: usize = 1_000;

/// An address and the name of its port.
type PortAddress = (Arc<str>, SocketAddr);

/// Who has left which Service, and until when that is remembered.
#[derive(Debug, Default)]
pub(super) struct Departed {
    services: HashMap<ObjectKey, Memory>,
    /// Services that remember an address.
    by_address: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    due: BTreeSet<(Duration, ObjectKey)>,
}

#[derive(Debug, Default)]
struct Memory {
    present: BTreeSet<PortAddress>,
    /// Departed ones with the time at which they are forgotten.
    gone: BTreeMap<PortAddress, Duration>,
}

// === impl Departed ===

impl Departed {
    /// Takes in what a Service has now. What it does not have any more is remembered for `grace`.
    pub(super) fn update(
        &mut self,
        key: &ObjectKey,
        present: &Addresses,
        now: Duration,
        grace: Duration,
    ) {
        let mut memory = self.take(key);
        let present: BTreeSet<PortAddress> = present
            .iter()
            .flat_map(|(port, all)| all.iter().map(move |one| (port.clone(), *one)))
            .collect();
        let until = now.saturating_add(grace);
        for left in memory.present.difference(&present) {
            memory.gone.insert(left.clone(), until);
        }
        memory.gone.retain(|address, until| *until > now && !present.contains(address));
        while memory.gone.len() > DEPARTED_MAX {
            let oldest = memory.gone.iter().min_by_key(|(_, until)| **until);
            let Some(oldest) = oldest.map(|(address, _)| address.clone()) else {
                break;
            };
            memory.gone.remove(&oldest);
        }
        memory.present = present;
        for ((_, address), until) in &memory.gone {
            self.by_address.entry(address.ip()).or_default().insert(key.clone());
            self.due.insert((*until, key.clone()));
        }
        if !memory.present.is_empty() || !memory.gone.is_empty() {
            self.services.insert(key.clone(), memory);
        }
    }

    /// Forgets a Service.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.take(key);
    }

    /// The departed addresses of a Service that `is_free`: nobody else has got them meanwhile.
    pub(super) fn addresses(
        &self,
        key: &ObjectKey,
        is_free: impl Fn(&IpAddr) -> bool,
    ) -> Addresses {
        let mut addresses = Addresses::new();
        let gone = self.services.get(key).into_iter().flat_map(|memory| memory.gone.keys());
        for (port, address) in gone.filter(|(_, address)| is_free(&address.ip())) {
            addresses.entry(port.clone()).or_default().insert(*address);
        }
        addresses
    }

    /// Services that remember `address`.
    pub(super) fn holders(&self, address: &IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.by_address.get(address).into_iter().flatten()
    }

    /// Services of which something is to be forgotten by now.
    pub(super) fn expired(&self, now: Duration) -> impl Iterator<Item = &ObjectKey> {
        self.due.iter().take_while(move |(until, _)| *until <= now).map(|(_, key)| key)
    }

    /// When something is to be forgotten next.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.due.first().map(|(until, _)| *until)
    }

    fn take(&mut self, key: &ObjectKey) -> Memory {
        let memory = self.services.remove(key).unwrap_or_default();
        for ((_, address), until) in &memory.gone {
            self.due.remove(&(*until, key.clone()));
            if let Some(holders) = self.by_address.get_mut(&address.ip()) {
                holders.remove(key);
                if holders.is_empty() {
                    self.by_address.remove(&address.ip());
                }
            }
        }
        memory
    }
}
