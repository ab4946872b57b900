//! The log of the kernel programs, as it comes out of its ring buffer.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;
use std::io;
use tokio::io::{Interest, unix::AsyncFd};

/// A reader of the kernel programs' log.
pub struct DatapathLog(AsyncFd<EbpfLogger<&'static dyn Log>>);

impl DatapathLog {
    /// Takes the log of freshly loaded programs.
    ///
    /// # Errors
    /// When the object has no log, or the runtime cannot wait for it.
    pub fn open(ebpf: &mut Ebpf) -> io::Result<Self> {
        let logger = EbpfLogger::init(ebpf).map_err(io::Error::other)?;
        // SAFETY: the logger owns its ring buffer's descriptor and keeps it while it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
        Ok(Self(logger))
    }

    /// Hands every record to the [`log`] crate, for ever.
    pub async fn forward(mut self) {
        while let Ok(mut ready) = self.0.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
