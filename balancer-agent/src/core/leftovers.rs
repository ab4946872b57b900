//! Taking apart what nobody declares: services, stray frontends, orphaned and idle backends.

use super::{
    Core, IDLE_SWEEPS,
    desired::Desired,
    model::ServiceName,
    plan::{self, Change, ChangeKind, Reservation},
    write::Write,
};
use balancer_common::backend::Backend;
use std::{collections::BTreeSet, net::SocketAddr};

// === impl Core ===

impl Core {
    /// Frees the ids of backends that are gone and were found without connections
    /// [`IDLE_SWEEPS`] times in a row; `active` tells the connections of a backend id. To be
    /// called every few seconds, while no other change is being applied.
    pub fn sweep(&mut self, active: impl Fn(u32) -> u64) -> Option<Change> {
        let mut writes = Vec::new();
        for (id, idle) in &mut self.kernel.gone {
            *idle = if active(*id) == 0 { idle.saturating_add(1) } else { 0 };
            let record = self.kernel.backends.get(id);
            let newest = record.is_some_and(|r| r.incarnation == self.kernel.incarnation_max);
            if *idle >= IDLE_SWEEPS && !newest {
                writes.push(Write::Backend { id: *id, record: Backend::default() });
            }
        }
        let kind = ChangeKind::Swept;
        let change = Change { service: None, kind, writes, reservation: Reservation::default() };
        (!change.writes.is_empty()).then_some(change)
    }

    /// Frontends that a service gives up, although nothing else of its change fits.
    pub(super) fn plan_letting_go(
        &self,
        name: &ServiceName,
        desired: &Desired,
        moving: &BTreeSet<SocketAddr>,
    ) -> Option<Change> {
        let (id, held) = self.kernel.find(name)?;
        let lost = held.frontends.difference(&desired.frontends);
        let lost = lost.filter(|address| !moving.contains(address));
        let writes: Vec<Write> =
            lost.map(|address| Write::FrontendRemoved { address: *address }).collect();
        let reservation = Reservation { service: Some(id), ..Reservation::default() };
        let (service, kind) = (Some(name.clone()), ChangeKind::Updated);
        let change = Change { service, kind, writes, reservation };
        (!change.writes.is_empty()).then_some(change)
    }

    pub(super) fn plan_removal(&mut self, id: u32) -> Option<Change> {
        let name = self.kernel.services.get(&id)?.name.clone();
        // It may have been declared anew since.
        if name.is_some_and(|name| self.observed.service(&name).is_some()) {
            return None;
        }
        plan::remove(&self.kernel, id)
    }

    pub(super) fn plan_tidying(&mut self) -> Option<Change> {
        let kernel = &self.kernel;
        let name_of = |id| kernel.services.get(id).and_then(|held| held.name.as_ref());
        let observed = &self.observed;
        let is_stray = |address: &SocketAddr| match kernel.frontends.get(address).map(name_of) {
            None => false,
            Some(None) => true,
            Some(Some(name)) => observed.owner(address) != Some(name),
        };
        let strays: BTreeSet<SocketAddr> =
            kernel.strays.iter().filter(|address| is_stray(address)).copied().collect();
        let mut writes: Vec<Write> =
            strays.iter().map(|address| Write::FrontendRemoved { address: *address }).collect();
        writes.extend(plan::gone_writes(kernel, kernel.orphans.iter().copied()));
        self.kernel.strays = strays;
        let kind = ChangeKind::Tidied;
        let change = Change { service: None, kind, writes, reservation: Reservation::default() };
        (!change.writes.is_empty()).then_some(change)
    }
}
