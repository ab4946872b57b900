//! `getpeername()`: answers with the frontend that the application dialled.
//!
//! Applications compare it with what they asked for, and TLS and logging libraries show it.

use crate::{context, lookup, outcome};
use aya_ebpf::programs::SockAddrContext;
use balancer_common::{address::Address, reason::Reason};

/// For AF_INET sockets.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) {
    let _ = restore(ctx, |address, port_be| {
        if let Some(address_be) = address.to_v4() {
            context::rewrite_v4(ctx, address_be, port_be);
        }
    });
}

/// For AF_INET6 sockets; IPv4 frontends appear IPv4-mapped, as they were dialled.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) {
    let _ = restore(ctx, |address, port_be| context::rewrite_v6(ctx, address, port_be));
}

#[inline(always)]
fn restore(ctx: &SockAddrContext, rewrite: impl FnOnce(Address, u16)) -> Option<()> {
    if !context::is_tcp(ctx) {
        return None;
    }
    let cookie = context::cookie(ctx);
    let flow = lookup::flow(cookie)?;
    rewrite(flow.frontend, flow.frontend_port_be);
    outcome::observed(Reason::PeernameRestored, cookie, &flow);
    Some(())
}
