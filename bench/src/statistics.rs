//! Medians and spreads.

use serde::{Deserialize, Serialize};

/// What several samples of one figure say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`median`].
    pub median: f64,
    /// The lowest sample.
    pub lowest: f64,
    /// The highest sample.
    pub highest: f64,
    /// How many samples there are.
    pub samples: usize,
}

/// Summarises `samples`; `None` of none.
pub fn summarize(samples: &[f64]) -> Option<Summary> {
    if samples.is_empty() {
        return None;
    }
    let lowest = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(Summary { median: median(samples), lowest, highest, samples: samples.len() })
}

/// The value in the middle; of an even number the mean of the two. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len()) {
        (None, _) => 0.0,
        (Some(middle), odd) if odd % 2 == 1 => *middle,
        (Some(upper), even) => f64::midpoint(sorted[even / 2 - 1], *upper),
    }
}

/// The slope of the line through `points` with the least squares; `None` where they have no two places.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.iter().fold(0.0, |count, _| count + 1.0);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut products, mut squares) = (0.0, 0.0);
    for (x, y) in points {
        products += (x - mean_x) * (y - mean_y);
        squares += (x - mean_x) * (x - mean_x);
    }
    (squares > 0.0).then(|| products / squares)
}

/// Three digits, or all before the point.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let cases: [(&[f64], f64); 4] =
            [(&[], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0], 2.5)];
        for (values, expected) in cases {
            assert!((median(values) - expected).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn a_summary_says_its_spread() {
        let expected = Summary { median: 2.0, lowest: 1.0, highest: 9.0, samples: 3 };
        assert_eq!(summarize(&[9.0, 1.0, 2.0]), Some(expected));
        assert_eq!(summarize(&[]), None);
    }

    #[test]
    fn a_slope_is_that_of_the_line_nearest_to_all() {
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(slope(&[(0.0, 0.0), (1.0, 2.0), (2.0, 1.0)]), Some(0.5));
        for points in [&[][..], &[(1.0, 1.0)], &[(1.0, 1.0), (1.0, 2.0)]] {
            assert_eq!(slope(points), None, "{points:?}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [(12_345.6, "12346"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123")] {
            assert_eq!(number(value), text);
        }
    }
}
