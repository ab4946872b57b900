//! Walks a segment's frames: by the kernel's own loop where it has one (5.17), else by a bounded one.

use super::{
    flows::FlowRef,
    packet::{self, Packet, Payload},
};
use aya_ebpf::{helpers::bpf_loop, programs::TcContext};
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
/// The same for the bounded loop, in which the verifier follows each step.
const STEPS_BOUNDED_MAX: u32 = 256;

/// What the steps share.
struct Walk {
    skb: *mut c_void,
    grid: *mut Grid,
    flow: *mut Http2Flow,
    at: u32,
    end: u32,
    is_invalid: u64,
}

/// Follows a segment's payload. The caller holds the sender's lock.
#[inline(always)]
pub(super) fn follow<const LOOP: bool, const FROM_CLIENT: bool>(
    ctx: &TcContext,
    flow: FlowRef,
    packet: &Packet,
) {
    // SAFETY: the caller holds the lock under which this track is changed.
    let track: &mut Track = unsafe {
        if FROM_CLIENT { &mut (*flow.0).outbound } else { &mut (*flow.0).inbound }
    };
    let Some(place) = track.place(packet.seq, packet.length()) else {
        return;
    };
    let Place { ahead, known } = place;
    let grid = if ahead { &raw mut track.ahead } else { &raw mut track.grid };
    let mut walk = Walk {
        skb: packet::raw(ctx),
        grid,
        flow: flow.0,
        at: packet.payload_at + known,
        end: packet.end,
        is_invalid: 0,
    };
    if LOOP {
        let callback: extern "C" fn(u64, *mut Walk) -> i64 =
            if FROM_CLIENT { step_client } else { step_server };
        // SAFETY: the callback is a function of this object, and gets the pointer to `walk`.
        unsafe { bpf_loop(STEPS_MAX, callback as *mut c_void, (&raw mut walk).cast(), 0) };
    } else {
        bounded::<FROM_CLIENT>(&mut walk);
    }
    track.walked(place, packet.end_seq(), walk.is_invalid == 0);
}

#[inline(never)]
fn bounded<const FROM_CLIENT: bool>(walk: &mut Walk) {
    // VERIFIER: a constant bound.
    for _ in 0..STEPS_BOUNDED_MAX {
        if step::<FROM_CLIENT>(walk) != 0 {
            return;
        }
    }
}

// VERIFIER: a callback of `bpf_loop` has a number and a pointer as arguments, and returns zero to go on.
#[inline(never)]
extern "C" fn step_client(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `follow` passes a pointer to what it owns.
    step::<true>(unsafe { &mut *walk })
}

#[inline(never)]
extern "C" fn step_server(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: as above.
    step::<false>(unsafe { &mut *walk })
}

#[inline(always)]
fn step<const FROM_CLIENT: bool>(walk: &mut Walk) -> i64 {
    let sender = if FROM_CLIENT { Sender::Client } else { Sender::Server };
    // SAFETY: the caller of `follow` holds the lock under which the grid is changed.
    let grid = unsafe { &mut *walk.grid };
    let Ok(step) = grid.step(sender, &Payload(walk.skb), walk.at, walk.end) else {
        walk.is_invalid = 1;
        return 1;
    };
    walk.at = step.at;
    if let Some(head) = step.head {
        FlowRef(walk.flow).count(sender, streams::event(grid, sender, &head));
    }
    i64::from(walk.at >= walk.end)
}
