//! Walks a segment's frames: by the kernel's own loop where it has one (5.17), else by a bounded one.

use super::{
    flows::FlowRef,
    packet::{Packet, Payload},
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop, programs::TcContext};
use balancer_common::http2::{
    flow::Http2Flow,
    frame::Sender,
    grid::Grid,
    streams,
    track::{Place, Track},
};
use core::ffi::c_void;

/// Most steps in one segment: a segment of 64 KiB has at most 7,281 heads, and a byte or two more.
const STEPS_MAX: u32 = 8_192;
/// The same for the bounded loop, which the verifier goes through.
const STEPS_BOUNDED_MAX: u32 = 256;

/// Set in what a step returns, whose low half is where the next one begins.
const INVALID: u64 = 1 << 32;

/// What the steps share.
struct Walk {
    skb: *mut __sk_buff,
    flow: *mut Http2Flow,
    position: u32,
    end: u32,
    /// What the last step returned.
    reached: u64,
}

/// Follows a segment's payload. The caller holds the sender's lock.
#[inline(always)]
pub(super) fn follow<const LOOP: bool, const FROM_CLIENT: bool>(
    ctx: &TcContext,
    flow: FlowRef,
    packet: &Packet,
) {
    // SAFETY: the caller holds the lock under which this track is changed; each reference ends before
    // the next begins.
    unsafe {
        let track: *mut Track =
            if FROM_CLIENT { &raw mut (*flow.0).outbound } else { &raw mut (*flow.0).inbound };
        let Some(place) = (*track).place(packet.seq, packet.length()) else {
            return;
        };
        let Place { ahead, known } = place;
        let mut walk = Walk {
            skb: ctx.skb.skb,
            flow: flow.0,
            position: (u32::from(FROM_CLIENT) << 1) | u32::from(ahead),
            end: packet.end,
            reached: u64::from(packet.payload_at + known),
        };
        if LOOP {
            let callback: extern "C" fn(u64, *mut Walk) -> i64 = next_step;
            bpf_loop(STEPS_MAX, callback as *mut c_void, (&raw mut walk).cast(), 0);
        } else {
            // VERIFIER: a constant bound.
            for index in 0..STEPS_BOUNDED_MAX {
                if next_step(u64::from(index), &raw mut walk) != 0 {
                    break;
                }
            }
        }
        (*track).walked(place, packet.end_seq(), walk.reached & INVALID == 0);
    }
}

// VERIFIER: a callback of `bpf_loop` has a number and a pointer as arguments, and returns zero to go on.
#[inline(never)]
extern "C" fn next_step(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `follow` passes a pointer to what it owns, and holds the lock.
    unsafe {
        let walk = &mut *walk;
        walk.reached =
            http2_step(walk.skb, walk.flow, walk.position, walk.reached as u32, walk.end);
        i64::from(walk.reached >= u64::from(walk.end))
    }
}

/// One step: at most one head. The position is one of a flow's four.
///
/// # Safety
/// The caller holds the sender's lock of this flow.
// VERIFIER: a global function, which is verified once and by itself, and not in every turn of a loop.
// Pointers to it are taken for null (Linux 5.13).
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_step(
    skb: *mut __sk_buff,
    flow: *mut Http2Flow,
    position: u32,
    at: u32,
    end: u32,
) -> u64 {
    if flow.is_null() {
        return INVALID;
    }
    // SAFETY: the caller holds the lock under which the grid is changed.
    let grid: &mut Grid = unsafe {
        match position {
            0 => &mut (*flow).inbound.grid,
            1 => &mut (*flow).inbound.ahead,
            2 => &mut (*flow).outbound.grid,
            _ => &mut (*flow).outbound.ahead,
        }
    };
    let sender = if position & 2 == 0 { Sender::Server } else { Sender::Client };
    let Ok(step) = grid.step(sender, &Payload(skb), at, end) else {
        return INVALID;
    };
    if let Some(head) = step.head {
        FlowRef(flow).count(sender, streams::event(grid, sender, &head));
    }
    u64::from(step.at)
}
