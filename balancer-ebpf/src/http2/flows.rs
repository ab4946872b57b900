//! The connections whose frames are followed: made when established, changed under their gate, removed
//! with both locks taken.

use super::{places, totals};
use crate::{context, lookup, maps};
use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_loop, programs::SockOpsContext};
use balancer_common::{
    abi,
    flow::Flow,
    http2::{
        counts::Http2TotalsKey,
        flow::{Http2Closed, Http2Flow, Http2Key},
        frame::Sender,
        gate::{self, CLOSED, DEAD, INJECTED, LOCKED_IN, LOCKED_OUT, SETTLED, TAG},
        track::Track,
    },
};
use core::{arch::asm, ffi::c_void, ptr};

/// How often a lock is tried: each attempt takes some ten nanoseconds. It is mostly held for less than a
/// microsecond, but for tens of them when a large segment of many small frames is walked.
const LOCK_SPINS: u32 = 4_096;
/// The same for the bounded loop, which the verifier goes through.
const LOCK_SPINS_BOUNDED: u32 = 64;

/// An entry of `HTTP2_FLOWS`, which other processors use as well.
#[derive(Clone, Copy)]
pub(super) struct FlowRef(pub(super) *mut Http2Flow);

/// The entry of a connection. It may be removed at any time, and its memory used again: nothing is
/// believed of it but under its gate's tag.
#[inline(always)]
pub(super) fn find(key: &Http2Key) -> Option<FlowRef> {
    maps::HTTP2_FLOWS.get_ptr_mut(key).map(FlowRef)
}

/// The outcome of trying to take a lock: the word before, and whether it is ours.
pub(super) struct Attempt {
    pub(super) gate: u64,
    pub(super) is_held: bool,
}

impl FlowRef {
    #[inline(always)]
    pub(super) fn gate(self) -> u64 {
        // SAFETY: the entry is memory of the map; the read is volatile since others write.
        unsafe { ptr::read_volatile(&raw const (*self.0).gate) }
    }

    /// Sets bits; returns the word as it was.
    #[inline(always)]
    pub(super) fn set(self, bits: u64) -> u64 {
        let mut value = bits;
        // SAFETY: the gate is an aligned word of the map's memory.
        unsafe {
            let gate = &raw mut (*self.0).gate;
            asm!("{value} = atomic_fetch_or((u64 *)({gate} + 0), {value})", gate = in(reg) gate, value = inout(reg) value);
        }
        value
    }

    /// Turns bits round; returns the word as it was.
    #[inline(always)]
    pub(super) fn flip(self, bits: u64) -> u64 {
        let mut value = bits;
        // SAFETY: as in `set`.
        unsafe {
            let gate = &raw mut (*self.0).gate;
            asm!("{value} = atomic_fetch_xor((u64 *)({gate} + 0), {value})", gate = in(reg) gate, value = inout(reg) value);
        }
        value
    }

    /// Clears bits; returns the word as it was.
    #[inline(always)]
    pub(super) fn clear(self, bits: u64) -> u64 {
        let mut value = !bits;
        // SAFETY: as in `set`.
        unsafe {
            let gate = &raw mut (*self.0).gate;
            asm!("{value} = atomic_fetch_and((u64 *)({gate} + 0), {value})", gate = in(reg) gate, value = inout(reg) value);
        }
        value
    }

    /// Replaces the word, if it is as expected; returns the word as it was.
    #[inline(always)]
    pub(super) fn swap(self, expected: u64, new: u64) -> u64 {
        // SAFETY: only an address is taken.
        swap(unsafe { &raw mut (*self.0).gate }, expected, new)
    }

    /// Takes a lock, waiting for its holder a bounded time.
    #[inline(always)]
    pub(super) fn lock<const LOOP: bool>(self, lock: u64) -> Attempt {
        let mut spin = Spin { flow: self.0, lock, gate: self.set(lock) };
        if spin.gate & lock != 0 {
            if LOOP {
                let callback: extern "C" fn(u64, *mut Spin) -> i64 = next_spin;
                // SAFETY: the callback gets a pointer to what lives as long as this call.
                unsafe {
                    bpf_loop(LOCK_SPINS, callback as *mut c_void, (&raw mut spin).cast(), 0);
                }
            } else {
                // VERIFIER: a constant bound.
                for index in 0..LOCK_SPINS_BOUNDED {
                    if next_spin(u64::from(index), &raw mut spin) != 0 {
                        break;
                    }
                }
            }
        }
        Attempt { gate: spin.gate, is_held: spin.gate & lock == 0 }
    }

