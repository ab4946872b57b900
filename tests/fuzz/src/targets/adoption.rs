//! Adoption of pinned maps, whatever they hold: the next agent makes them as they should be.

use super::Numbers;
use balancer_agent::{
    config::Config,
    core::{
        Core,
        event::{Event, Source},
        write::{KernelService, KernelState, Limits, Write},
    },
};
use balancer_common::{
    backend::Backend,
    service::{CHUNK_SLOTS, SERVICE_VALID, Schedule, Service, SlotChunk},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

const LIMITS: Limits =
    Limits { services: 16, backends: 64, frontends: 16, chunks: 64, flows: 64, pod_services: 64 };
/// Longest schedule that is read (`SCHEDULE_SLOTS_MAX` of the real reader is more).
const SLOTS_MAX: u32 = 256;
/// Changes that a plan may take.
const CHANGES_MAX: usize = 200;
const DESIRED: &str = "version: 1\nservices:\n\
    - name: one\n  frontends: ['10.0.0.1:80']\n  backends: [{address: 10.1.0.1:80}, {address: 10.1.0.2:80, weight: 3}]\n\
    - name: two\n  policy: maglev\n  frontends: ['10.0.0.2:80', '[fd00::2]:80']\n  backends: [{address: 10.1.0.3:80}, {address: '[fd00::3]:80', state: draining}]\n";

/// Maps without any rules.
#[derive(Clone, Debug, Default)]
struct Maps {
    services: BTreeMap<u32, Service>,
    names: BTreeMap<u32, String>,
    chunks: BTreeMap<u32, SlotChunk>,
    backends: BTreeMap<u32, Backend>,
    frontends: BTreeMap<SocketAddr, u32>,
}

impl Maps {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Backend { id, record } => {
                assert!((1..LIMITS.backends).contains(id), "{write:?}");
                self.backends.insert(*id, *record);
                self.backends.retain(|_, record| *record != Backend::default());
            }
            Write::Slots { chunk, slots } => {
                assert!(*chunk < LIMITS.chunks, "{write:?}");
                self.chunks.insert(*chunk, *slots);
            }
            Write::Name { service, name } => {
                assert!((1..LIMITS.services).contains(service), "{write:?}");
                self.names.insert(*service, name.clone());
            }
            Write::NameRemoved { service } => drop(self.names.remove(service)),
            Write::Service { id, record } => {
                assert!((1..LIMITS.services).contains(id), "{write:?}");
                self.services.insert(*id, *record);
            }
            Write::Frontend { address, service } => {
                assert!(self.frontends.len() <= 2 * LIMITS.frontends as usize, "{write:?}");
                self.frontends.insert(*address, *service);
            }
            Write::FrontendRemoved { address } => drop(self.frontends.remove(address)),
            Write::BackendStatsReset { .. }
            | Write::ServiceStatsReset { .. }
            | Write::Cursor { .. } => {}
        }
    }

    fn slots(&self, schedule: Schedule) -> Vec<u32> {
        let slot = |slot: u32| {
            let (chunk, index) = (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS);
            let chunk = schedule.chunk.saturating_add(u32::try_from(chunk).unwrap_or(u32::MAX));
            self.chunks.get(&chunk).map_or(0, |slots| slots.backends[index])
        };
        (0..schedule.slots.min(SLOTS_MAX)).map(slot).collect()
    }

    /// As the real reader does.
    fn read_back(&self) -> KernelState {
        let named = self.names.iter().filter_map(|(id, name)| {
            let record = *self.services.get(id)?;
            let bank = record.bank();
            let (slots_v4, slots_v6) = (self.slots(bank.v4), self.slots(bank.v6));
            let service = KernelService { name: name.clone(), record, slots_v4, slots_v6 };
            (record.flags & SERVICE_VALID != 0).then_some((*id, service))
        });
        KernelState {
            services: named.collect(),
            backends: self.backends.clone(),
            frontends: self.frontends.clone(),
        }
    }

    /// One change that no agent would make.
    fn damage(&mut self, numbers: &mut Numbers<'_>) {
        let id = 1 + u32::from(numbers.byte()) % 15;
        match numbers.byte() % 6 {
            0 => {
                let mut record: Service = bytemuck::cast(numbers.array::<80>());
                record.flags |= SERVICE_VALID;
                self.services.insert(id, record);
            }
            1 => {
                let name = numbers.array::<6>();
                let name =
                    if name[0] < 64 { "one".into() } else { String::from_utf8_lossy(&name).into() };
                self.names.insert(id, name);
            }
            2 => {
                let mut slots = SlotChunk::default();
                slots.backends = slots.backends.map(|_| u32::from(numbers.byte()));
                self.chunks.insert(id, slots);
            }
            3 => {
                self.backends.insert(id, bytemuck::cast(numbers.array::<40>()));
            }
            4 => {
                let v4 = SocketAddr::new(Ipv4Addr::from(numbers.array::<4>()).into(), 80);
                let v6 = SocketAddr::new(Ipv6Addr::from(numbers.array::<16>()).into(), 80);
                self.frontends.insert(if id % 2 == 0 { v4 } else { v6 }, u32::from(numbers.byte()));
            }
            _ => {
                self.services.remove(&id);
                self.backends.remove(&(id + 1));
            }
        }
    }
}

/// Plans until there is nothing to plan, and carries it out.
fn reconcile(maps: &mut Maps) {
    let mut core = Core::new(LIMITS, 0, [Source::File]);
    core.adopt(&maps.read_back());
    let services = Config::parse(DESIRED, "balancer.yaml").expect("valid").services;
    core.observe(Event::Snapshot { source: Source::File, services });
    for _ in 0..CHANGES_MAX {
        let Some(change) = core.plan() else {
            let differences = core.differences(&maps.read_back());
            assert!(differences.is_empty(), "not as desired: {differences:?}");
            return;
        };
        change.writes.iter().for_each(|write| maps.apply(write));
        let landed = change.writes.len();
        core.applied(change, landed);
    }
    panic!("the plan never ends");
}

/// What an earlier agent wrote, then up to 16 records that are anything.
pub fn adopt(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let mut maps = Maps::default();
    if numbers.byte() & 1 == 0 {
        reconcile(&mut maps);
    }
    for _ in 0..numbers.byte() % 16 {
        maps.damage(&mut numbers);
    }
    reconcile(&mut maps);
}
