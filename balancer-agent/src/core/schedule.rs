//! Slot layouts: in which order a schedule names its backends, so that any window is balanced.
//!
//! Candidates come in the order of their addresses; every node therefore lays out the same
//! schedule, and the nodes' ranks as first cursors spread all of them together.

use super::{maglev, model::Policy};
use balancer_common::service::SCHEDULE_SLOTS_MAX;
use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

/// Most slots that weights may take up in turn; more backends than this get one slot each.
pub const TURN_SLOTS_MAX: u32 = 4_096;

/// A backend that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight; zero counts as one.
    pub weight: u32,
}

/// The slots of a schedule, each an index into `candidates`; `None` if there are more than fit.
pub fn lay_out(policy: Policy, candidates: &[Candidate]) -> Option<Vec<u32>> {
    let count = u32::try_from(candidates.len()).ok().filter(|n| *n <= SCHEDULE_SLOTS_MAX)?;
    match policy {
        _ if count <= 1 => Some((0..count).collect()),
        // The kernel reads weights from the backends and searches the slots.
        Policy::LeastConnection | Policy::LeastRequest => Some((0..count).collect()),
        Policy::Maglev => maglev::table(candidates),
        Policy::RoundRobin | Policy::Random => {
            let weights: Vec<u32> = candidates.iter().map(|c| c.weight.max(1)).collect();
            Some(turns(&scale(&weights, TURN_SLOTS_MAX.max(count))))
        }
    }
}

/// Divides weights by their greatest common divisor, and scales them down in proportion if their
/// sum is over `sum_max`. Every weight stays at least 1. `sum_max` is at least their number.
fn scale(weights: &[u32], sum_max: u32) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut scaled: Vec<u32> = weights.iter().map(|w| w / divisor).collect();
    let sum: u64 = scaled.iter().map(|w| u64::from(*w)).sum();
    let spare = u64::from(sum_max).saturating_sub(weights.len() as u64);
    if sum > u64::from(sum_max) {
        // One slot is everybody's; what is left over is shared out by weight, rounded down. The
        // share is that of the weight beyond one slot, so that proportions hold for large weights.
        let beyond: u64 = (sum - weights.len() as u64).max(1);
        for weight in &mut scaled {
            let extra = u64::from(*weight - 1) * spare / beyond;
            *weight = 1 + u32::try_from(extra).unwrap_or(sum_max);
        }
        let divisor = scaled.iter().copied().fold(0, gcd).max(1);
        for weight in &mut scaled {
            *weight /= divisor;
        }
    }
    scaled
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Smooth weighted turns: of the first `t` slots, every candidate has within one of its exact share
/// `t * weight / sum` (Tijdeman 1980, "The chairman assignment problem"), so that every window is
/// within two of it, across the wrap too.
///
/// Turn `k` of a candidate may come from slot `(k + 1/m) * sum / weight` on and has its deadline at
/// `(k + 1 - 1/m) * sum / weight`, where `m = 2 * candidates - 2`; the earliest deadline goes first.
fn turns(weights: &[u32]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let m = (2 * weights.len() as u64).saturating_sub(2).max(1);
    let mut slots = Vec::with_capacity(usize::try_from(sum).unwrap_or_default());
    let release = |turn: u64, weight: u32| {
        (u128::from(sum) * u128::from(turn * m + 1)).div_ceil(u128::from(weight) * u128::from(m))
    };
    let mut waiting: BinaryHeap<Reverse<(u128, usize, u64)>> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| Reverse((release(0, *weight), index, 0)))
        .collect();
    let mut ready: BinaryHeap<Reverse<(Deadline, usize, u64)>> = BinaryHeap::new();
    for slot in 1..=u128::from(sum) {
        while let Some(Reverse((time, index, turn))) = waiting.peek().copied() {
            // Somebody is always ready in time; were it not so, the first that waits steps in.
            if time > slot && !ready.is_empty() {
                break;
            }
            waiting.pop();
            ready.push(Reverse((Deadline::new(turn, m, weights[index]), index, turn)));
        }
        let Some(Reverse((_, index, turn))) = ready.pop() else {
            break;
        };
        slots.push(u32::try_from(index).unwrap_or(u32::MAX));
        if turn + 1 < u64::from(weights[index]) {
            waiting.push(Reverse((release(turn + 1, weights[index]), index, turn + 1)));
        }
    }
    slots
}

