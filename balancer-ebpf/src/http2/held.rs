//! Bytes behind a hole: kept in a place of the connection's own, and walked once the hole is filled.

use super::{
    flows::FlowRef,
    packet::Packet,
    places::{self, Place},
    streams::Tally,
    walk::{self, GOES_ON, INVALID, Position},
};
use crate::context;
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_loop, bpf_skb_load_bytes},
    programs::TcContext,
};
use balancer_common::http2::{
    flow::Http2Flow,
    frame::HEAD_BYTES,
    grid::Bytes,
    held::{self, HELD_SEGMENT, HELD_WINDOW, Held, NOTHING, Ranges, Store},
    track::{HOMELESS, TORN},
};
use core::{arch::asm, ffi::c_void, ptr};

/// Keeps a segment behind a hole, or marks the track as lost. The caller holds the lock of this track.
#[inline(always)]
pub(super) fn keep(ctx: &TcContext, flow: FlowRef, packet: &Packet, position: Position) {
    let position_and_length = (u64::from(position.0) << 32) | u64::from(packet.length());
    // SAFETY: the caller holds the lock.
    unsafe {
        http2_keep(ctx.skb.skb, flow.0, position_and_length, packet.seq, packet.payload_at);
    }
}

/// See [`keep`].
///
/// # Safety
/// The caller holds the sender's lock of this flow.
// VERIFIER: a global function, which is verified once and by itself; those have five arguments at most.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_keep(
    skb: *mut __sk_buff,
    flow: *mut Http2Flow,
    position_and_length: u64,
    seq: u32,
    payload_at: u32,
) -> u64 {
    if flow.is_null() {
        return 0;
    }
    let flow = FlowRef(flow);
    let from_client = Position((position_and_length >> 32) as u32).is_of_client();
    let track = places::track_of(flow, from_client);
    let owner = places::owner_of(flow, from_client);
    // SAFETY: the caller holds the lock under which the track is changed.
    unsafe {
        let place = if (*track).held == 0 {
            places::take(flow, track, owner)
        } else {
            places::own(track, owner)
        };
        let Some(place) = place else {
            (*track).held = 0;
            (*track).lose(HOMELESS);
            return 0;
        };
        let length = position_and_length as u32;
        let (next_seq, payload_left) = ((*track).grid.next_seq, (*track).grid.payload_left);
        let at = http2_held_keep(place.0, next_seq, payload_left, seq, length);
        let is_kept = at != NOTHING && copy(skb, place, at, payload_at, length);
        if !is_kept {
            (*track).held = 0;
            (*track).lose(TORN);
        }
        place.close(owner, if is_kept { owner } else { 0 });
    }
    1
}

/// Where in the ring a segment belongs, after it was taken in; [`NOTHING`] if it has no room.
///
/// # Safety
/// The place is the caller's, and busy.
// VERIFIER: a global function, as the two below: the branches of such a loop would multiply others.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_held_keep(
    held: *mut Held,
    next_seq: u32,
    payload_left: u32,
    seq: u32,
    length: u32,
) -> u64 {
    if held.is_null() {
        return NOTHING;
    }
    // SAFETY: as the caller promises.
    let kept = unsafe { (*held).ranges.keep(next_seq, payload_left, seq, length) };
    kept.map_or(NOTHING, |kept| u64::from(kept.at))
}

/// [`Ranges::end_of`](balancer_common::http2::held::Ranges::end_of) of a place.
///
/// # Safety
/// The place is the caller's, and busy.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_held_end(held: *mut Held, seq: u32) -> u64 {
    if held.is_null() {
        return NOTHING;
    }
    // SAFETY: as the caller promises.
    unsafe { (*held).ranges.end_of(seq) }
}

/// [`Ranges::hole_at`](balancer_common::http2::held::Ranges::hole_at) of a place.
///
/// # Safety
/// The place is the caller's, and busy.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_held_hole(held: *mut Held, seq: u32) -> u64 {
    if held.is_null() {
        return NOTHING;
    }
    // SAFETY: as the caller promises.
    unsafe { (*held).ranges.hole_at(seq) }
}

/// Copies a segment's payload to where it belongs in the ring; whether it could be read.
#[inline(always)]
fn copy(skb: *mut __sk_buff, place: Place, at: u64, payload_at: u32, length: u32) -> bool {
    let end = at + u64::from(length);
    // SAFETY: the place is busy.
    unsafe { (*place.0).kept_ns = context::now_ns() };
    if !copy_run(skb, place, at, payload_at, u64::from(length)) {
        return false;
    }
    if end <= u64::from(HELD_WINDOW) {
        return true;
    }
    // The copy went on into the spare room: what lies there belongs to the beginning.
    let over = end - u64::from(HELD_WINDOW);
    let from = payload_at.wrapping_add(length.wrapping_sub(over as u32));
    copy_run(skb, place, 0, from, over)
}

/// Copies bytes to a place without regard to where the ring ends.
#[inline(always)]
fn copy_run(skb: *mut __sk_buff, place: Place, at: u64, from: u32, length: u64) -> bool {
    let (mut at, mut rest) = (at, length.wrapping_sub(1));
    // SAFETY: the masks keep what is written within the place: it begins within the window, and is no
    // longer than a segment, for which there is room behind that.
    unsafe {
        // VERIFIER: in assembly, since the compiler knows that the masks change nothing.
        asm!("{at} &= {mask}", at = inout(reg) at, mask = const HELD_WINDOW - 1);
        asm!("{rest} &= {mask}", rest = inout(reg) rest, mask = const HELD_SEGMENT - 1);
        let to = (&raw mut (*place.0).bytes).cast::<u8>().add(at as usize);
        bpf_skb_load_bytes(skb.cast(), from, to.cast(), rest as u32 + 1) == 0
    }
}

