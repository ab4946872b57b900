//! The core's picture of the maps: what every write that landed has made of them.
//!
//! Invariants: a service id is free only when no frontend, name, record or backend names it; a
//! backend id only when its record is zero; an extent only when no bank in force points to it.

use super::{
    allocation::{Extents, Ids},
    model::ServiceName,
    write::{KernelState, Limits, Write},
};
use balancer_common::{
    address::Address,
    backend::{Backend, STATE_ACTIVE, STATE_DRAINING, STATE_GONE},
    service::{CHUNK_SLOTS, SERVICE_VALID, Schedule, Service},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

/// The schedules in force of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedules {
    pub(super) v4: Arc<[u32]>,
    pub(super) v6: Arc<[u32]>,
    /// One extent if both families share their slots; none without slots.
    pub(super) extents: Vec<Range<u32>>,
}

/// Everything that the maps hold under one service id.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// `None` for what a killed agent left half-made.
    pub(super) name: Option<ServiceName>,
    /// Whether the name stands in the map.
    pub(super) named: bool,
    pub(super) record: Service,
    pub(super) schedules: Schedules,
    /// Ids by address, those of state *gone* included.
    pub(super) backends: BTreeMap<SocketAddr, u32>,
    pub(super) frontends: BTreeSet<SocketAddr>,
    /// Whether its backends were written without knowing all of them.
    pub(super) partial: bool,
}

// === impl Held ===

impl Held {
    pub(super) const fn is_valid(&self) -> bool {
        self.record.flags & SERVICE_VALID != 0
    }

    fn is_empty(&self) -> bool {
        !self.is_valid() && !self.named && self.backends.is_empty() && self.frontends.is_empty()
    }
}

/// The picture.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) limits: Limits,
    pub(super) services: BTreeMap<u32, Held>,
    pub(super) by_name: HashMap<ServiceName, u32>,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) frontends: HashMap<SocketAddr, u32>,
    /// Backends of states *draining* and *gone*: few, where all are many.
    pub(super) leaving: BTreeSet<u32>,
    /// Backends that began to serve since somebody last asked.
    pub(super) newcomers: BTreeSet<u32>,
    /// Services of which a backend was written since somebody last asked.
    pub(super) touched: BTreeSet<u32>,
    /// Backends of state *gone*, and in how many sweeps in a row each was idle.
    pub(super) gone: BTreeMap<u32, u32>,
    /// Backends that no service knows, left by a killed agent.
    pub(super) orphans: BTreeSet<u32>,
    /// Frontends that lead to a service which does not claim them.
    pub(super) strays: BTreeSet<SocketAddr>,
    pub(super) backend_ids: Ids,
    pub(super) extents: Extents,
    service_ids: Ids,
    frontends_v4: u32,
    /// Last generation of each service id: a reader that slept through a removal and a new service
    /// under the same id must see another one.
    generations: HashMap<u32, u32>,
    incarnation_next: u32,
    /// The highest incarnation in the maps. Its holder is never freed, so that an agent that
    /// adopts the maps can tell which incarnations were used.
    pub(super) incarnation_max: u32,
}

// === impl Kernel ===

impl Kernel {
    pub(super) fn new(limits: Limits) -> Self {
        Self::adopt(limits, &KernelState::default()).0
    }

    /// Builds the picture from what was read back. Also returns names of services whose slots
    /// cannot be trusted, and must be written anew.
    pub(super) fn adopt(limits: Limits, state: &KernelState) -> (Self, BTreeSet<ServiceName>) {
        let (owners, used) = used_extents(state);
        let (extents, refused) = Extents::new(limits.chunks, &used);
        let backend_ids = state.backends.keys().copied().collect();
        let service_ids = state.services.keys().copied();
        let named = state.backends.values().map(|backend| backend.service);
        let service_ids: BTreeSet<u32> =
            service_ids.chain(named).filter(|id| (1..limits.services).contains(id)).collect();
        let incarnation_max = state.backends.values().map(|b| b.incarnation).max().unwrap_or(0);
        let mut kernel = Self {
            limits,
            services: BTreeMap::new(),
            by_name: HashMap::new(),
            backends: BTreeMap::new(),
            frontends: HashMap::new(),
            leaving: BTreeSet::new(),
            newcomers: BTreeSet::new(),
            touched: BTreeSet::new(),
            gone: BTreeMap::new(),
            orphans: BTreeSet::new(),
            strays: BTreeSet::new(),
            backend_ids: Ids::new(1..limits.backends.max(1), &backend_ids),
            extents,
            service_ids: Ids::new(1..limits.services.max(1), &service_ids),
            frontends_v4: 0,
            generations: HashMap::new(),
            incarnation_next: incarnation_max.wrapping_add(1),
            incarnation_max,
        };
        for id in service_ids {
            kernel.services.insert(id, Held::default());
        }
        let mut suspects = kernel.adopt_services(state);
        for (index, (id, range)) in owners.iter().zip(used).enumerate() {
            let Some(held) = kernel.services.get_mut(id) else {
                continue;
            };
            if refused.contains(&index) {
                suspects.extend(held.name.clone());
            } else {
                held.schedules.extents.push(range);
            }
        }
        kernel.adopt_backends(state);
        for (address, service) in &state.frontends {
            kernel.land(&Write::Frontend { address: *address, service: *service });
            if !kernel.services.get(service).is_some_and(Held::is_valid) {
                kernel.strays.insert(*address);
            }
        }
        let ids: Vec<u32> = kernel.services.keys().copied().collect();
        for id in ids {
            kernel.release_if_empty(id);
        }
        (kernel, suspects)
    }

