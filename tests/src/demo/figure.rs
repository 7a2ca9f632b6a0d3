//! What a stage has found, and what was promised of it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// The name in JSON; the unit is its last word.
    pub key: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// What was found.
    pub found: Found,
    /// What it must be, if anything was promised.
    pub promise: Option<Promise>,
    /// What keepalived 2.2.7 and HAProxy 2.6 reached in the same topology, where that was measured.
    pub baseline: Option<&'static str>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// A time.
    Time(Duration),
    /// The same time, taken again and again.
    Times(Vec<Duration>),
    /// So many of so many.
    Count(usize, usize),
    /// How connections were spread.
    Spread(BTreeMap<String, usize>),
    /// A name or an error.
    Word(String),
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// No time is longer.
    Within(Duration),
    /// The median of some times is not longer: a machine that is busy with something else stumbles now and then.
    Usually(Duration),
    /// The first number of a count is zero.
    None,
    /// A spread in which these have this share each, and nobody else has any.
    Even(&'static [&'static str], usize),
    /// This word.
    Word(&'static str),
}

impl Figure {
    /// A finding of which nothing is promised.
    pub(crate) const fn new(key: &'static str, title: &'static str, found: Found) -> Self {
        Self { key, title, found, promise: None, baseline: None }
    }

    /// Adds what must hold.
    #[must_use]
    pub(crate) fn promised(self, promise: Promise) -> Self {
        Self { promise: Some(promise), ..self }
    }

    /// Adds what others reached.
    #[must_use]
    pub(crate) fn against(self, baseline: &'static str) -> Self {
        Self { baseline: Some(baseline), ..self }
    }

    /// Whether the promise, if there is one, was kept. A promise that does not fit what was found is broken.
    pub(crate) fn is_kept(&self) -> bool {
        let Some(promise) = &self.promise else { return true };
        match (promise, &self.found) {
            (Promise::Within(limit), Found::Time(time)) => time <= limit,
            (Promise::Within(limit), Found::Times(times)) => {
                !times.is_empty() && times.iter().all(|time| time <= limit)
            }
            (Promise::Usually(limit), Found::Times(times)) => {
                crate::outage::median(times).is_some_and(|median| median <= *limit)
            }
            (Promise::None, Found::Count(number, of)) => *number == 0 && *of > 0,
            (Promise::Even(names, share), Found::Spread(spread)) => {
                spread.len() == names.len() && names.iter().all(|&name| spread.get(name) == Some(share))
            }
            (Promise::Word(expected), Found::Word(word)) => word == expected,
            (
                Promise::Within(_)
                | Promise::Usually(_)
                | Promise::None
                | Promise::Even(..)
                | Promise::Word(_),
                Found::Time(_) | Found::Times(_) | Found::Count(..) | Found::Spread(_) | Found::Word(_),
            ) => false,
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let mut value = self.found.json();
        value["name"] = self.key.into();
        value["title"] = self.title.into();
        if let Some(promise) = &self.promise {
            value["promised"] = promise.to_string().into();
            value["kept"] = self.is_kept().into();
        }
        if let Some(baseline) = self.baseline {
            value["keepalived_and_haproxy"] = baseline.into();
        }
        value
    }
}

impl Found {
    fn json(&self) -> Value {
        match self {
            Self::Time(time) => json!({"milliseconds": milliseconds(*time)}),
            Self::Times(times) => json!({
                "milliseconds": times.iter().copied().map(milliseconds).collect::<Vec<_>>(),
                "median": crate::outage::median(times).map(milliseconds),
                "max": times.iter().max().copied().map(milliseconds),
            }),
            Self::Count(number, of) => json!({"count": number, "of": of}),
            Self::Spread(spread) => json!({"spread": spread}),
            Self::Word(word) => json!({"value": word}),
        }
    }
}

/// For people: `318 ms`, `0 of 612`, `m1 100, m2 100`.
impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(time) => formatter.write_str(&shown(*time)),
            Self::Times(times) => {
                let median = crate::outage::median(times).unwrap_or_default();
                let max = times.iter().max().copied().unwrap_or_default();
                write!(formatter, "median {}, max {}", shown(median), shown(max))
            }
            Self::Count(number, of) => write!(formatter, "{number} of {of}"),
            Self::Spread(spread) => formatter.write_str(&shares(spread)),
            Self::Word(word) => formatter.write_str(word),
        }
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Within(limit) => write!(formatter, "≤ {}", shown(*limit)),
            Self::Usually(limit) => write!(formatter, "median ≤ {}", shown(*limit)),
            Self::None => formatter.write_str("0"),
            Self::Even(_, share) => write!(formatter, "{share} each"),
            Self::Word(word) => formatter.write_str(word),
        }
    }
}

/// Everything a run has found, as it goes into the JSON document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Which API server answered.
    pub apiserver: String,
    /// How long the run took.
    pub seconds: f64,
    /// Every figure.
    pub figures: Vec<Value>,
    /// The names of the figures whose promise was broken.
    pub broken: Vec<&'static str>,
}

