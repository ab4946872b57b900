//! From a desired service to the writes that make it so, in the order that keeps readers safe.
//!
//! Backends that may be chosen come first, then slots in extents that no bank in force points to,
//! the other bank, the flip; only then are backends taken out, frontends led here, and what left
//! is marked gone. A removal starts with the frontends.

mod limits;
mod slots;

use self::slots::{bank, fill, needs_flip, slot_writes, take_extents};
use super::{
    desired::{self, Desired},
    kernel::{Held, Kernel, Schedules, record_of},
    model::{EndpointState, ServiceName},
    problem::Problem,
    write::Write,
};
use balancer_common::{
    backend::{Backend, STATE_GONE},
    service::{SCHEDULE_SLOTS_MAX, Service},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// The writes of one service, to be applied in order, stopping at the first that fails.
///
/// Must be handed back to [`super::Core::applied`] with the number of writes that landed, before
/// the next one is planned: it holds ids and extents.
#[must_use = "hand it back to `Core::applied`, or its ids and extents are lost"]
#[derive(Debug)]
pub struct Change {
    /// What changes; `None` for cleaning up after services that are gone.
    pub service: Option<ServiceName>,
    /// What becomes of it.
    pub kind: ChangeKind,
    /// The writes, in order.
    pub writes: Vec<Write>,
    pub(super) reservation: Reservation,
}

/// What becomes of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its backends, frontends or settings change.
    Updated,
    /// It is removed.
    Removed,
    /// Leftovers are cleaned up: stray frontends, orphaned backends.
    Tidied,
    /// Ids of idle backends that are gone are freed.
    Swept,
}

/// What a planned change holds until it is applied.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    pub(super) service: Option<u32>,
    /// Backend ids taken for it.
    pub(super) backends: Vec<u32>,
    /// Schedules in force once the record has this generation.
    pub(super) schedules: Option<(u32, Schedules)>,
    pub(super) partial: Option<bool>,
}

/// What an update needs to know besides the kernel's picture.
pub(super) struct Request<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) desired: &'a Desired,
    /// Writes everything, whatever the picture says.
    pub(super) force: bool,
    /// First slot for a pod's first connection.
    pub(super) node_rank: u32,
    /// Frontends that go to a service which is planned later in this pass: that one leads them
    /// over, so that they are balanced without a gap.
    pub(super) moving: BTreeSet<SocketAddr>,
}

// === impl Request ===

impl<'a> Request<'a> {
    /// The same request for less.
    pub(super) fn with<'b>(&self, desired: &'b Desired) -> Request<'b>
    where
        'a: 'b,
    {
        Request { desired, moving: self.moving.clone(), ..*self }
    }
}

/// Plans a new or changed service. `None` if the kernel has it already.
pub(super) fn update(
    kernel: &mut Kernel,
    request: &Request<'_>,
) -> Result<Option<Change>, Problem> {
    let slots = desired::slots(request.desired.policy, &request.desired.backends);
    let Some(slots) = slots else {
        return Err(Problem::ScheduleTooLong {
            service: request.name.clone(),
            backends: request.desired.backends.len() as u64,
            limit: SCHEDULE_SLOTS_MAX,
        });
    };
    limits::check(kernel, request)?;
    let flips = needs_flip(kernel, request, &slots);
    let extents = if flips { take_extents(kernel, request.name, &slots)? } else { Vec::new() };
    let existing = kernel.find(request.name).map(|(id, held)| (id, held.is_valid()));
    let (id, valid) = match existing {
        Some(existing) => existing,
        // The limit was checked above.
        None => match kernel.reserve_service(request.name) {
            Some(id) => (id, false),
            None => return Ok(None),
        },
    };
    let mut draft = Draft { id, before: Vec::new(), after: Vec::new(), fresh: Vec::new() };
    let ids = draft.backends(kernel, request);
    let mut writes = std::mem::take(&mut draft.before);
    let mut reservation = Reservation {
        service: Some(id),
        backends: draft.fresh,
        schedules: None,
        partial: Some(request.desired.partial),
    };
    if flips {
        let schedules = fill(&slots, &ids, extents);
        writes.extend(slot_writes(&schedules));
        reservation.schedules = Some((0, schedules));
    }
    let Some(held) = kernel.services.get(&id) else {
        return Ok(None);
    };
    if !held.named || request.force {
        writes.push(Write::Name { service: id, name: request.name.to_string() });
    }
    if !held.named {
        writes.push(Write::ServiceStatsReset { id });
        writes.push(Write::Cursor { service: id, cursor: u64::from(request.node_rank) });
    }
    record_writes(kernel, id, request, &mut reservation, &mut writes);
    frontend_writes(kernel, id, request, &mut writes);
    writes.append(&mut draft.after);
    let kind = if valid { ChangeKind::Updated } else { ChangeKind::Added };
    let change = Change { service: Some(request.name.clone()), kind, writes, reservation };
    Ok((!change.writes.is_empty()).then_some(change))
}

