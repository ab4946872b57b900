//! How many of this node's connections each backend should have, so that many nodes together are even
//! although each of them sees its own connections only.

/// Each backend's whole number of connections, in the order of `weights`; their sum is `flows`.
///
/// Everybody gets the whole part of the exact share. The rest is dealt by systematic sampling: each
/// backend stands on a circle, as wide as its remainder, and marks one unit apart fall on it. Where
/// the first mark falls depends on the node's `rank`, so that over all ranks everybody gets the same.
pub(super) fn quotas(weights: &[u32], flows: u32, rank: u32) -> Vec<u32> {
    let unit: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if unit == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: &u32| u64::from(flows) * u64::from(*weight);
    let mut quotas: Vec<u32> =
        weights.iter().map(|it| u32::try_from(exact(it) / unit).unwrap_or(u32::MAX)).collect();
    let remainders: Vec<u64> = weights.iter().map(|it| exact(it) % unit).collect();
    let first = first_mark(&remainders, unit, rank);
    let mut end = 0;
    for (quota, remainder) in quotas.iter_mut().zip(&remainders) {
        let start = end;
        end += remainder;
        // No remainder is as wide as a unit: one mark at most.
        *quota += u32::from(marks_before(end, first, unit) > marks_before(start, first, unit));
    }
    quotas
}

/// Where the first mark of a node falls, below `unit`.
fn first_mark(remainders: &[u64], unit: u64, rank: u32) -> u64 {
    if let [width, others @ ..] = remainders
        && others.iter().all(|other| other == width)
    {
        // All alike: nodes take turns over all places where marks may fall, which is exact.
        let step = gcd(*width, unit);
        return u64::from(rank) % (unit / step) * step;
    }
    // Multiples of the golden ratio fall evenly for any run of ranks (Knuth, The Art of Computer
    // Programming, volume 3, section 6.4).
    let fraction = u64::from(rank).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u64::try_from((u128::from(fraction) * u128::from(unit)) >> 64).unwrap_or_default()
}

/// How many of the marks at `first`, `first + unit`, ... are below `position`.
const fn marks_before(position: u64, first: u64, unit: u64) -> u64 {
    position.saturating_sub(first).div_ceil(unit)
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_is_dealt_and_nobody_is_off_by_one(
            weights in proptest::collection::vec(1u32..100, 1..12), flows in 0u32..500, rank: u32,
        ) {
            let dealt = quotas(&weights, flows, rank);
            prop_assert_eq!(dealt.iter().sum::<u32>(), flows);
            let sum: u32 = weights.iter().sum();
            for (weight, quota) in weights.iter().zip(dealt) {
                let exact = f64::from(flows) * f64::from(*weight) / f64::from(sum);
                prop_assert!((f64::from(quota) - exact).abs() < 1.0);
            }
        }

        #[test]
        fn nodes_together_are_even(
            weights in proptest::collection::vec(1u32..5, 2..8), flows in 1u32..8, first in 0u32..1000,
        ) {
            const NODES: u32 = 120;
            let mut totals = vec![0; weights.len()];
            for rank in first..first + NODES {
                for (total, quota) in totals.iter_mut().zip(quotas(&weights, flows, rank)) {
                    *total += quota;
                }
            }
            let sum: u32 = weights.iter().sum();
            for (weight, total) in weights.iter().zip(totals) {
                let exact = f64::from(NODES * flows) * f64::from(*weight) / f64::from(sum);
                prop_assert!((f64::from(total) - exact).abs() <= 0.1 * exact + 3.0, "{total} {exact}");
            }
        }
    }

    #[test]
    fn nobody_gets_what_is_not_there() {
        assert_eq!(quotas(&[], 5, 0), [0; 0]);
        assert_eq!(quotas(&[0, 0], 5, 0), [0, 0]);
        assert_eq!(quotas(&[1, 1], 0, 9), [0, 0]);
    }
}
