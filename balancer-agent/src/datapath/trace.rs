//! Live decisions: switches tracing on for as long as somebody reads, and decodes the events.

use super::{
    bpffs::PinRoot,
    maps::{self, Maps, OpenError},
    raw::Raw,
};
use aya::maps::{MapData, MapError, RingBuf};
use balancer_common::trace::TraceEvent;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};
use std::{fs::File, io, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// Tracing stays on for this long after its reader was last heard of.
const LEASE_NS: u64 = 2_000_000_000;
/// How often the reader renews the lease.
const RENEWAL: Duration = Duration::from_millis(500);

/// `CLOCK_MONOTONIC`, the kernel programs' clock, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    let (seconds, nanoseconds) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}

/// Why decisions cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The maps.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The settings record.
    #[error("switch tracing on: {0}")]
    Settings(#[from] MapError),
    /// A ring buffer has one reader.
    #[error("another `trace` is running; hint: end it first, there can be one")]
    Busy,
    /// The ring buffer.
    #[error("wait for trace events: {0}")]
    Wait(#[from] io::Error),
}

/// Reads decisions as they are made. One at a time: a ring buffer has one reader.
pub struct Tracer {
    maps: Maps,
    events: AsyncFd<RingBuf<MapData>>,
    renewal: tokio::time::Interval,
    /// Held, over all processes, by whoever reads the ring buffer.
    _turn: Flock<File>,
}

impl Tracer {
    /// Opens the ring buffer, forgets what older tracers left in it, and switches tracing on.
    ///
    /// # Errors
    /// [`TraceError`] says what is missing.
    pub fn start(pins: &PinRoot) -> Result<Self, TraceError> {
        let maps = Maps::open_loaded(pins)?;
        let turn = take_turn(pins)?;
        let mut events = maps::open_traces(pins)?;
        while events.next().is_some() {}
        // SAFETY: the ring buffer owns its descriptor and keeps it for as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(io::Error::from)?;
        let mut tracer =
            Self { maps, events, renewal: tokio::time::interval(RENEWAL), _turn: turn };
        tracer.lease(monotonic_ns() + LEASE_NS)?;
        Ok(tracer)
    }

    /// Waits for the next decision.
    ///
    /// # Errors
    /// [`TraceError`] when the maps went away.
    pub async fn next(&mut self) -> Result<TraceEvent, TraceError> {
        loop {
            if let Some(event) = self.take() {
                return Ok(event);
            }
            tokio::select! {
                ready = self.events.readable_mut() => ready?.clear_ready(),
                _ = self.renewal.tick() => {
                    self.lease(monotonic_ns() + LEASE_NS)?;
                }
            }
        }
    }

    /// The next event that is in the buffer already.
    fn take(&mut self) -> Option<TraceEvent> {
        let buffer = self.events.get_mut();
        while let Some(item) = buffer.next() {
            // Events of another length are another version's.
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                return Some(event);
            }
        }
        None
    }

    fn lease(&mut self, until_ns: u64) -> Result<(), MapError> {
        let mut settings = self.maps.settings.get(&0, 0)?.0;
        settings.trace_until_ns = until_ns;
        self.maps.settings.set(0, Raw(settings), 0)
    }
}

/// Locks the directory of links, which is there whenever something is loaded. Pinned maps
/// themselves cannot be opened as files.
fn take_turn(pins: &PinRoot) -> Result<Flock<File>, TraceError> {
    let directory = File::open(pins.links())?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => TraceError::Busy,
        errno => TraceError::Wait(errno.into()),
    })
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Err(error) = self.lease(0) {
            tracing::warn!(%error, "tracing stays on until its lease ends");
        }
    }
}