    fn adopt_services(&mut self, state: &KernelState) -> BTreeSet<ServiceName> {
        let mut suspects = BTreeSet::new();
        for (id, service) in &state.services {
            let Some(held) = self.services.get_mut(id) else {
                continue;
            };
            // A name that is damaged or a double is no service's; what it holds is taken apart.
            let name = ServiceName::new(&service.name).ok();
            let name = name.filter(|name| !self.by_name.contains_key(name));
            held.record = service.record;
            held.named = true;
            held.schedules.v4 = service.slots_v4.as_slice().into();
            held.schedules.v6 = service.slots_v6.as_slice().into();
            self.generations.insert(*id, service.record.generation);
            let bank = service.record.bank();
            if service.slots_v4.len() != bank.v4.slots as usize
                || service.slots_v6.len() != bank.v6.slots as usize
            {
                suspects.extend(name.clone());
            }
            if let Some(name) = name {
                self.by_name.insert(name.clone(), *id);
                held.name = Some(name);
            }
        }
        suspects
    }

    fn adopt_backends(&mut self, state: &KernelState) {
        for (id, record) in &state.backends {
            let address = socket(record);
            self.insert_backend(*id, record);
            if record.state == STATE_GONE {
                self.gone.insert(*id, 0);
            }
            let held = self.services.get_mut(&record.service);
            let known = held.as_ref().and_then(|held| held.backends.get(&address)).copied();
            let known_is_gone = known.is_none_or(|known| self.gone.contains_key(&known));
            let kept = match held {
                Some(held) if known_is_gone => {
                    held.backends.insert(address, *id);
                    held.name.is_some()
                }
                _ => false,
            };
            if !kept && record.state != STATE_GONE {
                self.orphans.insert(*id);
            }
        }
    }

    /// Follows one write that landed.
    pub(super) fn land(&mut self, write: &Write) {
        match write {
            Write::Backend { id, record } => self.land_backend(*id, record),
            Write::Name { service, .. } => {
                self.services.entry(*service).or_default().named = true;
            }
            Write::NameRemoved { service } => {
                self.services.entry(*service).or_default().named = false;
            }
            Write::Service { id, record } => {
                self.services.entry(*id).or_default().record = *record;
                if record.flags & SERVICE_VALID != 0 {
                    self.generations.insert(*id, record.generation);
                }
            }
            Write::Frontend { address, service } => {
                self.remove_frontend(*address);
                self.frontends.insert(*address, *service);
                self.frontends_v4 += u32::from(address.is_ipv4());
                if let Some(held) = self.services.get_mut(service) {
                    held.frontends.insert(*address);
                }
            }
            Write::FrontendRemoved { address } => {
                self.remove_frontend(*address);
                self.strays.remove(address);
            }
            Write::BackendStatsReset { .. }
            | Write::ServiceStatsReset { .. }
            | Write::Slots { .. }
            | Write::Cursor { .. } => {}
        }
    }

    fn insert_backend(&mut self, id: u32, record: &Backend) {
        self.touched.insert(record.service);
        let served =
            |old: &Backend| old.state == STATE_ACTIVE && old.incarnation == record.incarnation;
        let has_served = self.backends.insert(id, *record).is_some_and(|old| served(&old));
        if record.state != STATE_ACTIVE {
            self.newcomers.remove(&id);
        } else if !has_served {
            self.newcomers.insert(id);
        }
        if matches!(record.state, STATE_DRAINING | STATE_GONE) {
            self.leaving.insert(id);
        } else {
            self.leaving.remove(&id);
        }
    }

