//! Places for bytes behind a hole: taken by a connection's direction, shared between pods, given back.
//!
//! A place belongs to whoever put its name there by a compare-and-swap, and is touched only between another
//! one that makes it busy and a third that ends this. So the place of a connection that was forgotten can be
//! taken by another one: should its owner come back, it finds another name, and has lost its bytes.

use super::flows::{FlowRef, swap};
use crate::{context, maps};
use balancer_common::{
    abi,
    http2::{
        held::{HELD_BUSY, HELD_OF_CLIENT, Held},
        track::Track,
    },
    pick::mix,
};
use core::ptr;

/// A place in which nothing was kept for so long was forgotten: TCP repeats what was lost after 200 ms to a
/// few seconds.
const STALE_NS: u64 = 60_000_000_000;

/// A place of which the name is ours, and marked as busy.
#[derive(Clone, Copy)]
pub(super) struct Place(pub(super) *mut Held);

// === impl Place ===

impl Place {
    /// Makes a place busy, if its owner is as expected.
    #[inline(always)]
    fn open(held: *mut Held, expected: u64, owner: u64) -> Option<Self> {
        // SAFETY: an aligned word of the map's memory.
        let found = unsafe { swap(&raw mut (*held).owner, expected, owner | HELD_BUSY) };
        (found == expected).then_some(Self(held))
    }

    /// Leaves it to its owner, or to anybody if that is zero.
    #[inline(always)]
    pub(super) fn close(self, busy: u64, owner: u64) {
        // SAFETY: as in `open`. Nobody else changes the word of a busy place.
        unsafe { swap(&raw mut (*self.0).owner, busy | HELD_BUSY, owner) };
    }
}

/// The name under which a direction of a connection has its place.
#[inline(always)]
pub(super) fn owner_of(flow: FlowRef, from_client: bool) -> u64 {
    // SAFETY: written before the entry is inserted, and never again.
    let cookie = unsafe { ptr::read_volatile(&raw const (*flow.0).cookie) };
    (cookie & !(HELD_BUSY | HELD_OF_CLIENT)) | if from_client { HELD_OF_CLIENT } else { 0 }
}

/// The track of a direction.
#[inline(always)]
pub(super) fn track_of(flow: FlowRef, from_client: bool) -> *mut Track {
    // SAFETY: only an address is taken.
    unsafe { if from_client { &raw mut (*flow.0).outbound } else { &raw mut (*flow.0).inbound } }
}

/// The place that the track has, made busy.
///
/// # Safety
/// The caller holds the lock under which the track is changed.
#[inline(always)]
pub(super) unsafe fn own(track: *mut Track, owner: u64) -> Option<Place> {
    // SAFETY: the caller holds the lock under which the track is changed.
    let index = unsafe { (*track).held }.wrapping_sub(1);
    Place::open(maps::HTTP2_HELD.get_ptr_mut(index)?, owner, owner)
}

/// A free place, or one that was forgotten, made busy. Where a pod's places begin depends on the pod.
///
/// # Safety
/// As of [`own`].
#[inline(always)]
pub(super) unsafe fn take(flow: FlowRef, track: *mut Track, owner: u64) -> Option<Place> {
    // SAFETY: written before the entry is inserted, and never again.
    let first = mix(unsafe { ptr::read_volatile(&raw const (*flow.0).pod) }) as u32;
    let now = context::now_ns();
    // VERIFIER: a constant bound.
    for attempt in 0..abi::HTTP2_POD_HELD_MAX {
        let index = first.wrapping_add(attempt) % abi::HTTP2_HELD_MAX as u32;
        let held = maps::HTTP2_HELD.get_ptr_mut(index)?;
        // SAFETY: words of the map's memory; volatile since others write.
        let (old, kept_ns) = unsafe {
            (
                ptr::read_volatile(&raw const (*held).owner),
                ptr::read_volatile(&raw const (*held).kept_ns),
            )
        };
        if old & HELD_BUSY != 0 || (old != 0 && now.saturating_sub(kept_ns) < STALE_NS) {
            continue;
        }
        if let Some(place) = Place::open(held, old, owner) {
            // SAFETY: the place is busy, and the lock of the track is held.
            unsafe {
                (*held).ranges.clear();
                (*track).held = index + 1;
            }
            return Some(place);
        }
    }
    None
}

/// Gives the places of both directions back. The caller holds both locks.
#[inline(always)]
pub(super) fn give_back(flow: FlowRef) {
    for from_client in [false, true] {
        let track = track_of(flow, from_client);
        // SAFETY: both locks are held.
        unsafe {
            if (*track).held != 0 {
                let owner = owner_of(flow, from_client);
                if let Some(place) = own(track, owner) {
                    place.close(owner, 0);
                }
                (*track).held = 0;
            }
        }
    }
}
