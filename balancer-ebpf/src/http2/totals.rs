//! Adds what a connection has counted to the totals of its backend: once, and nothing is counted after that.

use super::{
    flows::{self, FlowRef},
    places,
};
use crate::{lookup, maps};
use aya_ebpf::bindings::BPF_NOEXIST;
use balancer_common::http2::{
    counts::{COUNTS_WORDS, Http2Totals, Http2TotalsKey},
    flow::Http2Flow,
    gate::{CLOSED, LOCKED_IN, LOCKED_OUT, OPAQUE, SETTLED},
};
use core::ptr;

const BOTH: u64 = LOCKED_IN | LOCKED_OUT;

/// How often both locks are tried. Each failed try is followed by another one, or by somebody else's.
const SETTLE_ATTEMPTS: u32 = 8;

/// Gives a lock back; settles what has come to its end meanwhile. Returns the gate as it was.
#[inline(always)]
pub(super) fn release(flow: FlowRef, lock: u64, tag: u64, is_in_sync: bool) -> u64 {
    let gate = flow.clear(lock);
    if gate & SETTLED == 0 && (gate & (CLOSED | OPAQUE) != 0 || !is_in_sync) {
        settle(flow, tag);
    }
    gate
}

/// Settles a connection that is closed or cannot be followed any more, unless somebody is at it.
#[inline(always)]
pub(super) fn settle(flow: FlowRef, tag: u64) {
    // SAFETY: the entry is memory of the map, and the function believes its gate only.
    unsafe { http2_settle(flow.0, tag) };
}

/// See [`settle`].
///
/// # Safety
/// The pointer is that of an entry, be it one that was removed.
// VERIFIER: a global function, which is verified once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_settle(flow: *mut Http2Flow, tag: u64) -> u64 {
    if flow.is_null() {
        return 0;
    }
    let flow = FlowRef(flow);
    // VERIFIER: a constant bound.
    for _ in 0..SETTLE_ATTEMPTS {
        let before = flow.set(BOTH);
        if before & BOTH == 0 {
            if flows::is_of(before, tag) && before & SETTLED == 0 {
                fold(flow);
                places::give_back(flow);
                flow.set(SETTLED);
            }
            flow.clear(BOTH);
            return 1;
        }
        // Give back what was free; the rest is its holder's.
        let after = flow.clear(BOTH & !before);
        if after & before & BOTH != 0 {
            // The holder will find that it is closed, and this one gone.
            return 0;
        }
    }
    0
}

/// Adds the counters to the totals, and gives back what is in flight. The caller holds both locks, and
/// sets [`SETTLED`] or removes the entry before it gives them back.
#[inline(always)]
pub(super) fn fold(flow: FlowRef) {
    // SAFETY: both locks are held, so that nobody writes these.
    let (backend, in_flight) = unsafe {
        let flow = &*flow.0;
        (flow.backend, flow.counts.in_flight())
    };
    if in_flight != 0 {
        count_in_flight(backend, -i64::from(in_flight));
    }
    let Some(totals) = totals(&key_of(flow)) else { return };
    // SAFETY: pointers into the maps' memory. The agent removes totals only of backends that have been
    // gone for a while.
    unsafe {
        lookup::add(&raw mut (*totals).connections, 1);
        lookup::add(&raw mut (*totals).sent_bytes, (*flow.0).sent_bytes.cast_signed());
        lookup::add(&raw mut (*totals).received_bytes, (*flow.0).received_bytes.cast_signed());
        let counts: *const u32 = (&raw const (*flow.0).counts).cast();
        let sums: *mut u64 = (&raw mut (*totals).sums).cast();
        for index in 0..COUNTS_WORDS {
            let count = ptr::read_volatile(counts.add(index));
            if count != 0 {
                lookup::add(sums.add(index), i64::from(count));
            }
        }
    }
}

#[inline(always)]
fn key_of(flow: FlowRef) -> Http2TotalsKey {
    // SAFETY: written before the entry is inserted, and never again.
    unsafe {
        Http2TotalsKey {
            service: ptr::read_volatile(&raw const (*flow.0).service),
            backend: ptr::read_volatile(&raw const (*flow.0).backend),
            incarnation: ptr::read_volatile(&raw const (*flow.0).incarnation),
            reserved: 0,
        }
    }
}

/// The totals of a backend; new ones if there are none.
#[inline(always)]
pub(super) fn totals(key: &Http2TotalsKey) -> Option<*mut Http2Totals> {
    if let Some(totals) = maps::HTTP2_TOTALS.get_ptr_mut(key) {
        return Some(totals);
    }
    let zero = maps::HTTP2_ZERO.get_ptr(0)?;
    // SAFETY: nobody writes to this value. Another CPU may be faster.
    let _ = unsafe { maps::HTTP2_TOTALS.insert(key, &*zero, u64::from(BPF_NOEXIST)) };
    maps::HTTP2_TOTALS.get_ptr_mut(key)
}

/// Changes how many streams of a backend are in flight.
#[inline(always)]
pub(super) fn count_in_flight(backend: u32, amount: i64) {
    if let Some(count) = maps::HTTP2_IN_FLIGHT.get_ptr_mut(backend) {
        lookup::add(count, amount);
    }
}
