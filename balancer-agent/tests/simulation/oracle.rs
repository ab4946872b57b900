//! What the kernel must do with a connection, said a second time, without the core's code.

use crate::world::World;
use balancer_agent::core::model::{
    BackendSource, EndpointState, FrontendSource, Member, Presence, Service, ServiceName,
};
use std::{collections::BTreeSet, net::SocketAddr};

/// What is certain about a service.
pub(crate) struct Expected {
    /// Backends that may be chosen for a frontend of the family; `None` if something is unknown.
    pub(crate) v4: Option<BTreeSet<SocketAddr>>,
    pub(crate) v6: Option<BTreeSet<SocketAddr>>,
    /// Its frontends, conflicts aside; `None` if something is unknown.
    pub(crate) frontends: Option<BTreeSet<SocketAddr>>,
}

pub(crate) fn expected(world: &World, service: &Service) -> Expected {
    let usable = usable_of_any_family(world, service);
    let of_family = |v4: bool| {
        let usable = usable.as_ref()?;
        let own: BTreeSet<_> = usable.iter().filter(|a| a.is_ipv4() == v4).copied().collect();
        Some(if own.is_empty() { usable.clone() } else { own })
    };
    Expected { v4: of_family(true), v6: of_family(false), frontends: frontends(world, service) }
}

/// Backends that take new connections; `None` if something is unknown.
pub(crate) fn usable_of_any_family(
    world: &World,
    service: &Service,
) -> Option<BTreeSet<SocketAddr>> {
    let mut usable = BTreeSet::new();
    for source in &service.backends {
        match source {
            BackendSource::Fixed(e) if e.state == EndpointState::Active => {
                usable.insert(e.address);
            }
            BackendSource::Fixed(_) => {}
            BackendSource::Resolved { lookup, .. } => {
                if !world.told.contains(lookup) {
                    return None;
                }
                let present = |member: &&Member| member.presence == Presence::Present;
                usable.extend(world.sets[lookup].iter().filter(present).map(|m| m.address));
            }
        }
    }
    Some(usable)
}

fn frontends(world: &World, service: &Service) -> Option<BTreeSet<SocketAddr>> {
    let mut frontends = BTreeSet::new();
    for source in &service.frontends {
        match source {
            FrontendSource::Fixed(address) => {
                frontends.insert(*address);
            }
            FrontendSource::Resolved(lookup) => {
                if !world.told.contains(lookup) {
                    return None;
                }
                frontends.extend(world.sets[lookup].iter().map(|member| member.address));
            }
        }
    }
    Some(frontends)
}

/// Who keeps a frontend: the first by name that claims it. `None` also while it cannot be known,
/// because a service might claim it whose frontends are unknown.
pub(crate) fn owner(world: &World, frontend: SocketAddr) -> Option<&ServiceName> {
    for (name, service) in &world.services {
        match frontends(world, service) {
            None => return None,
            Some(claimed) if claimed.contains(&frontend) => return Some(name),
            Some(_) => {}
        }
    }
    None
}