/// Plans the end of a service. `None` if nothing is left of it but backends that are gone.
pub(super) fn remove(kernel: &Kernel, id: u32) -> Option<Change> {
    let held = kernel.services.get(&id)?;
    let mut writes: Vec<Write> =
        held.frontends.iter().map(|address| Write::FrontendRemoved { address: *address }).collect();
    if held.record != Service::default() {
        writes.push(Write::Service { id, record: Service::default() });
    }
    if held.named {
        writes.push(Write::NameRemoved { service: id });
    }
    writes.extend(gone_writes(kernel, held.backends.values().copied()));
    let reservation = Reservation { service: Some(id), ..Reservation::default() };
    let change =
        Change { service: held.name.clone(), kind: ChangeKind::Removed, writes, reservation };
    (!change.writes.is_empty()).then_some(change)
}

/// Marks backends gone that are not yet.
pub(super) fn gone_writes(
    kernel: &Kernel,
    ids: impl Iterator<Item = u32>,
) -> impl Iterator<Item = Write> {
    ids.filter_map(|id| {
        let record = *kernel.backends.get(&id).filter(|record| record.state != STATE_GONE)?;
        Some(Write::Backend { id, record: Backend { state: STATE_GONE, ..record } })
    })
}

/// Backend writes in the making.
struct Draft {
    id: u32,
    before: Vec<Write>,
    after: Vec<Write>,
    fresh: Vec<u32>,
}

// === impl Draft ===

impl Draft {
    /// Plans every backend's record; returns their ids.
    fn backends(
        &mut self,
        kernel: &mut Kernel,
        request: &Request<'_>,
    ) -> BTreeMap<SocketAddr, u32> {
        let mut ids = BTreeMap::new();
        let known = kernel.services.get(&self.id).map(|held| held.backends.clone());
        let known = known.unwrap_or_default();
        for (address, backend) in &request.desired.backends {
            let old = known.get(address).and_then(|id| Some((*id, *kernel.backends.get(id)?)));
            let (id, incarnation) = if let Some((id, old)) = old {
                (id, old.incarnation)
            } else {
                // The limit was checked before.
                let Some(id) = kernel.backend_ids.take() else {
                    continue;
                };
                self.fresh.push(id);
                self.before.push(Write::BackendStatsReset { id });
                (id, kernel.incarnation())
            };
            ids.insert(*address, id);
            let record = Backend {
                state: backend.state.code(),
                service: self.id,
                incarnation,
                weight: backend.weight,
                ..record_of(*address)
            };
            if old.is_some_and(|(_, old)| old == record) && !request.force {
                continue;
            }
            // Who stands in the slots in force stays active until the flip.
            let leaves_slots = old.is_some() && backend.state != EndpointState::Active;
            let list = if leaves_slots { &mut self.after } else { &mut self.before };
            list.push(Write::Backend { id, record });
        }
        let leaving = known.iter().filter(|(address, _)| !ids.contains_key(address));
        self.after.extend(gone_writes(kernel, leaving.map(|(_, id)| *id)));
        ids
    }
}

/// The service's record: for a new service at once, else the other bank first, then the flip.
fn record_writes(
    kernel: &Kernel,
    id: u32,
    request: &Request<'_>,
    reservation: &mut Reservation,
    writes: &mut Vec<Write>,
) {
    let Some(held) = kernel.services.get(&id) else {
        return;
    };
    let mut record = Service {
        banks: held.record.banks,
        generation: held.record.generation,
        ..request.desired.settings
    };
    let Some((generation, schedules)) = &mut reservation.schedules else {
        if record != held.record || request.force {
            writes.push(Write::Service { id, record });
        }
        return;
    };
    *generation = kernel.generation_next(id);
    record.banks[(*generation & 1) as usize] = bank(schedules, request.desired);
    if held.is_valid() {
        writes.push(Write::Service { id, record });
    }
    record.generation = *generation;
    writes.push(Write::Service { id, record });
}

fn frontend_writes(kernel: &Kernel, id: u32, request: &Request<'_>, writes: &mut Vec<Write>) {
    for address in &request.desired.frontends {
        if kernel.frontends.get(address) != Some(&id) || request.force {
            writes.push(Write::Frontend { address: *address, service: id });
        }
    }
    let Some(Held { frontends, .. }) = kernel.services.get(&id) else {
        return;
    };
    for address in frontends.difference(&request.desired.frontends) {
        if !request.moving.contains(address) {
            writes.push(Write::FrontendRemoved { address: *address });
        }
    }
}
