//! TCP events of tracked connections (sock_ops): established, ended, retransmitted, round-trip time.

use crate::{context, flow, http2, lookup, lookup::Counter, outcome};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG,
        BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_RTT_CB,
        BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    programs::SockOpsContext,
};
use balancer_common::{
    flow::{FLOW_ESTABLISHED, FLOW_EXPIRED},
    reason::Reason,
    service::SERVICE_HTTP2,
};

/// `TCP_CLOSE` of `include/net/tcp_states.h`; part of the ABI since `BPF_TCP_CLOSE` mirrors it.
const TCP_CLOSE: u32 = 7;
/// The backend sent its FIN first.
const TCP_CLOSE_WAIT: u32 = 8;
/// `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_TIME_WAIT`, `TCP_LAST_ACK` and `TCP_CLOSING`, a bit each.
const CLIENT_HAS_CLOSED: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// Round-trip samples that are followed, from the start and after each segment sent again. Beyond
/// them a connection runs no program of ours, whatever it carries.
const SAMPLES_MAX: u32 = 32;

const SOL_SOCKET: i32 = 1;
const SO_KEEPALIVE: i32 = 9;
const SOL_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// Everything after [`begin`] is for tracked connections only: it sets their flags.
/// Round-trip samples are left for [`established`] to ask for: it has that of the handshake.
const FOLLOW: u32 =
    BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

#[inline(always)]
pub(crate) fn observe<const HTTP2: bool>(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => begin(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established::<HTTP2>(ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed::<HTTP2>(ctx, ctx.arg(0), ctx.arg(1)),
        BPF_SOCK_OPS_RETRANS_CB => retransmitted(ctx),
        // The third argument is set when the timer gives up (tcp_write_timeout()).
        BPF_SOCK_OPS_RTO_CB if ctx.arg(2) != 0 => expired(ctx),
        BPF_SOCK_OPS_RTT_CB => sampled(ctx),
        _ => {}
    }
}

#[inline(always)]
fn state_changed<const HTTP2: bool>(ctx: &SockOpsContext, old: u32, new: u32) {
    match new {
        TCP_CLOSE => {
            let cookie = context::cookie(ctx);
            if CLIENT_HAS_CLOSED >> (old & 31) & 1 == 0 {
                flow::failed::<HTTP2>(cookie);
            } else {
                // The client has sent its FIN: what the backend answers to it, be it a reset since the
                // client did not wait, is no act of the backend's own.
                flow::closed::<HTTP2>(cookie);
            }
            if HTTP2 {
                http2::closed(ctx, cookie);
            }
        }
        TCP_CLOSE_WAIT => flow::closed_by_backend(context::cookie(ctx)),
        _ => {}
    }
}

/// Before the first SYN: the moment when socket options cover the handshake too.
#[inline(always)]
fn begin(ctx: &SockOpsContext) {
    let cookie = context::cookie(ctx);
    let Some(flow) = lookup::flow(cookie) else { return };
    let _ = ctx.set_cb_flags((ctx.cb_flags() | FOLLOW) as i32);
    let Some(service) = lookup::service(flow.service) else {
        return;
    };
    let [user_timeout_ms, idle_s, interval_s, probes] = service.socket_options();
    let mut refused = false;
    if user_timeout_ms != 0 {
        refused |=
            context::set_socket_option(ctx, SOL_TCP, TCP_USER_TIMEOUT, user_timeout_ms).is_err();
    }
    if idle_s != 0 {
        refused |= context::set_socket_option(ctx, SOL_TCP, TCP_KEEPIDLE, idle_s).is_err();
        refused |= context::set_socket_option(ctx, SOL_TCP, TCP_KEEPINTVL, interval_s).is_err();
        refused |= context::set_socket_option(ctx, SOL_TCP, TCP_KEEPCNT, probes).is_err();
        refused |= context::set_socket_option(ctx, SOL_SOCKET, SO_KEEPALIVE, 1).is_err();
    }
    if refused {
        lookup::count_socket_option_failure(flow.service);
        outcome::observed(Reason::SocketOptionRefused, cookie, &flow);
    }
}

#[inline(always)]
fn established<const HTTP2: bool>(ctx: &SockOpsContext) {
    // Called for every connection that a client opens; `begin` has marked those that have a flow.
    if ctx.cb_flags() & FOLLOW != FOLLOW {
        return;
    }
    let cookie = context::cookie(ctx);
    let srtt_us = context::srtt_us(ctx);
    let flow = lookup::change_flow(cookie, |flow| {
        flow.state = FLOW_ESTABLISHED;
        flow.srtt_us = srtt_us;
    });
    let Some(flow) = flow else { return };
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_RTT_CB_FLAG) as i32);
    if let Some(stats) = lookup::backend_stats(flow.backend) {
        stats.add(Counter::Established, 1);
        stats.set_srtt_us(srtt_us);
        stats.readmit();
    }
    outcome::observed(Reason::Established, cookie, &flow);
    if HTTP2 {
        let service = lookup::service(flow.service);
        if service.is_some_and(|service| service.flags() & SERVICE_HTTP2 != 0) {
            http2::established(ctx, cookie, &flow);
        }
    }
}

#[inline(always)]
fn retransmitted(ctx: &SockOpsContext) {
    let cookie = context::cookie(ctx);
    let flow = lookup::change_flow(cookie, |flow| {
        flow.retransmits += 1;
        flow.samples = 0;
    });
    let Some(flow) = flow else { return };
    // The path may have changed: its round-trip time is looked at anew.
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_RTT_CB_FLAG) as i32);
    if let Some(stats) = lookup::backend_stats(flow.backend) {
        stats.add(Counter::Retransmits, 1);
    }
    outcome::observed(Reason::Retransmitted, cookie, &flow);
}

#[inline(always)]
fn expired(ctx: &SockOpsContext) {
    let _ = lookup::change_flow(context::cookie(ctx), |flow| flow.flags |= FLOW_EXPIRED);
}

/// Runs for each round-trip sample, so nearly for each ACK, until enough were seen.
#[inline(always)]
fn sampled(ctx: &SockOpsContext) {
    let srtt_us = context::srtt_us(ctx);
    let flow = lookup::change_flow(context::cookie(ctx), |flow| {
        flow.samples += 1;
        flow.srtt_us = srtt_us;
    });
    let Some(flow) = flow else { return };
    if flow.samples < SAMPLES_MAX {
        return;
    }
    let _ = ctx.set_cb_flags((ctx.cb_flags() & !BPF_SOCK_OPS_RTT_CB_FLAG) as i32);
    if let Some(stats) = lookup::backend_stats(flow.backend) {
        stats.set_srtt_us(srtt_us);
    }
}
