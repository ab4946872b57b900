//! How many moves a service may begin now: a token bucket that fills with time.

use std::time::Duration;

/// Tokens of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    tokens: f64,
    filled_at: Option<Duration>,
    is_unlimited: bool,
}

// === impl Budget ===

impl Budget {
    /// A budget that never ends.
    pub(super) fn unlimited() -> Self {
        Self { is_unlimited: true, ..Self::default() }
    }

    /// Fills up for the time that went by: `per_s` tokens a second, of which half a second's are kept.
    pub(super) fn fill(&mut self, per_s: f64, now: Duration) {
        let kept_max = (per_s / 2.0).max(1.0);
        let passed = match self.filled_at {
            Some(at) => now.saturating_sub(at).as_secs_f64(),
            // A service that was never moved begins with a full bucket.
            None => f64::INFINITY,
        };
        self.filled_at = Some(now);
        self.tokens = (self.tokens + per_s * passed).min(kept_max);
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self) -> bool {
        if self.is_unlimited {
            return true;
        }
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_burst() {
        let mut budget = Budget::default();
        let mut taken = 0;
        for step in 0..100 {
            budget.fill(10.0, Duration::from_millis(100 * step));
            while budget.take() {
                taken += 1;
            }
        }
        // Ten seconds, and the half second that it began with.
        assert!((100..=105).contains(&taken), "{taken}");
        budget.fill(10.0, Duration::from_hours(1));
        let burst = std::iter::from_fn(|| budget.take().then_some(())).count();
        assert_eq!(burst, 5);
        assert!((0..1_000).all(|_| Budget::unlimited().take()));
    }
}
