//! Entry points of the kernel programs: each maps one hook to its logic, and outcomes to return values.
//!
//! Every entry is thin, every outcome is counted, and all of them let the kernel go on (return 1):
//! this is the one place where failing open is decided.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the entry macros make functions of their own, which are public and carry no docs"
)]

mod connect;
mod context;
mod flow;
mod http2;
mod lookup;
mod maps;
mod outcome;
mod peername;
mod pick;
mod pod;
mod tcp;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier, sock_ops},
    programs::{SockAddrContext, SockContext, SockOpsContext, TcContext},
};

/// Lets the system call go on. `connect()` hooks that return 0 would fail it with EPERM.
const PROCEED: i32 = 1;

/// `connect()` on AF_INET sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::v4::<true>(&ctx);
    PROCEED
}

/// As [`connect4`], for kernels before 5.12, which have no atomic fetch instructions.
#[cgroup_sock_addr(connect4)]
pub fn connect4_compat(ctx: SockAddrContext) -> i32 {
    connect::v4::<false>(&ctx);
    PROCEED
}

/// `connect()` on AF_INET6 sockets, IPv4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::v6::<true>(&ctx);
    PROCEED
}

/// As [`connect6`], for kernels before 5.12.
#[cgroup_sock_addr(connect6)]
pub fn connect6_compat(ctx: SockAddrContext) -> i32 {
    connect::v6::<false>(&ctx);
    PROCEED
}

/// `getpeername()` on AF_INET sockets: the application sees the frontend that it dialled.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    peername::v4(&ctx);
    PROCEED
}

/// `getpeername()` on AF_INET6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    peername::v6(&ctx);
    PROCEED
}

/// Follows tracked connections: established, ended, retransmitting, their round-trip time.
// Not named after its section: bpf-linker takes that for the same symbol defined twice.
#[sock_ops]
pub fn tcp_events(ctx: SockOpsContext) -> u32 {
    tcp::observe::<true>(&ctx);
    1
}

/// As [`tcp_events`], for kernels before 5.12, which refuse programs with the atomic instructions that
/// following HTTP/2 takes.
#[sock_ops]
pub fn tcp_events_compat(ctx: SockOpsContext) -> u32 {
    tcp::observe::<false>(&ctx);
    1
}

/// The application let go of a socket.
#[cgroup_sock(sock_release)]
pub fn socket_released(ctx: SockContext) -> i32 {
    flow::released::<true>(&ctx);
    PROCEED
}

/// As [`socket_released`], for kernels before 5.12, which have no atomic exchange.
#[cgroup_sock(sock_release)]
pub fn socket_released_compat(ctx: SockContext) -> i32 {
    flow::released::<false>(&ctx);
    PROCEED
}

/// Packets that come in at a client's interface.
#[classifier]
pub fn http2_inbound(ctx: TcContext) -> i32 {
    http2::inbound::<true>(&ctx)
}

/// As [`http2_inbound`], for kernels before 5.17, which have no `bpf_loop`.
#[classifier]
pub fn http2_inbound_bounded(ctx: TcContext) -> i32 {
    http2::inbound::<false>(&ctx)
}

/// Packets that go out of a client's interface.
#[classifier]
pub fn http2_outbound(ctx: TcContext) -> i32 {
    http2::outbound::<true>(&ctx)
}

/// As [`http2_outbound`], for kernels before 5.17.
#[classifier]
pub fn http2_outbound_bounded(ctx: TcContext) -> i32 {
    http2::outbound::<false>(&ctx)
}

/// The agent's wishes, which it runs this program for.
#[classifier]
pub fn http2_request(ctx: TcContext) -> i32 {
    http2::request(&ctx)
}

/// What the kernel must know to let these programs call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // VERIFIER: never reached; the verifier refuses programs in which it could be, as the loop
    // would have no end.
    loop {}
}
