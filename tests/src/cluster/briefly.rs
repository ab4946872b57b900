//! Pauses of watches whose API server is killed and restarted on purpose.

use kube::runtime::utils::Backoff;
use std::time::Duration;

/// One pause as short as the other: tests wait for the API server to come back, and are its only
/// clients.
pub(super) struct Briefly;

impl Iterator for Briefly {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Briefly {
    fn reset(&mut self) {}
}
