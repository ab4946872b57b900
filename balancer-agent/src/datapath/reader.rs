//! Reads the maps back: what an agent adopts, and what commands show.

use super::{maps::Maps, raw::Raw, writer::absent_is_fine};
use crate::core::write::{KernelService, KernelState};
use aya::maps::MapError;
use balancer_common::{
    abi::HTTP2_IN_FLIGHT_MAX,
    address::Address,
    backend::{Backend, BackendStats},
    flow::Flow,
    http2::{
        counts::{Http2Totals, Http2TotalsKey},
        flow::{Http2Flow, Http2Key},
        gate::{CLOSED, DEAD},
    },
    reason::Reason,
    service::{CHUNK_SLOTS, SCHEDULE_SLOTS_MAX, SERVICE_SELF_TEST, SERVICE_VALID, Schedule},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// What [`Maps::read_http2_counts`] found.
#[derive(Clone, Debug, Default)]
pub struct Http2CountsRead {
    /// Connections whose counters are not in the totals.
    pub flows: Vec<Http2Flow>,
    /// Totals of backends.
    pub totals: BTreeMap<Http2TotalsKey, Http2Totals>,
}

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

    /// The backend ids in the slots of a schedule; fewer than it should have, if it leads out of the table: then
    /// its service is written anew.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_schedule(&self, schedule: Schedule) -> Result<Vec<u32>, MapError> {
        let slots = schedule.slots.min(SCHEDULE_SLOTS_MAX) as usize;
        let mut backends = Vec::with_capacity(slots);
        for chunk in schedule.chunk..self.limits.chunks {
            if backends.len() >= slots {
                break;
            }
            backends.extend_from_slice(&self.slots.get(&chunk, 0)?.0.backends);
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

    /// What HTTP/2 connections counted: those whose counters are not in the totals, and the totals. Read in
    /// this order, so that what is settled meanwhile is told twice and not left out.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_http2_counts(&self) -> Result<Http2CountsRead, MapError> {
        let mut read = Http2CountsRead::default();
        for entry in &self.http2_flows {
            let (_, flow) = entry?;
            if !flow.0.is_settled() {
                read.flows.push(flow.0);
            }
        }
        for entry in &self.http2_totals {
            let (key, totals) = entry?;
            read.totals.insert(key.0, totals.0);
        }
        Ok(read)
    }

    /// Removes totals of backends that are gone: those in `gone` that still are, by what `is_known` says of
    /// their keys. Returns those that are gone and were not in `gone`, for the next time: a connection may
    /// outlive its backend a little, and be added to the totals.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn sweep_http2_totals(
        &mut self,
        gone: &BTreeSet<Http2TotalsKey>,
        is_known: impl Fn(&Http2TotalsKey) -> bool,
    ) -> Result<BTreeSet<Http2TotalsKey>, MapError> {
        let mut left = BTreeSet::new();
        for key in self.http2_totals.keys() {
            let key = key?.0;
            if !is_known(&key) {
                left.insert(key);
            }
        }
        for key in left.intersection(gone) {
            absent_is_fine(self.http2_totals.remove(&Raw(*key)))?;
        }
        Ok(&left - gone)
    }

    /// Streams of a backend that are in flight, as `least-request` counts them.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_http2_in_flight(&self, backend: u32) -> Result<u64, MapError> {
        if backend as usize >= HTTP2_IN_FLIGHT_MAX {
            return Ok(0);
        }
        Ok(self.http2_in_flight.get(&backend, 0)?.0)
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
