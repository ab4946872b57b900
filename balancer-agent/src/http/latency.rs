//! How long a change takes from its observation to its last map write.

use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds in seconds. A single change takes some hundred microseconds, the first snapshot of a
/// large cluster some seconds; the bar is 50 ms.
const BOUNDS_S: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// A histogram of programming latency. Clones share their counts.
#[derive(Clone, Debug)]
pub struct ProgrammingLatency(Histogram);

impl Default for ProgrammingLatency {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS_S))
    }
}

impl ProgrammingLatency {
    /// Takes down one change.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// The histogram.
    pub(super) fn histogram(&self) -> &Histogram {
        &self.0
    }
}
