//! How long a change takes from its observation to its last map write.

use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds in seconds. A single change takes some hundred microseconds, the first snapshot of a
/// large cluster some seconds; the bar is 50 ms.
const BOUNDS_S: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// Upper bounds in seconds of what is counted from the change of a Pod or Service on.
const TRIGGER_BOUNDS_S: [f64; 12] =
    [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// A histogram of programming latency. Clones share their counts.
#[derive(Clone, Debug)]
pub struct ProgrammingLatency(Histogram);

impl Default for ProgrammingLatency {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS_S))
    }
}

impl ProgrammingLatency {
    /// One for what is counted from the change of a Pod or Service on, in whole seconds mostly.
    pub fn since_trigger() -> Self {
        Self(Histogram::new(TRIGGER_BOUNDS_S))
    }

    /// Takes down one change.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// The histogram.
    pub(super) fn histogram(&self) -> &Histogram {
        &self.0
    }
}
