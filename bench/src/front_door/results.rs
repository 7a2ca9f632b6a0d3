//! What was measured, row by row, and how ours compares with its best rival.

use std::collections::BTreeMap;

use super::measure::Measure;
use super::variant::Variant;
use crate::statistics::{Summary, median, summarize};

/// The rows in the order in which they were first measured.
#[derive(Clone, Debug, Default)]
pub struct Results {
    rows: Vec<Row>,
}

/// One figure of all variants.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub measure: Measure,
    /// By variant and round.
    samples: BTreeMap<Variant, BTreeMap<u32, f64>>,
}

/// Ours beside the best of its rivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The rival with the best median.
    pub rival: Variant,
    /// Ours divided by the rival's, round by round.
    pub summary: Summary,
}

impl Results {
    /// Adds one figure.
    pub fn add(&mut self, measure: Measure, variant: Variant, round: u32, value: f64) {
        let position = self.rows.iter().position(|row| row.measure == measure).unwrap_or_else(|| {
            self.rows.push(Row { measure, samples: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[position].samples.entry(variant).or_default().insert(round, value);
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

impl Row {
    /// The samples of `variant`, in the order of their rounds.
    pub fn samples(&self, variant: Variant) -> Vec<f64> {
        self.samples.get(&variant).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// What they say; `None` where there are none.
    pub fn summary(&self, variant: Variant) -> Option<Summary> {
        summarize(&self.samples(variant))
    }

    /// Ours beside the rival with the best median, round by round: what disturbs a round disturbs both. `None` where
    /// one of them has no sample.
    pub fn ratio(&self) -> Option<Ratio> {
        let rivals = Variant::ALL.into_iter().filter(|variant| variant.is_rival());
        let medians =
            rivals.map(|rival| (rival, self.samples(rival))).filter(|(_, samples)| !samples.is_empty());
        let (rival, _) = medians
            .map(|(rival, samples)| (rival, median(&samples)))
            .min_by(|(_, one), (_, other)| self.measure.figure.compare(*one, *other))?;
        let (ours, theirs) = (self.samples.get(&Variant::Fairway)?, self.samples.get(&rival)?);
        let ratios = ours.iter().filter_map(|(round, value)| {
            theirs.get(round).filter(|theirs| **theirs > 0.0).map(|theirs| value / theirs)
        });
        summarize(&ratios.collect::<Vec<_>>()).map(|summary| Ratio { rival, summary })
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Figure;
    use super::*;

    fn row(figure: Figure, samples: &[(Variant, &[f64])]) -> Row {
        let mut results = Results::default();
        for (variant, values) in samples {
            for (round, value) in (0..).zip(*values) {
                results.add(Measure { run: "a run".to_owned(), figure }, *variant, round, *value);
            }
        }
        results.rows()[0].clone()
    }

    #[test]
    fn the_best_rival_has_the_highest_rate_and_the_lowest_cost() {
        let samples: [(Variant, &[f64]); 4] = [
            (Variant::Fairway, &[6.0, 6.0, 6.0]),
            (Variant::HaproxySplice, &[2.0, 9.0, 2.0]),
            (Variant::Nginx, &[3.0, 3.0, 4.0]),
            (Variant::Direct, &[100.0, 100.0, 0.1]),
        ];
        for (figure, rival) in [(Figure::Rate, Variant::Nginx), (Figure::CpuPer10k, Variant::HaproxySplice)] {
            assert_eq!(row(figure, &samples).ratio().map(|ratio| ratio.rival), Some(rival), "{figure:?}");
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let row =
            row(Figure::Rate, &[(Variant::Fairway, &[2.0, 20.0, 6.0]), (Variant::Nginx, &[1.0, 10.0, 2.0])]);
        let expected = Summary { median: 2.0, lowest: 2.0, highest: 3.0, samples: 3 };
        assert_eq!(row.ratio().map(|ratio| ratio.summary), Some(expected));
    }

    #[test]
    fn a_round_that_one_of_them_lacks_is_not_compared() {
        let mut results = Results::default();
        let measure = || Measure { run: "a run".to_owned(), figure: Figure::Rate };
        results.add(measure(), Variant::Fairway, 0, 5.0);
        results.add(measure(), Variant::Fairway, 1, 8.0);
        results.add(measure(), Variant::Nginx, 1, 4.0);
        let ratio = results.rows()[0].ratio().unwrap();
        assert_eq!((ratio.summary.median, ratio.summary.samples), (2.0, 1));
    }

    #[test]
    fn without_a_rival_there_is_no_ratio() {
        assert_eq!(row(Figure::Rate, &[(Variant::Fairway, &[1.0]), (Variant::Direct, &[2.0])]).ratio(), None);
    }
}
