//! Tracked connections: made in `connect()`, ended by whichever hook removes them first.
//!
//! Invariant: a backend's `active` counter is the number of its flows. Removing one succeeds for one
//! caller only, and that one takes the connection off the counter.

use crate::{
    context, lookup,
    lookup::Counter,
    outcome::{self, Subject},
};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use balancer_common::{
    backend::EJECTION_NS,
    flow::{FLOW_CONNECTING, FLOW_ESTABLISHED, FLOW_EXPIRED, Flow},
    reason::Reason,
    service::SERVICE_EJECTS,
};

/// Starts tracking a connection to the backend that was picked.
#[inline(always)]
pub(crate) fn begin<const FETCH: bool>(
    ctx: &SockAddrContext,
    pod: u64,
    subject: &Subject,
) -> Result<(), Reason> {
    let cookie = context::cookie(ctx);
    if lookup::has_flow(cookie) {
        // A dial that failed before its first segment (no route, say) leaves its flow behind.
        end::<FETCH>(cookie, Some(Reason::Redialled));
    }
    if !insert::<FETCH>(cookie, pod, subject) {
        return Err(Reason::FlowTableFull);
    }
    if let Some(stats) = lookup::backend_stats(subject.pick.backend) {
        stats.add(Counter::Active, 1);
    }
    Ok(())
}

// VERIFIER: functions of their own, as is `end`: the frames of all functions on a path share 512
// bytes, each rounded up to 32 before Linux 6.9, and these records are on no path together.
#[inline(never)]
fn insert<const FETCH: bool>(cookie: u64, pod: u64, subject: &Subject) -> bool {
    let flow = Flow {
        pod,
        started_ns: if FETCH { context::now_coarse_ns() } else { context::now_ns() },
        frontend: subject.frontend,
        frontend_port_be: subject.frontend_port_be,
        frontend_family: subject.frontend.family(),
        service: subject.service,
        backend: subject.pick.backend,
        incarnation: subject.pick.incarnation,
        state: FLOW_CONNECTING,
        ..Flow::default()
    };
    lookup::add_flow::<FETCH>(cookie, &flow)
}

/// The application let go of a socket: its flow, if it has one, is over.
#[inline(always)]
pub(crate) fn released<const EXCHANGE: bool>(ctx: &SockContext) {
    if context::is_tcp_socket(ctx) {
        end::<EXCHANGE>(context::cookie(ctx), None);
    }
}

/// Ends a flow. Without a `reason`, its state tells: the client closed it or gave it up.
#[inline(never)]
pub(crate) fn end<const EXCHANGE: bool>(cookie: u64, reason: Option<Reason>) {
    let Some(flow) = lookup::flow(cookie) else {
        return;
    };
    if !lookup::remove_flow::<EXCHANGE>(cookie) {
        // Another hook of this socket was faster and has counted it.
        return;
    }
    let established = flow.state == FLOW_ESTABLISHED;
    let reason = match reason {
        Some(reason) => reason,
        None if established => Reason::Closed,
        None => Reason::Abandoned,
    };
    if matches!(reason, Reason::Refused | Reason::TimedOut | Reason::Reset) {
        eject(cookie, &flow, reason != Reason::Reset);
    }
    if let Some(stats) = lookup::backend_stats(flow.backend) {
        stats.add(Counter::Active, -1);
        match reason {
            Reason::Closed => stats.add(Counter::Closed, 1),
            Reason::Reset => stats.add(Counter::Reset, 1),
            Reason::Refused => stats.add(Counter::Refused, 1),
            Reason::TimedOut => stats.add(Counter::TimedOut, 1),
            _ => stats.add(Counter::Abandoned, 1),
        }
    }
    outcome::observed(reason, cookie, &flow);
}

/// Has a backend passed over for a while, as far as others serve: connection attempts to it fail, or
/// it ends connections by itself, as a server does that is about to stop. Both are known here before
/// any source tells.
#[inline(always)]
fn eject(cookie: u64, flow: &Flow, has_failed: bool) {
    let Some(service) = lookup::service(flow.service) else {
        return;
    };
    if service.flags() & SERVICE_EJECTS == 0 {
        return;
    }
    let now_ns = context::now_ns();
    // Servers end idle connections, too: no reason to lead a pod away from its backend. And where each
    // call has a connection, a server that answers its client's GOAWAY may close before the client.
    let is_young = now_ns.wrapping_sub(flow.started_ns) < EJECTION_NS;
    if !has_failed && (is_young || service.is_sticky()) {
        return;
    }
    let Some(stats) = lookup::backend_stats(flow.backend) else {
        return;
    };
    if stats.eject(has_failed, now_ns) {
        outcome::observed(Reason::Ejected, cookie, flow);
    }
}

/// The backend closed its side of an established connection first.
#[inline(always)]
pub(crate) fn closed_by_backend(cookie: u64) {
    if let Some(flow) = lookup::flow(cookie) {
        eject(cookie, &flow, false);
    }
}

/// The kernel closed a socket whose client had closed its side before; the socket may still be open.
#[inline(always)]
pub(crate) fn closed<const EXCHANGE: bool>(cookie: u64) {
    let Some(flow) = lookup::flow(cookie) else {
        return;
    };
    // Nobody answered the FIN for as long as the kernel, or TCP_USER_TIMEOUT, waits.
    let expired = flow.flags & FLOW_EXPIRED != 0;
    end::<EXCHANGE>(cookie, if expired { Some(Reason::Reset) } else { None });
}

/// The kernel closed a socket by itself: a refusal, a reset, a time-out or an abort.
#[inline(always)]
pub(crate) fn failed<const EXCHANGE: bool>(cookie: u64) {
    let Some(flow) = lookup::flow(cookie) else {
        return;
    };
    let reason = if flow.state == FLOW_ESTABLISHED {
        Reason::Reset
    } else if flow.flags & FLOW_EXPIRED != 0 {
        Reason::TimedOut
    } else {
        Reason::Refused
    };
    end::<EXCHANGE>(cookie, Some(reason));
}
