//! Walks a segment's frames: by the kernel's own loop where it has one (5.17), else by a bounded one.

use super::{
    flows::FlowRef,
    held,
    packet::{Packet, Payload},
    streams::Tally,
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop, programs::TcContext};
use balancer_common::http2::{
    flow::Http2Flow,
    frame::Sender,
    grid::{Grid, Step},
    streams as heads,
    track::{Place, Track},
};
use core::ffi::c_void;

/// Most steps in one segment: a segment of 64 KiB has at most 7,281 heads. Whoever sends nothing but
/// frames whose payloads are read needs more, and is lost sight of.
pub(super) const STEPS_MAX: u32 = 16_384;
/// The same for the bounded loop, which the verifier goes through.
pub(super) const STEPS_BOUNDED_MAX: u32 = 256;

/// Set in what a step returns, whose low half is where the next one begins.
pub(super) const INVALID: u64 = 1 << 32;
/// Returned by a step over bytes that were kept: there may be more, and there is no more.
pub(super) const GOES_ON: u64 = 0;
pub(super) const ENDED: u64 = 1;

/// Bits of a position: of the client; nothing is counted.
const OF_CLIENT: u32 = 1;
const SILENT: u32 = 1 << 1;

/// Which bytes a step is over, in a form that the verifier lets pass between functions.
#[derive(Clone, Copy)]
pub(super) struct Position(pub(super) u32);

// === impl Position ===

impl Position {
    #[inline(always)]
    fn new(of_client: bool, silent: bool) -> Self {
        Self(if of_client { OF_CLIENT } else { 0 } | if silent { SILENT } else { 0 })
    }

    #[inline(always)]
    pub(super) fn is_of_client(self) -> bool {
        self.0 & OF_CLIENT != 0
    }

    #[inline(always)]
    pub(super) fn sender(self) -> Sender {
        if self.is_of_client() { Sender::Client } else { Sender::Server }
    }
}

/// What the steps share.
struct Walk {
    skb: *mut __sk_buff,
    flow: *mut Http2Flow,
    position: u32,
    end: u32,
    /// What the last step returned.
    reached: u64,
    tally: Tally,
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
        let position = Position::new(FROM_CLIENT, silent);
        let known = match (*track).place(packet.seq, packet.length()) {
            Some(Place::Next { known }) => known,
            Some(Place::Behind) => return held::keep(ctx, flow, packet, position),
            None => return,
        };
        let mut walk = Walk {
            skb: ctx.skb.skb,
            flow: flow.0,
            position: position.0,
            end: packet.end,
            reached: u64::from(packet.payload_at + known),
            tally: Tally::default(),
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
        (*track).walked(packet.end_seq(), walk.reached & INVALID == 0);
        flow.take_in(&walk.tally);
        if (*track).held != 0 && (*track).is_in_sync() {
            held::drain::<LOOP>(flow, position);
        }
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
        let span = (walk.reached << 32) | u64::from(walk.end);
        walk.reached = http2_step(walk.skb, walk.flow, walk.position, span, &raw mut walk.tally);
        i64::from(walk.reached >= u64::from(walk.end))
    }
}

/// One step over the bytes `span`, which is where they begin in its high half and where they end in its low
/// half: at most one head.
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
    span: u64,
    tally: *mut Tally,
) -> u64 {
    if flow.is_null() || tally.is_null() {
        return INVALID;
    }
    let position = Position(position);
    // SAFETY: the caller holds the lock under which the track is changed.
    let grid: &mut Grid = unsafe {
        if position.is_of_client() { &mut (*flow).outbound.grid } else { &mut (*flow).inbound.grid }
    };
    let (at, end) = ((span >> 32) as u32, span as u32);
    let Ok(step) = grid.step(position.sender(), &Payload(skb), at, end) else {
        return INVALID;
    };
    // SAFETY: the caller's own.
    count(FlowRef(flow), position, grid, &step, unsafe { &mut *tally });
    u64::from(step.at)
}

/// Counts what a step has found. The caller holds the sender's lock.
#[inline(always)]
pub(super) fn count(
    flow: FlowRef,
    position: Position,
    grid: &mut Grid,
    step: &Step,
    tally: &mut Tally,
) {
    let is_counted = position.0 & SILENT == 0;
    if let Some(head) = step.head {
        let event = heads::event(grid, position.sender(), &head);
        let counts_code = is_counted && flow.count(position.sender(), event, tally);
        if !counts_code {
            grid.unit_left = 0;
        }
    } else if step.has_unit && is_counted {
        flow.count_unit(position.sender(), grid.unit_kind, grid.unit);
    }
}
