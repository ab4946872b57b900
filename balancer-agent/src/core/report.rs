//! What the core knows of its services, for people and for the admin socket.

use super::{
    Core, desired,
    model::{Lookup, Service},
};
use balancer_common::backend::state_name;
use std::net::SocketAddr;

/// A service as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// Who declared it.
    pub source: String,
    /// Its id in the maps, if it is there.
    pub id: Option<u32>,
    /// How a backend is picked.
    pub policy: &'static str,
    /// Session affinity in seconds; zero is off.
    pub affinity_s: u32,
    /// Whether connections are tracked.
    pub tracked: bool,
    /// What clients dial, without what another service keeps.
    pub frontends: Vec<SocketAddr>,
    /// What serves.
    pub backends: Vec<BackendReport>,
    /// DNS sets that it needs and that nobody has told of yet.
    pub waits_for: Vec<String>,
    /// Whether writing it has failed and will be tried again.
    pub failed: bool,
}

/// A backend as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BackendReport {
    /// Where it listens.
    pub address: SocketAddr,
    /// `active`, `ejected` or `draining`.
    pub state: &'static str,
    /// Its share.
    pub weight: u32,
    /// Its id in the maps, if it is there.
    pub id: Option<u32>,
}

// === impl Core ===

impl Core {
    /// Every declared service, in the order of names.
    pub fn report(&self) -> Vec<ServiceReport> {
        self.observed
            .services()
            .filter_map(|(source, service)| self.report_service(&source.to_string(), service))
            .collect()
    }

    fn report_service(&self, source: &str, service: &Service) -> Option<ServiceReport> {
        let desired = self.desired(&service.name)?;
        let found = self.kernel.find(&service.name).filter(|(_, held)| held.is_valid());
        let id_of = |address| found.and_then(|(_, held)| held.backends.get(address)).copied();
        let backends = desired.backends.iter().map(|(address, backend)| BackendReport {
            address: *address,
            state: state_name(backend.state.code()),
            weight: backend.weight,
            id: id_of(address),
        });
        let unknown = |lookup: &&Lookup| !self.observed.sets.contains_key(*lookup);
        let mut waits_for: Vec<String> =
            service.lookups().filter(unknown).map(Lookup::to_string).collect();
        waits_for.sort_unstable();
        waits_for.dedup();
        Some(ServiceReport {
            name: service.name.to_string(),
            source: source.to_owned(),
            id: found.map(|(id, _)| id),
            policy: desired::effective_policy(service).name(),
            affinity_s: desired.affinity_s,
            tracked: service.tracked,
            frontends: desired.frontends.iter().copied().collect(),
            backends: backends.collect(),
            waits_for,
            failed: self.failed.contains(&service.name),
        })
    }
}
