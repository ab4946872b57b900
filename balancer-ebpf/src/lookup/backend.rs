//! Lookups of backends, and the only changes that the kernel makes to their counters.

use super::add;
use crate::maps;
use balancer_common::backend::{Backend, BackendStats, EJECTION_NS, ejection_ns};
use core::ptr;

/// A copy of a backend's record.
#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<Backend> {
    // SAFETY: array values stay valid; the read is volatile since the agent writes them.
    maps::BACKENDS.get_ptr(id).map(|backend| unsafe { ptr::read_volatile(backend) })
}

/// A backend's weight.
#[inline(always)]
pub(crate) fn backend_weight(id: u32) -> Option<u32> {
    // SAFETY: as in `backend`.
    maps::BACKENDS.get_ptr(id).map(|it| unsafe { ptr::read_volatile(&raw const (*it).weight) })
}

/// A backend's number of live connections, unless it is ejected at `now_ns`.
#[inline(always)]
pub(crate) fn backend_active(id: u32, now_ns: u64) -> Option<u64> {
    let stats = maps::BACKEND_STATS.get_ptr(id)?;
    // SAFETY: as in `backend`.
    let (active, ejected_until_ns) = unsafe {
        (
            ptr::read_volatile(&raw const (*stats).active),
            ptr::read_volatile(&raw const (*stats).ejected_until_ns),
        )
    };
    (ejected_until_ns <= now_ns).then_some(active)
}

/// A backend's requests in flight, on connections whose frames are followed.
#[inline(always)]
pub(crate) fn requests_in_flight(id: u32) -> u64 {
    match maps::HTTP2_IN_FLIGHT.get_ptr(id) {
        // Less than none for a moment, where a stream ends on one processor while another is about to count it.
        // SAFETY: array values stay valid; the read is volatile since other CPUs write.
        Some(count) => unsafe { ptr::read_volatile(count) }.cast_signed().max(0).cast_unsigned(),
        None => 0,
    }
}

/// A backend's counters.
#[derive(Clone, Copy)]
pub(crate) struct StatsRef(*mut BackendStats);

#[inline(always)]
pub(crate) fn backend_stats(id: u32) -> Option<StatsRef> {
    maps::BACKEND_STATS.get_ptr_mut(id).map(StatsRef)
}

/// A counter of [`BackendStats`].
pub(crate) enum Counter {
    Active,
    Picked,
    Established,
    Closed,
    Reset,
    Refused,
    TimedOut,
    Abandoned,
    Retransmits,
    Ejections,
}

impl StatsRef {
    #[inline(always)]
    pub(crate) fn add(self, counter: Counter, amount: i64) {
        // SAFETY: array values stay valid, and the pointers are into the value.
        let target = unsafe {
            match counter {
                Counter::Active => &raw mut (*self.0).active,
                Counter::Picked => &raw mut (*self.0).picked,
                Counter::Established => &raw mut (*self.0).established,
                Counter::Closed => &raw mut (*self.0).closed,
                Counter::Reset => &raw mut (*self.0).reset,
                Counter::Refused => &raw mut (*self.0).refused,
                Counter::TimedOut => &raw mut (*self.0).timed_out,
                Counter::Abandoned => &raw mut (*self.0).abandoned,
                Counter::Retransmits => &raw mut (*self.0).retransmits,
                Counter::Ejections => &raw mut (*self.0).ejections,
            }
        };
        add(target, amount);
    }

    #[inline(always)]
    pub(crate) fn set_srtt_us(self, srtt_us: u32) {
        // SAFETY: array values stay valid; an aligned word does not tear.
        unsafe { ptr::write_volatile(&raw mut (*self.0).srtt_us, u64::from(srtt_us)) }
    }
}

impl StatsRef {
    /// Ejects the backend at `now_ns` unless it is ejected already; returns whether it did.
    #[inline(always)]
    pub(crate) fn eject(self, has_failed: bool, now_ns: u64) -> bool {
        // SAFETY: array values stay valid, and aligned words do not tear. Of two CPUs that eject at
        // the same moment both write about the same: the backend is ejected once, a little longer.
        unsafe {
            if ptr::read_volatile(&raw const (*self.0).ejected_until_ns) > now_ns {
                return false;
            }
            let mut failures = ptr::read_volatile(&raw const (*self.0).failures);
            if has_failed {
                failures += 1;
                ptr::write_volatile(&raw mut (*self.0).failures, failures);
            }
            let ejection_ns = if has_failed { ejection_ns(failures) } else { EJECTION_NS };
            ptr::write_volatile(&raw mut (*self.0).ejected_until_ns, now_ns + ejection_ns);
        }
        self.add(Counter::Ejections, 1);
        true
    }

    /// A connection attempt succeeded: whatever there was against the backend does not count any more.
    #[inline(always)]
    pub(crate) fn readmit(self) {
        // SAFETY: as in `eject`.
        unsafe {
            if ptr::read_volatile(&raw const (*self.0).ejected_until_ns) != 0 {
                ptr::write_volatile(&raw mut (*self.0).failures, 0);
                ptr::write_volatile(&raw mut (*self.0).ejected_until_ns, 0);
            }
        }
    }
}

/// Until when a backend is ejected, by `CLOCK_MONOTONIC`; zero for one that never was.
#[inline(always)]
pub(crate) fn ejected_until_ns(id: u32) -> u64 {
    match maps::BACKEND_STATS.get_ptr(id) {
        // SAFETY: array values stay valid; the read is volatile since other CPUs write.
        Some(stats) => unsafe { ptr::read_volatile(&raw const (*stats).ejected_until_ns) },
        None => 0,
    }
}
