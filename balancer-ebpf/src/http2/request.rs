//! What the agent asks of a connection. It runs this program itself, since only a program can change
//! single bits of a map's value while others do.

use super::flows;
use aya_ebpf::programs::TcContext;
use balancer_common::http2::{
    Http2Request, REQUEST_TAKEN, REQUEST_UNKNOWN,
    gate::{CLOSED, WANTED, WANTED_NOW},
};
use core::ptr;

/// Every packet of a test run begins with an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// Notes down a wish, given as a packet.
#[inline(always)]
pub(crate) fn request(ctx: &TcContext) -> i32 {
    try_request(ctx).cast_signed()
}

#[inline(always)]
fn try_request(ctx: &TcContext) -> u32 {
    let Ok(request) = ctx.load::<Http2Request>(ETHERNET_BYTES) else {
        return REQUEST_UNKNOWN;
    };
    let Some(flow) = flows::find(&request.key) else {
        return REQUEST_UNKNOWN;
    };
    // SAFETY: written before the entry is inserted, and never again.
    let cookie = unsafe { ptr::read_volatile(&raw const (*flow.0).cookie) };
    if cookie != request.cookie || flow.gate() & CLOSED != 0 {
        return REQUEST_UNKNOWN;
    }
    const WISHES: u64 = WANTED | WANTED_NOW;
    flow.clear(WISHES & !request.wanted);
    flow.set(WISHES & request.wanted);
    REQUEST_TAKEN
}
