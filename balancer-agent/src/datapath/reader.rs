//! Reads the maps back: what an agent adopts, and what commands show.

use super::maps::Maps;
use crate::core::write::{KernelService, KernelState};
use aya::maps::MapError;
use balancer_common::{
    address::Address,
    backend::{Backend, BackendStats},
    flow::Flow,
    http2::{
        flow::{Http2Flow, Http2Key},
        gate::{CLOSED, DEAD},
    },
    reason::Reason,
    service::{CHUNK_SLOTS, SCHEDULE_SLOTS_MAX, SERVICE_SELF_TEST, SERVICE_VALID, Schedule},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// The address and port of a shared record.
pub fn socket_address(address: Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), u16::from_be(port_be))
}

impl Maps {
    /// All services, backends and frontends.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_state(&self) -> Result<KernelState, MapError> {
        let mut state = KernelState::default();
        for entry in &self.service_names {
            let (id, name) = entry?;
            let id = id.0;
            if id == SERVICE_SELF_TEST {
                continue;
            }
            let record = self.services.get(&id, 0)?.0;
            if record.flags & SERVICE_VALID == 0 {
                continue;
            }
            let bank = record.bank();
            let service = KernelService {
                name: name.0.to_string(),
                record,
                slots_v4: self.read_schedule(bank.v4)?,
                slots_v6: self.read_schedule(bank.v6)?,
            };
            state.services.insert(id, service);
        }
        state.backends = self.read_backends()?;
        for entry in &self.frontends_v4 {
            let (key, frontend) = entry?;
            let address = Address::from_v4(key.0.address_be);
            state.frontends.insert(socket_address(address, key.0.port_be), frontend.0.service);
        }
        for entry in &self.frontends_v6 {
            let (key, frontend) = entry?;
            state
                .frontends
                .insert(socket_address(key.0.address, key.0.port_be), frontend.0.service);
        }
        state.frontends.retain(|_, service| *service != SERVICE_SELF_TEST);
        Ok(state)
    }

    /// The backend ids in the slots of a schedule.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_schedule(&self, schedule: Schedule) -> Result<Vec<u32>, MapError> {
        let slots = schedule.slots.min(SCHEDULE_SLOTS_MAX) as usize;
        let mut backends = Vec::with_capacity(slots);
        let mut chunk = schedule.chunk;
        while backends.len() < slots {
            backends.extend_from_slice(&self.slots.get(&chunk, 0)?.0.backends);
            chunk += 1;
        }
        debug_assert!(backends.len() < slots + CHUNK_SLOTS);
        backends.truncate(slots);
        Ok(backends)
    }

    /// Every used backend id, with its record.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_backends(&self) -> Result<BTreeMap<u32, Backend>, MapError> {
        let mut backends = BTreeMap::new();
        for id in 1..self.limits.backends {
            let record = self.backends.get(&id, 0)?.0;
            if record.state != 0 && record.service != SERVICE_SELF_TEST {
                backends.insert(id, record);
            }
        }
        Ok(backends)
    }

    /// The counters of a backend.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_backend_stats(&self, id: u32) -> Result<BackendStats, MapError> {
        Ok(self.backend_stats.get(&id, 0)?.0)
    }

    /// All tracked connections by socket cookie.
    ///
    /// Connections that begin or end meanwhile may be missing.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_flows(&self) -> Result<BTreeMap<u64, Flow>, MapError> {
        self.flows.read()
    }

    /// All connections whose frames are followed and whose clients' sockets are open, by socket cookie.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_http2_flows(&self) -> Result<BTreeMap<u64, (Http2Key, Http2Flow)>, MapError> {
        let is_live = |flow: &Http2Flow| flow.gate & (CLOSED | DEAD) == 0;
        let entries = self.http2_flows.iter().filter_map(|entry| match entry {
            Ok((key, flow)) => is_live(&flow.0).then_some(Ok((flow.0.cookie, (key.0, flow.0)))),
            Err(error) => Some(Err(error)),
        });
        entries.collect()
    }

    /// How often each outcome happened, over all CPUs.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_reasons(&self) -> Result<BTreeMap<Reason, u64>, MapError> {
        Reason::ALL
            .iter()
            .map(|reason| {
                let per_cpu = self.reasons.get(&(*reason as u32), 0)?;
                Ok((*reason, per_cpu.iter().copied().fold(0, u64::wrapping_add)))
            })
            .collect()
    }
}
