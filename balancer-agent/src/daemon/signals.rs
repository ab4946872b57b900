//! The signals that the daemon obeys.

use std::io;
use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
pub(super) enum Signal {
    /// SIGHUP: read the configuration again, and look after the hooks at once.
    Reload,
    /// SIGTERM or SIGINT: end.
    Stop(&'static str),
}

/// Listens for signals.
pub(super) struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
        }
    }
}
