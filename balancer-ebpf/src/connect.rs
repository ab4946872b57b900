//! `connect()`: leads a dial of a declared frontend to a backend, and leaves every other one alone.

use crate::{
    context, flow, lookup,
    lookup::Counter,
    outcome::{self, Pick, Subject},
    pick, pod,
};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::{debug, warn};
use balancer_common::{
    address::{Address, FAMILY_V4, FAMILY_V6},
    frontend::{FrontendKeyV4, FrontendKeyV6},
    pod::PodServiceKey,
    reason::{Effect, Reason},
    service::{SERVICE_TRACKED, SERVICE_VALID},
};

/// The dial of an AF_INET socket.
#[inline(always)]
pub(crate) fn v4<const FETCH: bool>(ctx: &SockAddrContext) {
    if !context::is_tcp(ctx) {
        return lookup::count(Reason::NotTcp);
    }
    let address_be = context::address_v4(ctx);
    let port_be = context::port_be(ctx);
    let key = FrontendKeyV4 { address_be, port_be, reserved: 0 };
    let Some(service) = lookup::frontend_v4(&key) else {
        return lookup::count(Reason::NotFrontend);
    };
    let frontend = Address::from_v4(address_be);
    balance::<FETCH>(ctx, frontend, port_be, FAMILY_V4, service);
}

/// The dial of an AF_INET6 socket. C-core dials IPv4 frontends this way, IPv4-mapped.
#[inline(always)]
pub(crate) fn v6<const FETCH: bool>(ctx: &SockAddrContext) {
    if !context::is_tcp(ctx) {
        return lookup::count(Reason::NotTcp);
    }
    let frontend = context::address_v6(ctx);
    let port_be = context::port_be(ctx);
    let service = match frontend.to_v4() {
        Some(address_be) => {
            lookup::frontend_v4(&FrontendKeyV4 { address_be, port_be, reserved: 0 })
        }
        None => lookup::frontend_v6(&FrontendKeyV6 { address: frontend, port_be, reserved: 0 }),
    };
    let Some(service) = service else {
        return lookup::count(Reason::NotFrontend);
    };
    balance::<FETCH>(ctx, frontend, port_be, FAMILY_V6, service);
}

#[inline(always)]
fn balance<const FETCH: bool>(
    ctx: &SockAddrContext,
    frontend: Address,
    frontend_port_be: u16,
    family: u16,
    service: u32,
) {
    let mut subject =
        Subject { frontend, frontend_port_be, family, service, pick: Pick::default() };
    let reason = match try_balance::<FETCH>(ctx, family, &mut subject) {
        Ok(reason) => {
            debug!(
                ctx,
                "service {}: slot {} of {} leads to backend {}",
                service,
                subject.pick.slot,
                subject.pick.slots,
                subject.pick.backend
            );
            reason
        }
        Err(reason) => {
            lookup::count_untouched(service);
            warn!(ctx, "service {}: left untouched, reason {}", service, reason as u32);
            reason
        }
    };
    outcome::dialled(reason, &subject, || context::cookie(ctx));
}

/// Sends the dial to a backend, or says why it is left as it is.
// VERIFIER: the socket's family is an argument, so that it is a constant of each program: neither
// may contain an access to the other family's fields of the context.
#[inline(always)]
fn try_balance<const FETCH: bool>(
    ctx: &SockAddrContext,
    socket_family: u16,
    subject: &mut Subject,
) -> Result<Reason, Reason> {
    let service = lookup::service(subject.service).ok_or(Reason::ServiceMissing)?;
    let flags = service.flags();
    if flags & SERVICE_VALID == 0 {
        return Err(Reason::ServiceMissing);
    }
    let pod = pod::current();
    if let Some(reason) = lookup::skip(pod) {
        return Err(reason);
    }
    let key = PodServiceKey { pod, service: subject.service, reserved: 0 };
    let frontend_family = subject.frontend.family();
    let reason = pick::pick::<FETCH>(service, &key, frontend_family, &mut subject.pick);
    if reason.effect() != Effect::Balanced {
        return Err(reason);
    }
    // An AF_INET socket cannot reach an IPv6 address; an AF_INET6 socket reaches both kinds.
    let address_be = match subject.pick.address.to_v4() {
        None if socket_family == FAMILY_V4 => return Err(Reason::FamilyMismatch),
        address_be => address_be,
    };
    if flags & SERVICE_TRACKED != 0 {
        flow::begin::<FETCH>(ctx, pod, subject)?;
    }
    if let Some(stats) = lookup::backend_stats(subject.pick.backend) {
        stats.add(Counter::Picked, 1);
    }
    match address_be {
        Some(address_be) if socket_family == FAMILY_V4 => {
            context::rewrite_v4(ctx, address_be, subject.pick.port_be);
        }
        _ => context::rewrite_v6(ctx, subject.pick.address, subject.pick.port_be),
    }
    Ok(reason)
}
