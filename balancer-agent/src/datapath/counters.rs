//! Counters of backends as memory that agent and kernel share, for the one thing that a map write
//! cannot do: to add to a counter that the kernel programs add to at the same moment.

use aya::maps::MapData;
use balancer_common::backend::BackendStats;
use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// The mapped array of [`BackendStats`].
pub struct SharedCounters {
    start: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
    backends: u32,
}

// The kernel rounds values up to 8 bytes (`array_map_alloc()`), and `active` is the first field.
const _: () = assert!(
    size_of::<BackendStats>().is_multiple_of(8) && std::mem::offset_of!(BackendStats, active) == 0
);

// === impl SharedCounters ===

impl SharedCounters {
    /// Maps the counters of so many backends.
    ///
    /// # Errors
    /// As the kernel says; `EPERM` for maps that were not made to be shared.
    pub fn open(map: &MapData, backends: u32) -> io::Result<Self> {
        let bytes = size_of::<BackendStats>() * backends as usize;
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
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
        Ok(Self { start, bytes, backends })
    }

    /// Adds to the active connections of a backend, or takes from them.
    pub fn add_active(&self, backend: u32, change: i64) {
        if backend >= self.backends {
            return;
        }
        // SAFETY: the mapping holds `backends` records, each aligned to 8 bytes, and lives as long
        // as `self`. Everybody else, the kernel programs included, adds by atomics.
        let active = unsafe {
            AtomicU64::from_ptr(
                self.start.cast::<BackendStats>().add(backend as usize).cast::<u64>().as_ptr(),
            )
        };
        active.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }
}

impl Drop for SharedCounters {
    fn drop(&mut self) {
        // SAFETY: the very mapping made above, of which no reference is left.
        let _ = unsafe { nix::sys::mman::munmap(self.start, self.bytes.get()) };
    }
}