/// `numerator / weight`, ordered without rounding.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Deadline {
    numerator: u64,
    weight: u32,
}

// === impl Deadline ===

impl Deadline {
    const fn new(turn: u64, m: u64, weight: u32) -> Self {
        Self { numerator: (turn + 1) * m - 1, weight }
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let own = u128::from(self.numerator) * u128::from(other.weight);
        own.cmp(&(u128::from(other.numerator) * u128::from(self.weight)))
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        (0u8..)
            .zip(weights)
            .map(|(n, weight)| Candidate {
                address: SocketAddr::from(([10, 0, 0, n], 80)),
                weight: *weight,
            })
            .collect()
    }

    fn counts(slots: &[u32], candidates: usize) -> Vec<usize> {
        let mut counts = vec![0; candidates];
        for slot in slots {
            counts[*slot as usize] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        for weight in [0, 1, 7] {
            let slots = lay_out(Policy::RoundRobin, &candidates(&[weight; 5]));
            assert_eq!(slots, Some(vec![0, 1, 2, 3, 4]));
        }
    }

    #[test]
    fn a_heavy_candidate_is_interleaved() {
        let slots = lay_out(Policy::RoundRobin, &candidates(&[4, 1, 1])).unwrap();
        assert_eq!(counts(&slots, 3), [4, 1, 1]);
        assert!(slots.windows(4).all(|window| window.iter().any(|slot| *slot != 0)));
    }

    #[test]
    fn the_least_loaded_have_one_slot_each() {
        for policy in [Policy::LeastConnection, Policy::LeastRequest] {
            let slots = lay_out(policy, &candidates(&[9, 1, 5]));
            assert_eq!(slots, Some(vec![0, 1, 2]));
        }
    }

    #[test]
    fn nobody_and_too_many() {
        for policy in Policy::ALL {
            assert_eq!(lay_out(policy, &[]), Some(vec![]));
            let crowd = vec![candidates(&[1])[0]; SCHEDULE_SLOTS_MAX as usize + 1];
            assert_eq!(lay_out(policy, &crowd), None);
        }
    }

    proptest! {
        #[test]
        fn every_window_is_balanced(weights in proptest::collection::vec(1u32..40, 1..9)) {
            let slots = turns(&weights);
            let sum = weights.iter().sum::<u32>() as usize;
            prop_assert_eq!(slots.len(), sum);
            let twice: Vec<u32> = slots.iter().chain(&slots).copied().collect();
            for start in 0..sum {
                for length in 1..=sum {
                    let got = counts(&twice[start..start + length], weights.len());
                    for (got, weight) in got.iter().zip(&weights) {
                        // |got - length * weight / sum| < 2, in whole numbers.
                        let exact = length * *weight as usize;
                        prop_assert!((got * sum).abs_diff(exact) < 2 * sum);
                    }
                }
            }
        }

        #[test]
        fn schedules_are_bounded_and_lose_nobody(
            weights in proptest::collection::vec(0u32..=1_000, 1..300),
        ) {
            let slots = lay_out(Policy::RoundRobin, &candidates_of(&weights)).unwrap();
            prop_assert!(slots.len() <= TURN_SLOTS_MAX as usize);
            let counts = counts(&slots, weights.len());
            prop_assert!(counts.iter().all(|count| *count > 0));
            let share = |weight: u32| f64::from(weight.max(1)) / weights.iter().map(|w| f64::from((*w).max(1))).sum::<f64>();
            let exact = |count: usize| f64::from(u32::try_from(count).unwrap());
            for (count, weight) in counts.iter().zip(&weights) {
                let error = exact(*count) / exact(slots.len()) - share(*weight);
                prop_assert!(error.abs() < 0.02, "{count} of {} for {weight}", slots.len());
            }
        }
    }

    fn candidates_of(weights: &[u32]) -> Vec<Candidate> {
        (1u16..)
            .zip(weights)
            .map(|(port, weight)| Candidate {
                address: SocketAddr::from(([10, 0, 0, 1], port)),
                weight: *weight,
            })
            .collect()
    }
}
