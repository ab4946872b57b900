//! Maps in memory that choose as the kernel programs do: what simulations and property tests run
//! the core against. It stands in the library so that unit and integration tests share it.

use super::{
    kernel::socket,
    write::{KernelService, KernelState, Limits, Write},
};
use balancer_common::{
    backend::{Backend, STATE_ACTIVE},
    pick::{Load, least_loaded, mix, slot_of_cursor},
    service::{
        CHUNK_SLOTS, POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST, POLICY_MAGLEV, POLICY_RANDOM,
        SERVICE_VALID, Schedule, Service, SlotChunk,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

/// A connection that a client made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where it went.
    pub address: SocketAddr,
    /// The backend's id.
    pub backend: u32,
    /// The backend's incarnation when it was chosen.
    pub incarnation: u32,
}

/// The maps.
#[derive(Clone, Debug)]
pub struct FakeDatapath {
    limits: Limits,
    services: BTreeMap<u32, Service>,
    names: BTreeMap<u32, String>,
    slots: Vec<SlotChunk>,
    backends: BTreeMap<u32, Backend>,
    active: BTreeMap<u32, u64>,
    frontends: BTreeMap<SocketAddr, u32>,
    cursors: HashMap<u32, u64>,
    pod_cursors: HashMap<(u64, u32), u64>,
    random: u64,
}

/// A write that the real maps would refuse, or that readers could stumble over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{write:?}: {cause}")]
pub struct Refused {
    /// The write.
    pub write: Write,
    /// What is wrong with it.
    pub cause: &'static str,
}

// === impl FakeDatapath ===

impl FakeDatapath {
    /// Empty maps.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            slots: vec![SlotChunk::default(); limits.chunks as usize],
            backends: BTreeMap::new(),
            active: BTreeMap::new(),
            frontends: BTreeMap::new(),
            cursors: HashMap::new(),
            pod_cursors: HashMap::new(),
            random: 1,
        }
    }

    /// Applies one write.
    ///
    /// # Errors
    /// Says which bound or order the write breaks.
    pub fn apply(&mut self, write: &Write) -> Result<(), Refused> {
        let refuse = |cause| Err(Refused { write: write.clone(), cause });
        match write {
            Write::Backend { id, record } => return self.apply_backend(*id, record, write),
            Write::BackendStatsReset { id } => {
                if self.backends.contains_key(id) {
                    return refuse("the counters are in use");
                }
                self.active.remove(id);
            }
            Write::ServiceStatsReset { id } => {
                if self.services.contains_key(id) {
                    return refuse("the counters are in use");
                }
            }
            Write::Slots { chunk, slots } => {
                if *chunk >= self.limits.chunks {
                    return refuse("no such chunk");
                }
                if self.chunk_in_force(*chunk) {
                    return refuse("a bank in force points to the chunk");
                }
                self.slots[*chunk as usize] = *slots;
            }
            Write::Cursor { service, cursor } => {
                self.cursors.insert(*service, *cursor);
            }
            Write::Name { service, name } => {
                if *service == 0 || *service >= self.limits.services {
                    return refuse("no such service id");
                }
                self.names.insert(*service, name.clone());
            }
            Write::NameRemoved { service } => {
                if self.services.contains_key(service) {
                    return refuse("the service is valid");
                }
                self.names.remove(service);
            }
            Write::Service { id, record } => return self.apply_service(*id, record, write),
            Write::Frontend { address, service } => {
                if !self.services.contains_key(service) {
                    return refuse("the service is not valid");
                }
                self.frontends.insert(*address, *service);
                let same_family = |a: &&SocketAddr| a.is_ipv4() == address.is_ipv4();
                let count = self.frontends.keys().filter(same_family).count();
                if count > self.limits.frontends as usize {
                    self.frontends.remove(address);
                    return refuse("the frontends are full");
                }
            }
            Write::FrontendRemoved { address } => {
                if self.frontends.remove(address).is_none() {
                    return refuse("no such frontend");
                }
            }
        }
        Ok(())
    }

    fn apply_backend(&mut self, id: u32, record: &Backend, write: &Write) -> Result<(), Refused> {
        let refuse = |cause| Err(Refused { write: write.clone(), cause });
        if id == 0 || id >= self.limits.backends {
            return refuse("no such backend id");
        }
        let old = self.backends.get(&id);
        if record.state != STATE_ACTIVE && self.is_in_force(id) {
            return refuse("the backend still stands in slots in force");
        }
        if *record == Backend::default() {
            if self.active(id) > 0 {
                return refuse("the backend has connections");
            }
            self.backends.remove(&id);
        } else {
            let same = |old: &Backend| socket(old) == socket(record);
            if old.is_none_or(|old| !same(old)) && record.incarnation == 0 {
                return refuse("an incarnation starts at one");
            }
            if old.is_some_and(|old| !same(old) || old.incarnation != record.incarnation) {
                return refuse("the id belongs to another backend");
            }
            self.backends.insert(id, *record);
        }
        Ok(())
    }

    fn apply_service(&mut self, id: u32, record: &Service, write: &Write) -> Result<(), Refused> {
        let refuse = |cause| Err(Refused { write: write.clone(), cause });
        if id == 0 || id >= self.limits.services {
            return refuse("no such service id");
        }
        if record.flags & SERVICE_VALID == 0 {
            if self.frontends.values().any(|service| *service == id) {
                return refuse("a frontend leads to the service");
            }
            self.services.remove(&id);
            return Ok(());
        }
        if !self.names.contains_key(&id) {
            return refuse("the service has no name");
        }
        if let Some(old) = self.services.get(&id)
            && old.generation == record.generation
            && old.bank() != record.bank()
        {
            return refuse("the bank in force changes without a new generation");
        }
        for schedule in [record.bank().v4, record.bank().v6] {
            for backend in self.distinct(schedule) {
                let backend = self.backends.get(&backend);
                if !backend.is_some_and(|b| b.state == STATE_ACTIVE && b.service == id) {
                    return refuse("a slot in force holds no active backend of the service");
                }
            }
        }
        self.services.insert(id, *record);
        Ok(())
    }

    /// Applies writes in order up to the first that the caller fails or the maps refuse; returns
    /// how many landed.
    ///
    /// # Errors
    /// As [`Self::apply`]; a correct core never causes one.
    pub fn apply_all(
        &mut self,
        writes: &[Write],
        mut fails: impl FnMut(&Self) -> bool,
    ) -> Result<usize, Refused> {
        for (landed, write) in writes.iter().enumerate() {
            if fails(self) {
                return Ok(landed);
            }
            self.apply(write)?;
        }
        Ok(writes.len())
    }

    /// A `connect()` of `pod`: where it goes, or `None` if it is left untouched.
    pub fn connect(&mut self, frontend: SocketAddr, pod: u64) -> Option<Connection> {
        let service = *self.frontends.get(&frontend)?;
        let bank = *self.services.get(&service)?.bank();
        let schedule = if frontend.is_ipv4() { bank.v4 } else { bank.v6 };
        if schedule.slots == 0 {
            return None;
        }
        let slot = match bank.policy {
            POLICY_MAGLEV => slot_of_cursor(mix(pod), schedule.slots),
            POLICY_RANDOM => slot_of_cursor(self.random(), schedule.slots),
            // No requests here.
            POLICY_LEAST_CONNECTION | POLICY_LEAST_REQUEST => {
                let cursor = self.advance(pod, service);
                let random = u32::try_from(self.random() >> 32).unwrap_or_default();
                least_loaded(
                    cursor,
                    || random,
                    schedule.slots,
                    |slot| {
                        let id = self.slot(schedule, slot);
                        let backend = self.backends.get(&id)?;
                        let usable = backend.state == STATE_ACTIVE;
                        usable.then(|| Load { active: self.active(id), weight: backend.weight })
                    },
                )
            }
            _ => slot_of_cursor(self.advance(pod, service), schedule.slots),
        };
        let id = self.slot(schedule, slot);
        let backend = self.backends.get(&id).filter(|backend| backend.state == STATE_ACTIVE)?;
        let connection =
            Connection { address: socket(backend), backend: id, incarnation: backend.incarnation };
        *self.active.entry(id).or_default() += 1;
        Some(connection)
    }

    /// Where a `connect()` to `frontend` may go, whatever the pod and the policy.
    pub fn reachable(&self, frontend: SocketAddr) -> BTreeSet<SocketAddr> {
        let service = self.frontends.get(&frontend).and_then(|id| self.services.get(id));
        let schedule = service.map(Service::bank);
        let schedule = schedule.map(|bank| if frontend.is_ipv4() { bank.v4 } else { bank.v6 });
        let ids = self.distinct(schedule.unwrap_or_default());
        ids.iter().filter_map(|id| self.backends.get(id)).map(socket).collect()
    }

    /// Every frontend with the name of its service.
    pub fn frontends(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        let name = |id| self.names.get(id).map_or("", String::as_str);
        self.frontends.iter().map(move |(address, id)| (*address, name(id)))
    }

    /// A connection ends.
    pub fn close(&mut self, connection: &Connection) {
        let backend = self.backends.get(&connection.backend);
        if backend.is_some_and(|b| b.incarnation == connection.incarnation)
            && let Some(active) = self.active.get_mut(&connection.backend)
        {
            *active = active.saturating_sub(1);
        }
    }

    /// Connections of a backend id.
    pub fn active(&self, id: u32) -> u64 {
        self.active.get(&id).copied().unwrap_or_default()
    }

    /// Reads everything back, as an agent does that adopts the maps.
    pub fn read_back(&self) -> KernelState {
        let slots = |schedule: Schedule| {
            (0..schedule.slots).map(|slot| self.slot(schedule, slot)).collect()
        };
        let service = |(id, record): (&u32, &Service)| {
            let bank = record.bank();
            let name = self.names.get(id).cloned().unwrap_or_default();
            let (slots_v4, slots_v6) = (slots(bank.v4), slots(bank.v6));
            (*id, KernelService { name, record: *record, slots_v4, slots_v6 })
        };
        KernelState {
            services: self.services.iter().map(service).collect(),
            backends: self.backends.clone(),
            frontends: self.frontends.clone(),
        }
    }

    /// A pod's first connection to a service takes the service's cursor and goes on from there.
    fn advance(&mut self, pod: u64, service: u32) -> u64 {
        let first = self.cursors.entry(service).or_default();
        let own = self.pod_cursors.entry((pod, service)).or_insert_with(|| {
            let cursor = *first;
            *first = first.wrapping_add(1);
            cursor
        });
        let cursor = *own;
        *own = own.wrapping_add(1);
        cursor
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random)
    }

    fn slot(&self, schedule: Schedule, slot: u32) -> u32 {
        let (chunk, index) = (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS);
        let chunk = schedule.chunk + u32::try_from(chunk).unwrap_or(u32::MAX / 2);
        self.slots.get(chunk as usize).map_or(0, |slots| slots.backends[index])
    }

    /// The backend ids in a schedule, each once.
    fn distinct(&self, schedule: Schedule) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..schedule.slots).map(|slot| self.slot(schedule, slot)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn schedules_in_force(&self) -> impl Iterator<Item = Schedule> {
        self.services.values().flat_map(|service| [service.bank().v4, service.bank().v6])
    }

    fn is_in_force(&self, backend: u32) -> bool {
        // Only the service that the record names can have the backend in its slots.
        let service = self.backends.get(&backend).and_then(|b| self.services.get(&b.service));
        let mut schedules = service.into_iter().flat_map(|s| [s.bank().v4, s.bank().v6]);
        schedules
            .any(|schedule| (0..schedule.slots).any(|slot| self.slot(schedule, slot) == backend))
    }

    fn chunk_in_force(&self, chunk: u32) -> bool {
        self.schedules_in_force().any(|schedule| {
            let chunks = u32::try_from((schedule.slots as usize).div_ceil(CHUNK_SLOTS));
            (schedule.chunk..schedule.chunk.saturating_add(chunks.unwrap_or(0))).contains(&chunk)
        })
    }
}
