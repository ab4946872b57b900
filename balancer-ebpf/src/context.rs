//! What the programs read from and write to the kernel's contexts, by name.

use crate::maps::{HAS_CURRENT_PID, HAS_NETNS_COOKIE};
use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_coarse_ns,
        bpf_ktime_get_ns, bpf_setsockopt,
    },
    programs::{SockAddrContext, SockContext, SockOpsContext},
};
use balancer_common::{
    address::{Address, FAMILY_V4, MAPPED_PREFIX_BE},
    http2::flow::Http2Key,
};
use core::ptr;

/// `IPPROTO_TCP`. MPTCP sockets carry a protocol of their own (262) and are left alone.
pub(crate) const PROTOCOL_TCP: u32 = 6;

/// The socket's cookie: unique on this machine until it is booted again.
#[inline(always)]
pub(crate) fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: every hook here passes a context that this helper accepts (sock_addr 4.20,
    // sock_ops 4.20, cgroup sock 5.7).
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The cgroup (v2) id of the calling task.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    // SAFETY: no arguments; available to sock_addr programs from 5.7 on.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The id of the calling task's cgroup at a level, the root being level 0; zero below its own.
#[inline(always)]
pub(crate) fn current_ancestor(level: u32) -> u64 {
    // SAFETY: a number as argument; available to sock_addr programs from 5.7 on.
    unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
}

/// The calling process, where the kernel tells.
#[inline(always)]
pub(crate) fn current_pid() -> u32 {
    if HAS_CURRENT_PID.load() == 0 {
        return 0;
    }
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// `CLOCK_MONOTONIC` as of the latest timer tick, 1 to 10 ms ago: a read of memory, where
/// [`now_ns`] reads the clock itself.
#[inline(always)]
pub(crate) fn now_coarse_ns() -> u64 {
    // SAFETY: no arguments; available from Linux 5.11 on.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Sets an integer socket option from a sock_ops program.
#[inline(always)]
pub(crate) fn set_socket_option(
    ctx: &impl EbpfContext,
    level: i32,
    option: i32,
    value: u32,
) -> Result<(), ()> {
    // SAFETY: the kernel copies four bytes from `value` before the call returns.
    let rc = unsafe {
        bpf_setsockopt(ctx.as_ptr(), level, option, (&raw const value).cast_mut().cast(), 4)
    };
    if rc == 0 { Ok(()) } else { Err(()) }
}

/// Whether the hook runs for a TCP socket.
#[inline(always)]
pub(crate) fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel passes a valid context; the field is readable in every sock_addr hook.
    unsafe { (*ctx.sock_addr).protocol == PROTOCOL_TCP }
}

/// Whether a socket that is let go of is a TCP socket.
#[inline(always)]
pub(crate) fn is_tcp_socket(ctx: &SockContext) -> bool {
    // SAFETY: the kernel passes a valid context; the field is readable in this hook.
    unsafe { (*ctx.sock).protocol == PROTOCOL_TCP }
}

/// The smoothed round-trip time; the kernel keeps eight times that (`tcp_sock.srtt_us`).
#[inline(always)]
pub(crate) fn srtt_us(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the kernel passes a valid context; the field is readable in every callback.
    unsafe { (*ctx.ops).srtt_us >> 3 }
}

/// The port of the context's address, network byte order.
#[inline(always)]
pub(crate) fn port_be(ctx: &SockAddrContext) -> u16 {
    // SAFETY: as in `is_tcp`. The field holds a 16-bit port in network byte order.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).user_port) as u16 }
}

/// The context's IPv4 address, network byte order.
#[inline(always)]
pub(crate) fn address_v4(ctx: &SockAddrContext) -> u32 {
    // SAFETY: as in `is_tcp`.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4) }
}

/// The context's IPv6 address.
#[inline(always)]
pub(crate) fn address_v6(ctx: &SockAddrContext) -> Address {
    // VERIFIER: context fields are read one word at a time.
    // SAFETY: as in `is_tcp`.
    unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        Address([
            ptr::read_volatile(words),
            ptr::read_volatile(words.add(1)),
            ptr::read_volatile(words.add(2)),
            ptr::read_volatile(words.add(3)),
        ])
    }
}

/// Replaces the context's IPv4 address and port (both in network byte order).
#[inline(always)]
pub(crate) fn rewrite_v4(ctx: &SockAddrContext, address_be: u32, port_be: u16) {
    // SAFETY: as in `is_tcp`; both fields are writable in connect and getpeername hooks.
    unsafe {
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, address_be);
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port_be));
    }
}

/// Replaces the context's IPv6 address and port.
#[inline(always)]
pub(crate) fn rewrite_v6(ctx: &SockAddrContext, address: Address, port_be: u16) {
    // VERIFIER: context fields are written one word at a time.
    // SAFETY: as in `rewrite_v4`.
    unsafe {
        let words = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
        ptr::write_volatile(words, address.0[0]);
        ptr::write_volatile(words.add(1), address.0[1]);
        ptr::write_volatile(words.add(2), address.0[2]);
        ptr::write_volatile(words.add(3), address.0[3]);
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port_be));
    }
}

/// The connection of a socket as its packets show it, where the kernel tells the network namespace.
#[inline(always)]
pub(crate) fn http2_key(ctx: &SockOpsContext) -> Option<Http2Key> {
    if HAS_NETNS_COOKIE.load() == 0 {
        return None;
    }
    let ops = ctx.ops;
    // SAFETY: the kernel passes a valid context, of which these fields are readable in every callback;
    // the helper takes it from Linux 5.15 on, which the agent probes.
    unsafe {
        let words = |first: *const u32| {
            [
                ptr::read_volatile(first),
                ptr::read_volatile(first.add(1)),
                ptr::read_volatile(first.add(2)),
                ptr::read_volatile(first.add(3)),
            ]
        };
        let remote = words((&raw const (*ops).remote_ip6).cast());
        let is_v4 = ptr::read_volatile(&raw const (*ops).family) == u32::from(FAMILY_V4)
            || (remote[0] | remote[1] == 0 && remote[2] == MAPPED_PREFIX_BE);
        let (client, server) = if is_v4 {
            (
                Address::from_v4(ptr::read_volatile(&raw const (*ops).local_ip4)),
                Address::from_v4(ptr::read_volatile(&raw const (*ops).remote_ip4)),
            )
        } else {
            (Address(words((&raw const (*ops).local_ip6).cast())), Address(remote))
        };
        Some(Http2Key {
            netns: bpf_get_netns_cookie(ctx.as_ptr()),
            client,
            server,
            client_port_be: (ptr::read_volatile(&raw const (*ops).local_port) as u16).to_be(),
            // Unlike the local port, this is a 32-bit number in network byte order.
            server_port_be: (u32::from_be(ptr::read_volatile(&raw const (*ops).remote_port))
                as u16)
                .to_be(),
            reserved: 0,
        })
    }
}

/// The numbers of the next bytes that the client and the server send.
#[inline(always)]
pub(crate) fn next_sequence_numbers(ctx: &SockOpsContext) -> (u32, u32) {
    // SAFETY: as in `srtt_us`.
    unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.ops).snd_nxt),
            ptr::read_volatile(&raw const (*ctx.ops).rcv_nxt),
        )
    }
}
