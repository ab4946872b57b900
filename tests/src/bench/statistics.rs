//! Order statistics: medians and quartiles, which a few disturbed rounds do not move.

/// The value below which `share` of `values` lies, between neighbours in proportion; zero of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    #[expect(clippy::cast_precision_loss, reason = "a rank far below 2^52")]
    let rank = last as f64 * share.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank of the slice"
    )]
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * rank.fract()
}

/// What each round of `measured` is in proportion to the same round of `base`.
pub fn ratios(measured: &[f64], base: &[f64]) -> Vec<f64> {
    measured
        .iter()
        .zip(base)
        .filter(|(_, base)| **base > 0.0)
        .map(|(measured, base)| measured / base)
        .collect()
}

/// Rounds in which each of several variants is measured once, in an order that shifts by one each
/// round, so that no variant always follows the same other one.
///
/// # Errors
/// What `measure` fails with.
pub fn interleaved<T>(
    variants: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut measured: Vec<Vec<T>> = (0..variants).map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for step in 0..variants {
            let variant = (round + step) % variants;
            measured[variant].push(measure(variant)?);
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        // (values, share, quantile)
        let cases: [(&[f64], f64, f64); 5] = [
            (&[], 0.5, 0.0),
            (&[3.0], 0.99, 3.0),
            (&[4.0, 1.0, 3.0, 2.0], 0.5, 2.5),
            (&[4.0, 1.0, 3.0, 2.0], 0.0, 1.0),
            (&[0.0, 10.0], 0.75, 7.5),
        ];
        for (values, share, expected) in cases {
            let found = quantile(values, share);
            assert!((found - expected).abs() < 1e-9, "{values:?}: {found}");
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        assert_eq!(ratios(&[2.0, 6.0, 1.0], &[1.0, 2.0, 0.0]), [2.0, 3.0]);
    }

    #[test]
    fn every_variant_is_measured_once_a_round_and_first_in_turn() {
        let mut order = Vec::new();
        let measured = interleaved(2, 2, |variant| {
            order.push(variant);
            Ok(order.len())
        })
        .unwrap();
        assert_eq!(order, [0, 1, 1, 0]);
        assert_eq!(measured, [[1, 4], [2, 3]]);
    }
}
