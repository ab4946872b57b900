//! The flows of tracked connections, which programs keep in seats and in a table behind these.
//!
//! Seats are memory that agent and kernel share: reading thousands of them takes no system call, and
//! both take a seat by the same atomic exchange.

use super::{maps::Hash, raw::Raw};
use aya::maps::{MapData, MapError};
use balancer_common::flow::{Flow, SEAT_CLAIMED, SEAT_FREE, Seat};
use std::{
    collections::BTreeMap,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

/// How often a seat is read that changes hands meanwhile. One read takes some 20 ns, and nobody sits
/// down and stands up that often in between.
const READS_MAX: usize = 8;
/// `BPF_NOEXIST` and `BPF_EXIST` of include/uapi/linux/bpf.h.
const NEW_ONLY: u64 = 1;
const KNOWN_ONLY: u64 = 2;

/// Seats, and the table of those whose seat is taken.
pub struct Flows {
    seats: Seats,
    elsewhere: Hash<u64, Flow>,
}

// === impl Flows ===

impl Flows {
    /// Maps so many seats, a power of two.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(seats: &MapData, count: u32, elsewhere: Hash<u64, Flow>) -> io::Result<Self> {
        Ok(Self { seats: Seats::open(seats, count)?, elsewhere })
    }

    /// All flows by socket cookie.
    ///
    /// Connections that begin or end meanwhile may be missing.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read(&self) -> Result<BTreeMap<u64, Flow>, MapError> {
        let mut flows = BTreeMap::new();
        for entry in &self.elsewhere {
            let (cookie, flow) = entry?;
            flows.insert(cookie.0, flow.0);
        }
        flows.extend(self.seats.iter());
        Ok(flows)
    }

    /// How many there are.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn count(&self) -> Result<usize, MapError> {
        Ok(self.seats.iter().count() + self.count_elsewhere()?)
    }

    /// Whether, with room for `limit`, nobody is let in whose seat is taken.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn is_full(&self, limit: u32) -> Result<bool, MapError> {
        Ok(self.count_elsewhere()? + self.seats.count >= limit as usize)
    }

    fn count_elsewhere(&self) -> Result<usize, MapError> {
        self.elsewhere.keys().try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Adds a flow; false if the socket has one already, or when there is no room.
    pub fn add(&mut self, cookie: u64, flow: &Flow) -> bool {
        let seat = self.seats.seat(cookie);
        if seat.is_of(cookie) {
            return false;
        }
        if seat.take(cookie, flow) {
            return true;
        }
        // Counted first: programs look into the table only where something is counted.
        seat.elsewhere().fetch_add(1, Ordering::SeqCst);
        let added = self.elsewhere.insert(Raw(cookie), Raw(*flow), NEW_ONLY).is_ok();
        if !added {
            seat.elsewhere().fetch_sub(1, Ordering::SeqCst);
        }
        added
    }

    /// Brings up to date what changes of a flow while it lives; false if the socket has none.
    pub fn update(&mut self, cookie: u64, flow: &Flow) -> bool {
        let seat = self.seats.seat(cookie);
        if seat.is_of(cookie) {
            seat.update(flow);
            return true;
        }
        self.elsewhere.insert(Raw(cookie), Raw(*flow), KNOWN_ONLY).is_ok()
    }

    /// Removes the flow of a socket; false if there is none (any more).
    pub fn remove(&mut self, cookie: u64) -> bool {
        let seat = self.seats.seat(cookie);
        if seat.leave(cookie) {
            return true;
        }
        let removed = self.elsewhere.remove(&Raw(cookie)).is_ok();
        if removed {
            seat.elsewhere().fetch_sub(1, Ordering::SeqCst);
        }
        removed
    }
}

/// The mapped array of [`Seat`].
struct Seats {
    start: NonNull<Seat>,
    bytes: NonZeroUsize,
    count: usize,
}

