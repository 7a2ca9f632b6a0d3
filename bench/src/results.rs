//! What was measured, row by row, and how one contender compares with another.

use std::collections::BTreeMap;

use crate::measure::Measure;
use crate::statistics::{Summary, median, summarize};

/// The rows in the order in which they were first measured. `C` is who takes part.
#[derive(Clone, Debug)]
pub struct Results<C> {
    rows: Vec<Row<C>>,
}

/// One figure of all contenders.
#[derive(Clone, Debug)]
pub struct Row<C> {
    /// What was measured.
    pub measure: Measure,
    /// By contender and round.
    samples: BTreeMap<C, BTreeMap<u32, f64>>,
}

impl<C> Default for Results<C> {
    fn default() -> Self {
        Self { rows: Vec::new() }
    }
}

impl<C: Copy + Ord> Results<C> {
    /// Adds one figure.
    pub fn add(&mut self, measure: Measure, contender: C, round: u32, value: f64) {
        let position = self.rows.iter().position(|row| row.measure == measure).unwrap_or_else(|| {
            self.rows.push(Row { measure, samples: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[position].samples.entry(contender).or_default().insert(round, value);
    }

    /// All rows.
    pub fn rows(&self) -> &[Row<C>] {
        &self.rows
    }
}

impl<C: Copy + Ord> Row<C> {
    /// The samples of `contender`, in the order of their rounds.
    pub fn samples(&self, contender: C) -> Vec<f64> {
        self.samples.get(&contender).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// What they say; `None` where there are none.
    pub fn summary(&self, contender: C) -> Option<Summary> {
        summarize(&self.samples(contender))
    }

    /// Who of `rivals` has the best median; `None` where none of them has a sample.
    pub fn best(&self, rivals: impl IntoIterator<Item = C>) -> Option<C> {
        let medians = rivals.into_iter().map(|rival| (rival, self.samples(rival)));
        medians
            .filter(|(_, samples)| !samples.is_empty())
            .map(|(rival, samples)| (rival, median(&samples)))
            .min_by(|(_, one), (_, other)| self.measure.figure.compare(*one, *other))
            .map(|(rival, _)| rival)
    }

    /// One beside another, round by round: what disturbs a round disturbs both. `None` where no round has both.
    pub fn ratio(&self, one: C, other: C) -> Option<Summary> {
        let ratios = self.both(one, other).filter(|(_, other)| *other > 0.0).map(|(one, other)| one / other);
        summarize(&ratios.collect::<Vec<_>>())
    }

    /// How much more than another one has, round by round. `None` where no round has both.
    pub fn difference(&self, one: C, other: C) -> Option<Summary> {
        summarize(&self.both(one, other).map(|(one, other)| one - other).collect::<Vec<_>>())
    }

    /// The samples of two in each round that has both.
    fn both(&self, one: C, other: C) -> impl Iterator<Item = (f64, f64)> {
        let samples = |contender| self.samples.get(&contender).into_iter().flatten();
        let other: BTreeMap<u32, f64> = samples(other).map(|(round, value)| (*round, *value)).collect();
        samples(one).filter_map(move |(round, one)| Some((*one, *other.get(round)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figure;

    fn row(figure: Figure, samples: &[(&'static str, &[f64])]) -> Row<&'static str> {
        let mut results = Results::default();
        for (contender, values) in samples {
            for (round, value) in (0..).zip(*values) {
                results.add(Measure { run: "a run".to_owned(), figure }, *contender, round, *value);
            }
        }
        results.rows()[0].clone()
    }

    #[test]
    fn the_best_rival_has_the_highest_rate_and_the_lowest_cost() {
        let samples: [(&str, &[f64]); 3] =
            [("one", &[2.0, 9.0, 2.0]), ("two", &[3.0, 3.0, 4.0]), ("nobody", &[])];
        for (figure, best) in [(Figure::Rate, "two"), (Figure::CpuPer10k, "one")] {
            assert_eq!(row(figure, &samples).best(["one", "two", "nobody"]), Some(best), "{figure:?}");
        }
        assert_eq!(row(Figure::Rate, &samples).best(["nobody"]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let row = row(Figure::Rate, &[("ours", &[2.0, 20.0, 6.0]), ("theirs", &[1.0, 10.0, 2.0])]);
        let expected = Summary { median: 2.0, lowest: 2.0, highest: 3.0, samples: 3 };
        assert_eq!(row.ratio("ours", "theirs"), Some(expected));
        assert_eq!(row.ratio("ours", "nobody"), None);
    }

    #[test]
    fn a_round_that_one_of_them_lacks_is_not_compared() {
        let mut results = Results::default();
        let measure = || Measure { run: "a run".to_owned(), figure: Figure::Rate };
        results.add(measure(), "ours", 0, 5.0);
        results.add(measure(), "ours", 1, 8.0);
        results.add(measure(), "theirs", 1, 4.0);
        let ratio = results.rows()[0].ratio("ours", "theirs").unwrap();
        assert_eq!((ratio.median, ratio.samples), (2.0, 1));
    }
}
