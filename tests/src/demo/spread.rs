//! How evenly counts are spread: mean, peak over mean, coefficient of variation.

/// The spread of a set of counts. All zero for no counts, or counts of nothing but zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// The mean count.
    pub mean: f64,
    /// The largest count over the mean; 1 is even.
    pub peak_to_mean: f64,
    /// The standard deviation (of the whole population) over the mean; 0 is even.
    pub variation: f64,
}

impl Spread {
    /// The spread of `counts`.
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo stay far below 2^52")]
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        let counts: Vec<f64> = counts.into_iter().map(|count| count as f64).collect();
        let sum: f64 = counts.iter().sum();
        if sum == 0.0 {
            return Self::default();
        }
        let number = counts.len() as f64;
        let mean = sum / number;
        let peak = counts.iter().copied().fold(0.0, f64::max);
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / number;
        Self { mean, peak_to_mean: peak / mean, variation: variance.sqrt() / mean }
    }
}

/// The share of `part` in `whole`; nothing has no share.
#[expect(clippy::cast_precision_loss, reason = "counts of a demo stay far below 2^52")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        // (counts, mean, peak over mean, coefficient of variation)
        let cases: [(&[u64], f64, f64, f64); 5] = [
            (&[], 0.0, 0.0, 0.0),
            (&[0, 0], 0.0, 0.0, 0.0),
            (&[8, 8, 8, 8], 8.0, 1.0, 0.0),
            (&[2, 4, 4, 4, 5, 5, 7, 9], 5.0, 1.8, 0.4),
            (&[0, 10], 5.0, 2.0, 1.0),
        ];
        for (counts, mean, peak_to_mean, variation) in cases {
            let spread = Spread::of(counts.iter().copied());
            assert_eq!(spread, Spread { mean, peak_to_mean, variation }, "{counts:?}");
        }
    }

    #[test]
    fn shares() {
        assert!((share(1, 4) - 0.25).abs() < f64::EPSILON);
        assert!(share(3, 0).abs() < f64::EPSILON);
    }
}
