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

/// Most steps in one segment: a segment of 64 KiB has at most 7,281 heads. Whoever sends nothing but
/// frames whose payloads are read needs more, and is lost sight of.
const STEPS_MAX: u32 = 16_384;
/// The same for the bounded loop, which the verifier goes through.
const STEPS_BOUNDED_MAX: u32 = 256;

/// Set in what a step returns, whose low half is where the next one begins.
const INVALID: u64 = 1 << 32;

/// Bits of a position: behind a hole; of the client; nothing is counted.
const AHEAD: u32 = 1;
const OF_CLIENT: u32 = 1 << 1;
const SILENT: u32 = 1 << 2;

/// What the steps share.
struct Walk {
    skb: *mut __sk_buff,
    flow: *mut Http2Flow,
    position: u32,
    end: u32,
    /// What the last step returned.
    reached: u64,
}

/// Follows a segment's payload; counts nothing if it is to be `silent`. The caller holds the sender's lock.
#[inline(always)]
pub(super) fn follow<const LOOP: bool, const FROM_CLIENT: bool>(
    ctx: &TcContext,
    flow: FlowRef,
    packet: &Packet,
    silent: bool,
) {
    // SAFETY: the caller holds the lock under which this track is changed; each reference ends before
    // the next begins.
    unsafe {
        let track: *mut Track =
            if FROM_CLIENT { &raw mut (*flow.0).outbound } else { &raw mut (*flow.0).inbound };
        let from = (*track).grid.next_seq;
        let Some(place) = (*track).place(packet.seq, packet.length()) else {
            return;
        };
        let Place { ahead, known } = place;
        let mut walk = Walk {
            skb: ctx.skb.skb,
            flow: flow.0,
            position: if ahead { AHEAD } else { 0 }
                | if FROM_CLIENT { OF_CLIENT } else { 0 }
                | if silent { SILENT } else { 0 },
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
        if !silent {
            let bytes = u64::from((*track).grid.next_seq.wrapping_sub(from));
            if FROM_CLIENT {
                (*flow.0).sent_bytes += bytes;
            } else {
                (*flow.0).received_bytes += bytes;
            }
        }
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
    let is_ahead = position & AHEAD != 0;
    // SAFETY: the caller holds the lock under which the track is changed.
    let (sender, track): (Sender, &mut Track) = unsafe {
        if position & OF_CLIENT == 0 {
            (Sender::Server, &mut (*flow).inbound)
        } else {
            (Sender::Client, &mut (*flow).outbound)
        }
    };
    let grid: &mut Grid = if is_ahead { &mut track.ahead } else { &mut track.grid };
    let Ok(step) = grid.step(sender, &Payload(skb), at, end) else {
        return INVALID;
    };
    let is_counted = position & SILENT == 0;
    if let Some(head) = step.head {
        let event = streams::event(grid, sender, &head);
        let again = !is_ahead && track.is_seen_ahead();
        let counts_code = is_counted && FlowRef(flow).count(sender, event, again);
        if !counts_code {
            let grid: &mut Grid = if is_ahead { &mut track.ahead } else { &mut track.grid };
            grid.unit_left = 0;
        }
    } else if step.has_unit && is_counted {
        FlowRef(flow).count_unit(sender, grid.unit_kind, grid.unit);
    }
    u64::from(step.at)
}
