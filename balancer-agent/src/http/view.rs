//! What a scrape tells, gathered: the state that `exposition` writes down.

use super::vitals::Vitals;
use crate::{
    core::requests::Requests,
    datapath::fill::TableUse,
    sources::dns::{DnsCounts, LookupHealth},
};
use balancer_common::{
    backend::{BackendStats, state_name},
    reason::Reason,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Add, AddAssign},
    sync::Arc,
};

/// Everything that a scrape tells.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What the daemon told; nothing if it did not answer.
    pub(super) vitals: Option<Vitals>,
    /// What the maps told; nothing if they could not be read.
    pub(super) kernel: Option<KernelView>,
    /// How each DNS set fares, by its name.
    pub(super) dns: Vec<LookupHealth>,
    /// What concerns all DNS sets.
    pub(super) dns_counts: DnsCounts,
    /// Services and DNS sets that have series of their own.
    pub(super) services_max: usize,
}

/// What the maps told.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelView {
    pub(super) reasons: BTreeMap<Reason, u64>,
    pub(super) tables: Vec<TableUse>,
    pub(super) services: BTreeMap<Arc<str>, ServiceView>,
    /// Those that have series of their own.
    pub(super) backends: BTreeMap<(Arc<str>, SocketAddr), BackendView>,
    /// Requests to those of them whose connections are followed.
    pub(super) requests: BTreeMap<(Arc<str>, SocketAddr), Requests>,
    /// How many have none.
    pub(super) backends_cut: usize,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceView {
    /// Whether its connections are followed to their end.
    pub(super) tracked: bool,
    /// Its backends by the name of their state.
    pub(super) backends: BTreeMap<&'static str, u64>,
    /// Connections that have not ended.
    pub(super) connections: u64,
    /// Since the agent started.
    pub(super) counts: Counts,
    /// Connections that were left alone since the agent started.
    pub(super) untouched: u64,
    /// Socket options that the kernel refused since the agent started.
    pub(super) socket_option_failures: u64,
}

/// A backend of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackendView {
    pub(super) tracked: bool,
    pub(super) state: u32,
    pub(super) weight: u32,
    pub(super) connections: u64,
    /// Since it joined the service.
    pub(super) counts: Counts,
    /// Zero before the first sample.
    pub(super) srtt_us: u64,
}

/// What the kernel counts for a backend, but for what goes up and down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) established: u64,
    pub(super) closed: u64,
    pub(super) reset: u64,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    pub(super) abandoned: u64,
    pub(super) retransmits: u64,
    pub(super) ejections: u64,
}

// === impl KernelView ===

impl KernelView {
    /// Adds a backend to its service, which is there, and to the first `max` backends.
    pub(super) fn add(
        &mut self,
        service: &Arc<str>,
        address: SocketAddr,
        backend: BackendView,
        max: usize,
    ) {
        if let Some(service) = self.services.get_mut(service) {
            *service.backends.entry(backend.state_name()).or_default() += 1;
            service.connections += backend.connections;
        }
        self.backends
            .entry((Arc::clone(service), address))
            .and_modify(|known| known.join(backend))
            .or_insert(backend);
        if self.backends.len() > max {
            self.backends.pop_last();
            self.backends_cut += 1;
        }
    }
}

// === impl BackendView ===

impl BackendView {
    /// The name of its state.
    pub(super) const fn state_name(&self) -> &'static str {
        state_name(self.state)
    }

    /// Joins two records of one address, such as one that is gone and its successor: two series of
    /// one name would void the whole scrape.
    pub(super) fn join(&mut self, other: Self) {
        let connections = self.connections + other.connections;
        // States are numbered by how much they may still do. Counts are those of one record: a sum
        // would fall when the other one goes.
        if other.state < self.state {
            *self = other;
        }
        self.connections = connections;
    }
}

// === impl Counts ===

impl From<BackendStats> for Counts {
    fn from(stats: BackendStats) -> Self {
        Self {
            opened: stats.picked,
            established: stats.established,
            closed: stats.closed,
            reset: stats.reset,
            refused: stats.refused,
            timed_out: stats.timed_out,
            abandoned: stats.abandoned,
            retransmits: stats.retransmits,
            ejections: stats.ejections,
        }
    }
}

impl Counts {
    /// How connections ended, by the names of the reasons.
    pub(super) const fn ended(&self) -> [(&'static str, u64); 5] {
        [
            ("closed", self.closed),
            ("reset", self.reset),
            ("refused", self.refused),
            ("timed-out", self.timed_out),
            ("abandoned", self.abandoned),
        ]
    }

    /// What was added since `earlier`.
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            opened: self.opened.saturating_sub(earlier.opened),
            established: self.established.saturating_sub(earlier.established),
            closed: self.closed.saturating_sub(earlier.closed),
            reset: self.reset.saturating_sub(earlier.reset),
            refused: self.refused.saturating_sub(earlier.refused),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            abandoned: self.abandoned.saturating_sub(earlier.abandoned),
            retransmits: self.retransmits.saturating_sub(earlier.retransmits),
            ejections: self.ejections.saturating_sub(earlier.ejections),
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            opened: self.opened + other.opened,
            established: self.established + other.established,
            closed: self.closed + other.closed,
            reset: self.reset + other.reset,
            refused: self.refused + other.refused,
            timed_out: self.timed_out + other.timed_out,
            abandoned: self.abandoned + other.abandoned,
            retransmits: self.retransmits + other.retransmits,
            ejections: self.ejections + other.ejections,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