    fn land_backend(&mut self, id: u32, record: &Backend) {
        if *record == Backend::default() {
            let Some(old) = self.backends.remove(&id) else {
                return;
            };
            self.leaving.remove(&id);
            self.newcomers.remove(&id);
            self.gone.remove(&id);
            self.orphans.remove(&id);
            self.backend_ids.put(id);
            self.touched.insert(old.service);
            let address = socket(&old);
            if let Some(held) = self.services.get_mut(&old.service)
                && held.backends.get(&address) == Some(&id)
            {
                held.backends.remove(&address);
            }
            self.release_if_empty(old.service);
            return;
        }
        self.incarnation_max = self.incarnation_max.max(record.incarnation);
        self.insert_backend(id, record);
        if record.state == STATE_GONE {
            self.gone.entry(id).or_insert(0);
            self.orphans.remove(&id);
        } else {
            self.gone.remove(&id);
            self.services.entry(record.service).or_default().backends.insert(socket(record), id);
        }
    }

    fn remove_frontend(&mut self, address: SocketAddr) {
        if let Some(owner) = self.frontends.remove(&address) {
            self.frontends_v4 -= u32::from(address.is_ipv4());
            if let Some(held) = self.services.get_mut(&owner) {
                held.frontends.remove(&address);
            }
        }
    }

    /// Frontends of one family.
    pub(super) fn frontend_count(&self, v4: bool) -> u32 {
        let all = u32::try_from(self.frontends.len()).unwrap_or(u32::MAX);
        if v4 { self.frontends_v4 } else { all - self.frontends_v4 }
    }

    /// The service of that name, with its id.
    pub(super) fn find(&self, name: &ServiceName) -> Option<(u32, &Held)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.services.get(&id)?))
    }

    /// Takes an id for a new service.
    pub(super) fn reserve_service(&mut self, name: &ServiceName) -> Option<u32> {
        let id = self.service_ids.take()?;
        self.services.insert(id, Held { name: Some(name.clone()), ..Held::default() });
        self.by_name.insert(name.clone(), id);
        Some(id)
    }

    /// How many services can be added.
    pub(super) fn services_available(&self) -> u64 {
        self.service_ids.available()
    }

    /// Frees a service id that nothing names any more.
    pub(super) fn release_if_empty(&mut self, id: u32) {
        if self.services.get(&id).is_none_or(|held| !held.is_empty()) {
            return;
        }
        if let Some(held) = self.services.remove(&id) {
            for extent in held.schedules.extents {
                self.extents.put(extent);
            }
            if let Some(name) = held.name {
                self.by_name.remove(&name);
            }
            if (1..self.limits.services).contains(&id) {
                self.service_ids.put(id);
            }
        }
    }

    /// The generation for a service's next set of backends.
    pub(super) fn generation_next(&self, id: u32) -> u32 {
        self.generations.get(&id).map_or(0, |generation| generation.wrapping_add(1))
    }

    /// A fresh incarnation.
    pub(super) const fn incarnation(&mut self) -> u32 {
        let incarnation = self.incarnation_next;
        self.incarnation_next = incarnation.wrapping_add(1);
        incarnation
    }
}

/// Where a backend's record says that it listens.
pub(super) fn socket(record: &Backend) -> SocketAddr {
    SocketAddr::new(IpAddr::from(record.address), u16::from_be(record.port_be))
}

/// A backend's record.
pub(super) fn record_of(address: SocketAddr) -> Backend {
    let ip = Address::from(address.ip());
    Backend {
        address: ip,
        port_be: address.port().to_be(),
        family: ip.family(),
        ..Backend::default()
    }
}

/// The extents that the banks in force point to, with the service each one belongs to.
fn used_extents(state: &KernelState) -> (Vec<u32>, Vec<Range<u32>>) {
    let extent = |schedule: Schedule| {
        let chunks = u32::try_from((schedule.slots as usize).div_ceil(CHUNK_SLOTS)).unwrap_or(0);
        schedule.chunk..schedule.chunk.saturating_add(chunks)
    };
    let mut used = (Vec::new(), Vec::new());
    for (id, service) in &state.services {
        let bank = service.record.bank();
        let (v4, v6) = (extent(bank.v4), extent(bank.v6));
        for range in [Some(&v4), Some(&v6).filter(|v6| **v6 != v4)].into_iter().flatten() {
            if !range.is_empty() {
                used.0.push(*id);
                used.1.push(range.clone());
            }
        }
    }
    used
}