    /// Counts a segment that carried the frame.
    #[inline(always)]
    pub(super) fn count_frame(self) {
        // SAFETY: a counter of the map's memory. Two at once may count as one.
        unsafe { (*self.0).frames += 1 };
    }

    /// Counts a segment that was dropped.
    #[inline(always)]
    pub(super) fn count_dropped(self) {
        // SAFETY: as in `count_frame`.
        unsafe { (*self.0).dropped += 1 };
    }
}

/// What the attempts share.
struct Spin {
    flow: *mut Http2Flow,
    lock: u64,
    /// The word before the last attempt.
    gate: u64,
}

// VERIFIER: a callback of `bpf_loop` has a number and a pointer as arguments, and returns zero to go on.
#[inline(never)]
extern "C" fn next_spin(_index: u64, spin: *mut Spin) -> i64 {
    // SAFETY: `lock` passes a pointer to what it owns.
    let spin = unsafe { &mut *spin };
    spin.gate = FlowRef(spin.flow).set(spin.lock);
    i64::from(spin.gate & spin.lock == 0 || spin.gate & DEAD != 0)
}

/// Replaces a word, if it is as expected; returns it as it was.
#[inline(always)]
pub(super) fn swap(word: *mut u64, expected: u64, new: u64) -> u64 {
    let mut value = expected;
    // SAFETY: callers pass aligned words of a map's memory.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") value);
    }
    value
}

/// Begins to follow a connection whose handshake is complete.
#[inline(never)]
pub(crate) fn established(ctx: &SockOpsContext, cookie: u64, flow: &Flow) {
    let Some(key) = context::http2_key(ctx) else { return };
    if let Some(old) = find(&key) {
        // Of an earlier connection between the same ends.
        let gate = old.set(DEAD);
        if gate & CLOSED == 0 {
            // SAFETY: the field is written before the entry is inserted, and never again.
            count_pod(unsafe { ptr::read_volatile(&raw const (*old.0).pod) }, -1);
        }
        remove(&key, old);
    }
    let totals_key = Http2TotalsKey {
        service: flow.service,
        backend: flow.backend,
        incarnation: flow.incarnation,
        reserved: 0,
    };
    // There must be a place where its counters will go.
    let Some(totals) = totals::totals(&totals_key) else { return };
    if !begin(ctx, cookie, flow, &key) {
        // SAFETY: a word of the map's memory.
        lookup::add(unsafe { &raw mut (*totals).refused }, 1);
    }
}

/// Makes the entry; whether there was room.
#[inline(always)]
fn begin(ctx: &SockOpsContext, cookie: u64, flow: &Flow, key: &Http2Key) -> bool {
    let Some(live) = pod_flows(flow.pod) else { return false };
    if live >= abi::HTTP2_POD_FLOWS_MAX.cast_signed() {
        return false;
    }
    let Some(draft) = maps::HTTP2_DRAFT.get_ptr_mut(0) else { return false };
    let (client_seq, server_seq) = context::next_sequence_numbers(ctx);
    // SAFETY: the value is this CPU's own. Another TCP event that interrupts this one would have to be
    // handled on this CPU at the same time, which these hooks never are: they run with softirqs off.
    // Nothing but these fields is ever written: the others are zero.
    unsafe {
        (*draft).gate = gate::tag(key);
        (*draft).cookie = cookie;
        (*draft).pod = flow.pod;
        (*draft).service = flow.service;
        (*draft).backend = flow.backend;
        (*draft).incarnation = flow.incarnation;
        // "Initially, there is no limit to this value" (RFC 9113, section 6.5.2).
        (*draft).streams_max = u32::MAX;
        (*draft).inbound = Track::new(Sender::Server, server_seq);
        (*draft).outbound = Track::new(Sender::Client, client_seq);
        (*draft).client_ack = server_seq;
        if maps::HTTP2_FLOWS.insert(key, &*draft, u64::from(BPF_NOEXIST)).is_err() {
            return false;
        }
    }
    count_pod(flow.pod, 1);
    true
}

