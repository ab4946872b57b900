//! How long a watch waits before it tries again.

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};
use std::time::Duration;

/// Longest pause while the API server cannot be reached at all: it is asked nothing then, and every
/// second without it is one in which a rollout goes unseen.
const UNREACHED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Makes the pauses between tries.
pub type Pauses = fn() -> Box<dyn Backoff>;

/// As client-go's reflectors wait: from 0.8 s to 30 s, and at random.
pub(super) const DEFAULT: Pauses = || Box::new(DefaultBackoff::default());

/// The pauses of one watch.
pub(super) struct Patience {
    /// After answers that say no: the API server has enough to do.
    refused: Box<dyn Backoff>,
    unreached: Box<dyn Backoff>,
}

// === impl Patience ===

impl Patience {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { refused: pauses(), unreached: pauses() }
    }

    /// The pause after this error.
    pub(super) fn after(&mut self, error: &kube::Error) -> Duration {
        if matches!(error, kube::Error::Api(_)) {
            return self.refused.next().unwrap_or_default();
        }
        self.unreached.next().unwrap_or_default().min(UNREACHED_PAUSE_MAX)
    }

    /// The pause after an answer that makes no sense.
    pub(super) fn after_answer(&mut self) -> Duration {
        self.refused.next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn an_api_server_that_is_back_is_noticed_within_seconds() {
        let mut patience = Patience::new(DEFAULT);
        let unreached = kube::Error::ReadEvents(std::io::ErrorKind::ConnectionRefused.into());
        let refused = kube::Error::Api(Box::new(Status::failure("no", "Forbidden")));
        let pauses: Vec<_> = (0..20).map(|_| patience.after(&unreached)).collect();
        assert!(pauses[0] < Duration::from_secs(2), "{pauses:?}");
        assert!(pauses[5..].iter().all(|pause| *pause == UNREACHED_PAUSE_MAX), "{pauses:?}");
        // While it starts it says no for a moment; that is no long pause either.
        assert!(patience.after(&refused) < Duration::from_secs(2));
        let pauses: Vec<_> = (0..20).map(|_| patience.after(&refused)).collect();
        assert!(pauses[8..].iter().all(|pause| *pause >= Duration::from_secs(30)), "{pauses:?}");
    }
}
