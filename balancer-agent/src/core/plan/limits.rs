//! Whether a service fits into the maps, asked before anything is taken for it.

use super::Request;
use crate::core::{
    kernel::Kernel,
    problem::{Problem, Resource},
};
use std::net::SocketAddr;

/// Finds the first limit that a service would exceed; chunks aside, which are taken in one go.
pub(super) fn check(kernel: &Kernel, request: &Request<'_>) -> Result<(), Problem> {
    let over = |resource, needed: usize, available: u64, limit| {
        let needed = needed as u64;
        if needed <= available {
            return Ok(());
        }
        let service = request.name.clone();
        Err(Problem::OverLimit { service, resource, needed, available, limit })
    };
    let limits = &kernel.limits;
    let held = kernel.find(request.name).map(|(_, held)| held);
    let new_services = usize::from(held.is_none());
    over(Resource::Services, new_services, kernel.services_available(), limits.services)?;
    let known = |address: &SocketAddr| held.is_some_and(|held| held.backends.contains_key(address));
    let new_backends = request.desired.backends.keys().filter(|a| !known(a)).count();
    over(Resource::Backends, new_backends, kernel.backend_ids.available(), limits.backends)?;
    for v4 in [true, false] {
        let new = |a: &&SocketAddr| a.is_ipv4() == v4 && !kernel.frontends.contains_key(*a);
        let needed = request.desired.frontends.iter().filter(new).count();
        let available = limits.frontends.saturating_sub(kernel.frontend_count(v4));
        over(Resource::Frontends, needed, u64::from(available), limits.frontends)?;
    }
    Ok(())
}
