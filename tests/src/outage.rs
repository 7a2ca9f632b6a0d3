//! What a list of dials says about the service they dialed: outages, gaps, who answered. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// One attempt of a client: a connection of its own, one request, one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// When it began, since 1970.
    pub start: Duration,
    /// When its answer was complete, or it was given up.
    pub end: Duration,
    /// Who answered, or why nobody did.
    pub outcome: Result<String, String>,
}

/// A time in which clients were not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The start of the first dial that failed.
    pub begin: Duration,
    /// The end of the first success among the dials begun after it; the end of the last dial if there is none.
    pub end: Duration,
    /// How many dials failed that were begun in between.
    pub failed: usize,
}

impl Outage {
    /// How long it lasted.
    pub const fn gap(&self) -> Duration {
        self.end.saturating_sub(self.begin)
    }
}

/// Every outage, in order. Dials overlap: one that succeeds slowly does not hide that a later one was served sooner.
pub fn outages(dials: &[Dial]) -> Vec<Outage> {
    let mut failed: Vec<&Dial> = dials.iter().filter(|dial| dial.outcome.is_err()).collect();
    failed.sort_by_key(|dial| dial.start);
    let last = dials.iter().map(|dial| dial.end).max().unwrap_or_default();
    let mut outages: Vec<Outage> = Vec::new();
    for dial in failed {
        match outages.last_mut() {
            Some(outage) if dial.start <= outage.end => outage.failed += 1,
            _ => {
                let recovery = dials
                    .iter()
                    .filter(|later| later.outcome.is_ok() && later.start > dial.start)
                    .map(|later| later.end)
                    .min();
                outages.push(Outage { begin: dial.start, end: recovery.unwrap_or(last), failed: 1 });
            }
        }
    }
    outages
}

/// The longest outage; zero if every dial succeeded.
pub fn longest_gap(dials: &[Dial]) -> Duration {
    outages(dials).iter().map(Outage::gap).max().unwrap_or_default()
}

/// The longest time in which no answer came, between the first start and the last end.
pub fn longest_silence(dials: &[Dial]) -> Duration {
    let answers = dials.iter().filter(|dial| dial.outcome.is_ok()).map(|dial| dial.end);
    let mut moments: Vec<Duration> = answers.collect();
    moments.extend(dials.iter().map(|dial| dial.start).min());
    moments.extend(dials.iter().map(|dial| dial.end).max());
    moments.sort_unstable();
    moments.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
}

/// How many dials failed.
pub fn failed(dials: &[Dial]) -> usize {
    dials.iter().filter(|dial| dial.outcome.is_err()).count()
}

/// Why dials failed, and how many for each reason.
pub fn reasons(dials: &[Dial]) -> BTreeMap<String, usize> {
    count(dials.iter().filter_map(|dial| dial.outcome.as_ref().err()))
}

/// Who answered how often.
pub fn spread(dials: &[Dial]) -> BTreeMap<String, usize> {
    count(dials.iter().filter_map(|dial| dial.outcome.as_ref().ok()))
}

/// The middle of some durations, the lower one of two; `None` of none.
pub fn median(durations: &[Duration]) -> Option<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn count<'a>(words: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word.clone()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Dials as (start, end, who answered), in milliseconds; an empty name failed.
    fn dials(rows: &[(u64, u64, &str)]) -> Vec<Dial> {
        let outcome = |name: &str| if name.is_empty() { Err("refused".into()) } else { Ok(name.to_owned()) };
        rows.iter()
            .map(|&(start, end, name)| Dial { start: ms(start), end: ms(end), outcome: outcome(name) })
            .collect()
    }

    #[test]
    fn a_gap_lasts_from_the_first_failed_dial_to_the_next_success() {
        for (name, rows, gaps) in [
            ("none", &[][..], &[][..]),
            ("all well", &[(0, 3, "a"), (10, 13, "a")], &[]),
            ("one failed", &[(0, 3, "a"), (10, 11, ""), (20, 24, "a")], &[14]),
            ("two in a row are one outage", &[(10, 11, ""), (20, 21, ""), (30, 33, "a")], &[23]),
            ("two outages", &[(10, 11, ""), (20, 23, "a"), (30, 31, ""), (40, 43, "a")], &[13, 13]),
            (
                "a dial from before that ends well late ends no outage",
                &[(0, 12, "a"), (10, 900, ""), (20, 30, "a")],
                &[20],
            ),
            (
                "a slow success does not hide a quicker one",
                &[(0, 900, ""), (10, 260, "a"), (20, 24, "b")],
                &[24],
            ),
            (
                "a late verdict on an early dial is the same outage",
                &[(0, 900, ""), (5, 905, ""), (10, 13, "a")],
                &[13],
            ),
            ("never again", &[(0, 3, "a"), (10, 11, ""), (20, 21, "")], &[11]),
        ] {
            let found: Vec<_> = outages(&dials(rows)).iter().map(Outage::gap).collect();
            assert_eq!(found, gaps.iter().copied().map(ms).collect::<Vec<_>>(), "{name}");
            assert_eq!(
                longest_gap(&dials(rows)),
                gaps.iter().copied().map(ms).max().unwrap_or_default(),
                "{name}"
            );
        }
        let outage = outages(&dials(&[(10, 11, ""), (20, 21, ""), (30, 33, "a"), (50, 51, "")]))[0];
        assert_eq!((outage.begin, outage.failed), (ms(10), 2));
    }

    #[test]
    fn silence_is_measured_between_answers_whatever_the_order_of_dials() {
        assert_eq!(longest_silence(&[]), Duration::ZERO);
        assert_eq!(longest_silence(&dials(&[(0, 3, "a"), (10, 300, "a"), (20, 24, "b")])), ms(276));
        assert_eq!(longest_silence(&dials(&[(0, 3, "a"), (10, 900, ""), (20, 400, "a")])), ms(500));
    }

    #[test]
    fn answers_and_failures_are_counted() {
        let dials = dials(&[(0, 3, "a"), (1, 3, "b"), (2, 4, ""), (3, 5, "a")]);
        assert_eq!(spread(&dials), BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        assert_eq!((failed(&dials), reasons(&dials)), (1, BTreeMap::from([("refused".to_owned(), 1)])));
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[ms(3), ms(1), ms(2)]), Some(ms(2)));
        assert_eq!(median(&[ms(4), ms(1), ms(2), ms(3)]), Some(ms(2)));
    }
}