/// What the steps share.
struct Drain {
    held: *mut Held,
    flow: *mut Http2Flow,
    position: u32,
    /// What the last step returned.
    reached: u64,
}

/// Walks what is kept, as far as there is no hole. The caller holds the lock of this track.
#[inline(always)]
pub(super) fn drain<const LOOP: bool>(flow: FlowRef, position: Position) {
    // SAFETY: the caller holds the lock.
    unsafe {
        if LOOP {
            http2_drain(flow.0, position.0);
        } else {
            http2_drain_bounded(flow.0, position.0);
        }
    }
}

/// See [`drain`].
///
/// # Safety
/// The caller holds the sender's lock of this flow.
// VERIFIER: a global function, which is verified once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_drain(flow: *mut Http2Flow, position: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { drain_all::<true>(flow, Position(position)) }
}

/// See [`drain`].
///
/// # Safety
/// The caller holds the sender's lock of this flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_drain_bounded(flow: *mut Http2Flow, position: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { drain_all::<false>(flow, Position(position)) }
}

#[inline(always)]
unsafe fn drain_all<const LOOP: bool>(flow: *mut Http2Flow, position: Position) -> u64 {
    if flow.is_null() {
        return 0;
    }
    let flow = FlowRef(flow);
    let from_client = position.is_of_client();
    let track = places::track_of(flow, from_client);
    let owner = places::owner_of(flow, from_client);
    // SAFETY: the caller holds the lock under which the track is changed, and the place is busy.
    unsafe {
        let Some(place) = places::own(track, owner) else {
            (*track).held = 0;
            (*track).lose(HOMELESS);
            return 0;
        };
        let mut drain =
            Drain { held: place.0, flow: flow.0, position: position.0, reached: GOES_ON };
        if LOOP {
            let callback: extern "C" fn(u64, *mut Drain) -> i64 = next_step;
            bpf_loop(walk::STEPS_MAX, callback as *mut c_void, (&raw mut drain).cast(), 0);
        } else {
            // VERIFIER: a constant bound.
            for index in 0..walk::STEPS_BOUNDED_MAX {
                if next_step(u64::from(index), &raw mut drain) != 0 {
                    break;
                }
            }
        }
        (*track).drained(drain.reached != INVALID, drain.reached != GOES_ON);
        // A walk ends where nothing is kept.
        let is_over =
            !(*track).is_in_sync() || http2_held_hole(place.0, (*track).grid.next_seq) == NOTHING;
        if is_over {
            (*track).held = 0;
        }
        place.close(owner, if is_over { 0 } else { owner });
    }
    1
}

// VERIFIER: a callback of `bpf_loop` has a number and a pointer as arguments, and returns zero to go on.
#[inline(never)]
extern "C" fn next_step(_index: u64, drain: *mut Drain) -> i64 {
    // SAFETY: `drain` passes a pointer to what it owns, holds the lock, and has made the place busy.
    unsafe {
        let drain = &mut *drain;
        drain.reached = http2_held_step(drain.held, drain.flow, drain.position);
        i64::from(drain.reached != GOES_ON)
    }
}

/// One step over bytes that were kept: at most one head.
///
/// # Safety
/// The caller holds the sender's lock of this flow, and the place is its own and busy.
// VERIFIER: a global function, which is verified once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_held_step(
    held: *mut Held,
    flow: *mut Http2Flow,
    position: u32,
) -> u64 {
    if held.is_null() || flow.is_null() {
        return INVALID;
    }
    let position = Position(position);
    let track = places::track_of(FlowRef(flow), position.is_of_client());
    // SAFETY: the caller holds the lock under which the track is changed.
    let grid = unsafe { &mut (*track).grid };
    match held::step(grid, position.sender(), &Kept(held)) {
        Ok(Some(step)) => {
            // Each step by itself: five calls deep, the stack has no room for a tally of them all.
            let (flow, mut tally) = (FlowRef(flow), Tally::default());
            walk::count(flow, position, grid, &step, &mut tally);
            flow.take_in(&tally);
            GOES_ON
        }
        Ok(None) => walk::ENDED,
        Err(_) => INVALID,
    }
}

/// The bytes of a place, as the walk over their frames reads them.
struct Kept(*mut Held);

impl Bytes for Kept {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        // SAFETY: the mask keeps the offset within the place.
        Some(unsafe { ptr::read_volatile(self.at(at)) })
    }

    #[inline(always)]
    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]> {
        let mut head = [0; HEAD_BYTES as usize];
        for (index, byte) in head.iter_mut().enumerate() {
            // SAFETY: as in `byte`; each by itself, since a head may begin before the ring's end.
            *byte = unsafe { ptr::read_volatile(self.at(at.wrapping_add(index as u32))) };
        }
        Some(head)
    }
}

impl Store for Kept {
    #[inline(always)]
    fn end_of(&self, seq: u32) -> Option<u32> {
        // SAFETY: the place is the caller's, and busy.
        known(unsafe { http2_held_end(self.0, seq) })
    }

    #[inline(always)]
    fn hole_at(&self, seq: u32) -> Option<u32> {
        // SAFETY: as in `end_of`.
        known(unsafe { http2_held_hole(self.0, seq) })
    }
}

#[inline(always)]
fn known(number: u64) -> Option<u32> {
    (number != NOTHING).then_some(number as u32)
}

impl Kept {
    #[inline(always)]
    fn at(&self, at: u32) -> *const u8 {
        let offset = Ranges::at(at) as usize;
        // SAFETY: only an address is taken, of a byte within the place.
        unsafe { (&raw const (*self.0).bytes).cast::<u8>().add(offset) }
    }
}