impl Report {
    /// Of a finished run.
    pub(crate) fn new(apiserver: String, took: Duration, figures: &[Figure]) -> Self {
        Self {
            apiserver,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            figures: figures.iter().map(Figure::json).collect(),
            broken: figures.iter().filter(|figure| !figure.is_kept()).map(|figure| figure.key).collect(),
        }
    }
}

/// A duration for people, to two or three digits.
pub(crate) fn shown(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        0.0 => "0 ms".to_owned(),
        tiny if tiny < 0.9995 => format!("{:.0} µs", tiny * 1e3),
        short if short < 9.95 => format!("{short:.1} ms"),
        medium if medium < 999.5 => format!("{medium:.0} ms"),
        long => format!("{:.1} s", long / 1e3),
    }
}

/// A spread for people: `m1 100, m2 100`.
pub(crate) fn shares(spread: &BTreeMap<String, usize>) -> String {
    let words: Vec<String> = spread.iter().map(|(name, share)| format!("{name} {share}")).collect();
    if words.is_empty() { "nobody".to_owned() } else { words.join(", ") }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
        shares.iter().map(|&(name, share)| (name.to_owned(), share)).collect()
    }

    #[test]
    fn a_promise_is_kept_or_broken() {
        let ms = Duration::from_millis;
        for (found, promise, kept) in [
            (Found::Time(ms(350)), Promise::Within(ms(350)), true),
            (Found::Time(ms(351)), Promise::Within(ms(350)), false),
            (Found::Times(vec![ms(3), ms(351)]), Promise::Within(ms(350)), false),
            (Found::Times(vec![ms(3), ms(349)]), Promise::Within(ms(350)), true),
            (Found::Times(Vec::new()), Promise::Within(ms(350)), false),
            (Found::Times(vec![ms(3), ms(4), ms(99)]), Promise::Usually(ms(4)), true),
            (Found::Times(vec![ms(3), ms(5), ms(5)]), Promise::Usually(ms(4)), false),
            (Found::Times(Vec::new()), Promise::Usually(ms(4)), false),
            (Found::Count(0, 600), Promise::None, true),
            (Found::Count(1, 600), Promise::None, false),
            (Found::Count(0, 0), Promise::None, false),
            (Found::Spread(spread(&[("a", 2), ("b", 2)])), Promise::Even(&["a", "b"], 2), true),
            (Found::Spread(spread(&[("a", 3), ("b", 1)])), Promise::Even(&["a", "b"], 2), false),
            (Found::Spread(spread(&[("a", 2)])), Promise::Even(&["a", "b"], 2), false),
            (
                Found::Spread(spread(&[("a", 2), ("b", 2), ("unknown", 1)])),
                Promise::Even(&["a", "b"], 2),
                false,
            ),
            (Found::Word("refused".into()), Promise::Word("refused"), true),
            (Found::Word("timed out".into()), Promise::Word("refused"), false),
            (Found::Word("0".into()), Promise::None, false),
        ] {
            let figure = Figure::new("key", "title", found).promised(promise);
            assert_eq!(figure.is_kept(), kept, "{figure:?}");
        }
        assert!(Figure::new("key", "title", Found::Count(5, 5)).is_kept());
    }

    #[test]
    fn a_broken_promise_is_named_in_the_report() {
        let limit = Promise::Within(Duration::from_millis(20));
        let figures = [
            Figure::new("stop_gap", "t", Found::Time(Duration::from_micros(31_415))).promised(limit.clone()),
            Figure::new("kill_gap", "t", Found::Time(Duration::ZERO)).promised(limit).against("70 ms"),
        ];
        let report =
            serde_json::to_value(Report::new("stub".into(), Duration::from_secs(1), &figures)).unwrap();
        assert_eq!(report["broken"], json!(["stop_gap"]));
        assert_eq!(report["figures"][0]["milliseconds"], 31.42);
        assert_eq!(report["figures"][0]["promised"], "≤ 20 ms");
        assert_eq!(report["figures"][1]["keepalived_and_haproxy"], "70 ms");
    }

    #[test]
    fn figures_read_well() {
        for (found, text) in [
            (Found::Time(Duration::from_micros(140)), "140 µs"),
            (Found::Time(Duration::from_nanos(999_600)), "1.0 ms"),
            (Found::Time(Duration::ZERO), "0 ms"),
            (Found::Time(Duration::from_micros(9_960)), "10 ms"),
            (Found::Time(Duration::from_millis(318)), "318 ms"),
            (Found::Time(Duration::from_millis(1_250)), "1.2 s"),
            (
                Found::Times(vec![Duration::from_millis(3), Duration::from_millis(12)]),
                "median 3.0 ms, max 12 ms",
            ),
            (Found::Count(0, 612), "0 of 612"),
            (Found::Spread(spread(&[("m1", 100), ("m2", 99)])), "m1 100, m2 99"),
            (Found::Spread(spread(&[])), "nobody"),
        ] {
            assert_eq!(found.to_string(), text);
        }
    }
}
