//! Gives memory back to the system that was needed for a while only.
//!
//! glibc keeps what a thread has freed for that thread's next use. For ten thousand services that was
//! measured to be 10 MB of a configuration's syntax tree, 130 MB of one answer to `status`, and 110 MB
//! of the objects that two thousand changes of a large cluster brought.

use std::fs;

/// Growth since memory was given back last, after which some is given back again.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// `sysconf(_SC_PAGESIZE)` where BPF runs in clouds; elsewhere growth is counted a little too low.
const PAGE_BYTES: u64 = 4_096;

/// When memory is to be given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Something large is over.
    pub(super) is_due: bool,
    /// What was resident after memory was given back last.
    resident_bytes: u64,
}

// === impl Memory ===

impl Memory {
    /// Gives memory back if something large is over, or if the process has grown.
    pub(super) fn sweep(&mut self) {
        let grown = resident_bytes().saturating_sub(self.resident_bytes);
        if std::mem::take(&mut self.is_due) || grown > GROWTH_BYTES_MAX {
            give_back();
            self.resident_bytes = resident_bytes();
        }
    }
}

/// Zero where it cannot be read, which gives back nothing.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * PAGE_BYTES
}

/// Returns free memory of all of the allocator's arenas.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
