//! Where flows are: in the seat of their socket's cookie, or in the table behind the seats.

use super::add;
use crate::maps;
use aya_ebpf::bindings::BPF_NOEXIST;
use balancer_common::flow::{Flow, SEAT_CLAIMED, SEAT_FREE, Seat};
use core::{arch::asm, ptr};

/// A copy of the flow of a socket.
#[inline(always)]
pub(crate) fn flow(cookie: u64) -> Option<Flow> {
    // SAFETY: copied at once, field by field. A cookie is never used again, and only its own
    // socket's hooks remove it.
    find(cookie).map(|flow| unsafe { ptr::read_volatile(flow) })
}

/// Whether a socket has a flow.
#[inline(always)]
pub(crate) fn has_flow(cookie: u64) -> bool {
    find(cookie).is_some()
}

/// Changes the flow of a socket in place, from a hook that holds the socket's lock.
#[inline(always)]
pub(crate) fn change_flow(cookie: u64, change: impl FnOnce(&mut Flow)) -> Option<Flow> {
    let flow = find(cookie)?;
    // SAFETY: sock_ops callbacks of one socket run one at a time, under its lock. The release hook
    // may remove the flow meanwhile; then the change is lost with it.
    let flow = unsafe { &mut *flow };
    change(flow);
    Some(*flow)
}

/// Records the flow of a socket that has none; false when there is no room.
#[inline(always)]
pub(crate) fn add_flow<const EXCHANGE: bool>(cookie: u64, flow: &Flow) -> bool {
    let seat = seat(cookie);
    if EXCHANGE
        && let Some(seat) = seat
        && seat.replace(SEAT_FREE, SEAT_CLAIMED)
    {
        seat.sit_down(cookie, flow);
        return true;
    }
    if maps::FLOWS.insert(&cookie, flow, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    if let Some(seat) = seat {
        seat.count_elsewhere(1);
    }
    true
}

/// Removes the flow of a socket; true for one caller only.
#[inline(always)]
pub(crate) fn remove_flow<const EXCHANGE: bool>(cookie: u64) -> bool {
    let seat = seat(cookie);
    if let Some(seat) = seat
        && seat.is_of(cookie)
    {
        if EXCHANGE {
            return seat.replace(cookie, SEAT_FREE);
        }
        seat.clear();
        return true;
    }
    if maps::FLOWS.remove(cookie).is_err() {
        return false;
    }
    if let Some(seat) = seat {
        seat.count_elsewhere(-1);
    }
    true
}

#[inline(always)]
fn find(cookie: u64) -> Option<*mut Flow> {
    if let Some(seat) = seat(cookie) {
        if seat.is_of(cookie) {
            return Some(seat.flow());
        }
        if !seat.has_elsewhere() {
            return None;
        }
    }
    maps::FLOWS.get_ptr_mut(cookie)
}

#[derive(Clone, Copy)]
struct SeatRef(*mut Seat);

#[inline(always)]
fn seat(cookie: u64) -> Option<SeatRef> {
    maps::SEATS.get_ptr_mut(cookie as u32 & maps::SEAT_MASK.load()).map(SeatRef)
}

impl SeatRef {
    #[inline(always)]
    fn is_of(self, cookie: u64) -> bool {
        // SAFETY: array values stay valid; the read is volatile since other CPUs write.
        unsafe { ptr::read_volatile(&raw const (*self.0).cookie) == cookie }
    }

    #[inline(always)]
    fn has_elsewhere(self) -> bool {
        // SAFETY: as in `is_of`.
        unsafe { ptr::read_volatile(&raw const (*self.0).elsewhere) != 0 }
    }

    #[inline(always)]
    fn count_elsewhere(self, amount: i64) {
        // SAFETY: array values stay valid, and the pointer is into the value.
        add(unsafe { &raw mut (*self.0).elsewhere }, amount);
    }

    #[inline(always)]
    fn flow(self) -> *mut Flow {
        // SAFETY: as in `count_elsewhere`.
        unsafe { &raw mut (*self.0).flow }
    }

    /// Replaces the owner, if it is `old`; true for one caller only.
    #[inline(always)]
    fn replace(self, old: u64, new: u64) -> bool {
        let mut value = old;
        // SAFETY: as in `count_elsewhere`; the word is aligned.
        unsafe {
            let owner = &raw mut (*self.0).cookie;
            asm!("r0 = cmpxchg_64({owner} + 0, r0, {new})", owner = in(reg) owner, new = in(reg) new, inout("r0") value);
        }
        value == old
    }

    /// Fills a seat that the caller has claimed. Whoever reads the cookie then sees the flow: an
    /// exchange is a full barrier.
    #[inline(always)]
    fn sit_down(self, cookie: u64, flow: &Flow) {
        let mut value = cookie;
        // SAFETY: as in `replace`; nobody else writes to a claimed seat.
        unsafe {
            ptr::write_volatile(self.flow(), *flow);
            let owner = &raw mut (*self.0).cookie;
            asm!("{value} = xchg_64({owner} + 0, {value})", owner = in(reg) owner, value = inout(reg) value);
        }
        let _ = value;
    }

    /// As `replace(cookie, SEAT_FREE)`, for programs that kernels before 5.12 are to take. Those seat
    /// nobody: there is something to clear only if a kernel took one half of the programs in full.
    #[inline(always)]
    fn clear(self) {
        // SAFETY: as in `is_of`; an aligned word does not tear.
        unsafe { ptr::write_volatile(&raw mut (*self.0).cookie, SEAT_FREE) }
    }
}