/// The client's socket is closed. What was moved is kept for a while: the server's last segments are
/// answered without the socket, and have to be shifted.
#[inline(never)]
pub(crate) fn closed(ctx: &SockOpsContext, cookie: u64) {
    let Some(key) = context::http2_key(ctx) else { return };
    let Some(flow) = find(&key) else { return };
    // SAFETY: written before the entry is inserted, and never again.
    let (owner, pod) = unsafe {
        (
            ptr::read_volatile(&raw const (*flow.0).cookie),
            ptr::read_volatile(&raw const (*flow.0).pod),
        )
    };
    if owner != cookie {
        return;
    }
    let gate = flow.set(CLOSED);
    if gate & CLOSED != 0 {
        return;
    }
    count_pod(pod, -1);
    if gate & INJECTED == 0 && remove(&key, flow) {
        return;
    }
    totals::settle(flow, gate::tag(&key));
    linger(&Http2Closed { key, cookie });
}

/// Removes an entry, unless one of its packets is being handled.
#[inline(always)]
fn remove(key: &Http2Key, flow: FlowRef) -> bool {
    const BOTH: u64 = LOCKED_IN | LOCKED_OUT;
    let gate = flow.set(BOTH);
    if gate & BOTH != 0 {
        // Give back what was free; the rest is its holder's.
        flow.clear(BOTH & !gate);
        return false;
    }
    if gate & SETTLED == 0 {
        totals::fold(flow);
        // Whoever reads the entry meanwhile finds the counters in the totals or here, not twice for long.
        flow.set(SETTLED);
    }
    places::give_back(flow);
    maps::HTTP2_FLOWS.remove(key).is_ok()
}

/// Puts a closed connection into the ring, and removes the one whose place it takes.
#[inline(always)]
fn linger(closed: &Http2Closed) {
    let Some(turns) = maps::HTTP2_TURNS.get_ptr_mut(0) else { return };
    let mut turn = 1_u64;
    // SAFETY: an aligned word of the map's memory.
    unsafe {
        asm!("{turn} = atomic_fetch_add((u64 *)({turns} + 0), {turn})", turns = in(reg) turns, turn = inout(reg) turn);
    }
    let place = maps::HTTP2_CLOSED.get_ptr_mut((turn % abi::HTTP2_CLOSED_MAX as u64) as u32);
    let Some(place) = place else { return };
    // SAFETY: a place is given to one connection in so many that are closed; two at once would be one
    // whole round apart.
    let oldest = unsafe { ptr::replace(place, *closed) };
    let Some(flow) = find(&oldest.key) else { return };
    // SAFETY: written before the entry is inserted, and never again.
    let cookie = unsafe { ptr::read_volatile(&raw const (*flow.0).cookie) };
    if cookie == oldest.cookie && flow.gate() & CLOSED != 0 {
        remove(&oldest.key, flow);
    }
}

/// How many live connections of a pod are followed.
#[inline(always)]
fn pod_flows(pod: u64) -> Option<i64> {
    if let Some(count) = maps::HTTP2_PODS.get_ptr(pod) {
        // SAFETY: a word of the map's memory; volatile since others write.
        return Some(unsafe { ptr::read_volatile(count) }.cast_signed());
    }
    maps::HTTP2_PODS.insert(pod, 0, u64::from(BPF_NOEXIST)).ok()?;
    Some(0)
}

#[inline(always)]
fn count_pod(pod: u64, amount: i64) {
    if let Some(count) = maps::HTTP2_PODS.get_ptr_mut(pod) {
        lookup::add(count, amount);
    }
}

/// Whether the word belongs to this connection, and means something.
#[inline(always)]
pub(super) fn is_of(gate: u64, tag: u64) -> bool {
    gate & TAG == tag && gate & DEAD == 0
}