// SAFETY: the mapping belongs to no thread, and whatever is in it is reached by atomics, or read as
// what others may change at any moment.
unsafe impl Send for Seats {}

// === impl Seats ===

impl Seats {
    fn open(map: &MapData, count: u32) -> io::Result<Self> {
        let count = count as usize;
        let bytes =
            NonZeroUsize::new(size_of::<Seat>() * count).ok_or(io::ErrorKind::InvalidInput)?;
        let protection =
            nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            nix::sys::mman::mmap(
                None,
                bytes,
                protection,
                nix::sys::mman::MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self { start: start.cast(), bytes, count })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
    fn seat(&self, cookie: u64) -> SeatRef {
        let index = cookie as usize & (self.count - 1);
        // SAFETY: the index is below the count, which is a power of two.
        SeatRef(unsafe { self.start.add(index) })
    }

    fn iter(&self) -> impl Iterator<Item = (u64, Flow)> {
        (0..self.count as u64).filter_map(|index| self.seat(index).read())
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        // SAFETY: the very mapping made above; no `SeatRef` outlives the call that made it.
        let _ = unsafe { nix::sys::mman::munmap(self.start.cast(), self.bytes.get()) };
    }
}

#[derive(Clone, Copy)]
struct SeatRef(NonNull<Seat>);

// === impl SeatRef ===

impl SeatRef {
    fn cookie(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as the call that made this; everybody else, the kernel
        // programs included, changes the word by atomics. It is the first field of 8 aligned bytes.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.0.as_ptr()).cookie) }
    }

    fn elsewhere(&self) -> &AtomicU64 {
        // SAFETY: as in `cookie`.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.0.as_ptr()).elsewhere) }
    }

    fn is_of(self, cookie: u64) -> bool {
        self.cookie().load(Ordering::SeqCst) == cookie
    }

    /// Who sits here, and its flow, if both belong together.
    fn read(self) -> Option<(u64, Flow)> {
        for _ in 0..READS_MAX {
            let cookie = self.cookie().load(Ordering::SeqCst);
            if cookie == SEAT_FREE || cookie == SEAT_CLAIMED {
                return None;
            }
            // SAFETY: as in `cookie`; any bytes are a flow, and the check below drops a torn one.
            let flow = unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).flow) };
            std::sync::atomic::fence(Ordering::SeqCst);
            if self.is_of(cookie) {
                return Some((cookie, flow));
            }
        }
        None
    }

    fn take(self, cookie: u64, flow: &Flow) -> bool {
        if !self.exchange(SEAT_FREE, SEAT_CLAIMED) {
            return false;
        }
        // SAFETY: as in `cookie`; nobody else writes to a claimed seat.
        unsafe { ptr::write_volatile(&raw mut (*self.0.as_ptr()).flow, *flow) };
        self.cookie().store(cookie, Ordering::SeqCst);
        true
    }

    /// In place: a claimed seat would hide the flow from a program that is about to end it. Of one who
    /// sat down a moment ago, the backend and all else that is counted stays right.
    fn update(self, flow: &Flow) {
        let place = self.0.as_ptr();
        // SAFETY: as in `cookie`; aligned words do not tear.
        unsafe {
            ptr::write_volatile(&raw mut (*place).flow.started_ns, flow.started_ns);
            ptr::write_volatile(&raw mut (*place).flow.state, flow.state);
            ptr::write_volatile(&raw mut (*place).flow.flags, flow.flags);
            ptr::write_volatile(&raw mut (*place).flow.srtt_us, flow.srtt_us);
            ptr::write_volatile(&raw mut (*place).flow.retransmits, flow.retransmits);
            ptr::write_volatile(&raw mut (*place).flow.samples, flow.samples);
        }
    }

    fn leave(self, cookie: u64) -> bool {
        self.exchange(cookie, SEAT_FREE)
    }

    fn exchange(self, old: u64, new: u64) -> bool {
        self.cookie().compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}
