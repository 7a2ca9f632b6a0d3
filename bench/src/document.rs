//! The one document of results: a JSON file for programs, and what is made of it for people: a page of tables, plots and
//! the README's part. All of these are functions of the file alone, so that none can say what was not measured.

mod page;
mod plot;
mod readme;

use std::fs;
use std::path::{Path, PathBuf};

use ::tests::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::Machine;
use crate::statistics::{Summary, number, summarize};

/// The sections in the order in which they are shown.
const ORDER: [&str; 8] = [
    "service-path",
    "guest",
    "programs",
    "front-door",
    "fail-over",
    "programming",
    "programming-ipvs",
    "virtual-services",
];
/// From here on, before any round, a machine counts as busy with other things.
const BUSY: f64 = 0.05;

/// Everything that was measured, each part when it last was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// In the order in which they are shown.
    pub sections: Vec<Section>,
}

/// One benchmark's results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// What the command line calls it; its plot is named after it.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// What a reader must know: how it was measured, what disturbed it, what failed, what did not run.
    pub notes: Vec<String>,
    /// What is to be judged, ratios to others above all.
    pub comparisons: Vec<Comparison>,
    /// Everything else that was seen.
    pub tables: Vec<Table>,
    /// Every sample.
    pub samples: Value,
}

/// One figure, mostly beside another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was measured.
    pub what: String,
    /// Beside whom; empty where the figure stands alone.
    pub beside: String,
    /// "ratio", or the unit; empty for numbers.
    pub unit: String,
    /// What was seen; `None` where it did not run.
    pub value: Option<Summary>,
    /// What it is to reach, if anything.
    pub bar: Option<Bar>,
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bar {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

/// Medians and spreads, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Above the columns.
    pub header: Vec<String>,
    /// As many cells as the header has.
    pub rows: Vec<Vec<String>>,
}

/// Where the results are, and the README that shows some of them.
#[derive(Clone, Debug)]
pub struct Place {
    /// A folder of nothing else.
    pub results: PathBuf,
    /// A file with [the markers](readme).
    pub readme: PathBuf,
}

impl Place {
    /// In this repository.
    pub fn ours() -> Self {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { results: bench.join("results"), readme: bench.join("../README.md") }
    }
}

impl Document {
    /// Reads the file; nothing was measured where there is none.
    pub fn read(place: &Place) -> Result<Self> {
        let path = place.results.join("results.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(Error::system("read", path.display()))?;
        serde_json::from_str(&text).map_err(Error::json(path.display()))
    }

    /// Adds a section, in place of an earlier one of its name. Figures are rounded as the file has them.
    pub fn put(&mut self, section: Section) -> Result<()> {
        let mut value = serde_json::to_value(section).map_err(Error::json("a section"))?;
        round(&mut value);
        let section: Section = serde_json::from_value(value).map_err(Error::json("a section"))?;
        self.sections.retain(|one| one.name != section.name);
        self.sections.push(section);
        let position = |name: &str| ORDER.iter().position(|one| *one == name);
        self.sections.sort_by_key(|section| position(&section.name));
        Ok(())
    }

    /// Writes the file and everything that is made of it.
    pub fn write(&self, place: &Place) -> Result<()> {
        fs::create_dir_all(&place.results).map_err(Error::system("make", place.results.display()))?;
        for (path, text) in self.files(place)? {
            fs::write(&path, text).map_err(Error::system("write", path.display()))?;
        }
        Ok(())
    }

    /// The page of tables, Markdown.
    pub fn page(&self) -> String {
        page::page(self)
    }

    /// What the files are to say, by their paths.
    pub fn files(&self, place: &Place) -> Result<Vec<(PathBuf, String)>> {
        let json = serde_json::to_string_pretty(self).map_err(Error::json("the results"))?;
        let readme =
            fs::read_to_string(&place.readme).map_err(Error::system("read", place.readme.display()))?;
        let mut files = vec![
            (place.results.join("results.json"), json + "\n"),
            (place.results.join("README.md"), self.page()),
            (place.readme.clone(), readme::with_figures(&readme, self)?),
        ];
        let plots = self.sections.iter().filter_map(|section| Some((section, plot::plot(section)?)));
        files
            .extend(plots.map(|(section, plot)| (place.results.join(format!("{}.svg", section.name)), plot)));
        Ok(files)
    }
}

/// Leaves six digits of every figure: more are noise, and would not be read as they were written.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(rounded) =
                number.as_f64().and_then(|number| format!("{number:.5e}").parse::<f64>().ok())
            {
                *value = rounded.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(values) => values.values_mut().for_each(round),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Section {
    /// Notes what other things took of the machine before each round, from 0 to 1.
    pub fn note_busy(&mut self, busy: &[f64]) {
        let Some(busy) = summarize(busy) else { return };
        let judgement = if busy.highest > BUSY { "**a busy machine**" } else { "a quiet machine" };
        let (median, highest) = (busy.median * 100.0, busy.highest * 100.0);
        self.notes.push(format!(
            "{judgement}: other things took {median:.0} % of it before a round, at most {highest:.0} %"
        ));
    }
}

impl Comparison {
    /// In words.
    fn verdict(&self) -> &'static str {
        let (Some(value), Some(bar)) = (self.value, self.bar) else { return "" };
        let (worst, middle) = (bar.worst(&value), value.median);
        match (bar.is_reached(worst), bar.is_reached(middle)) {
            (true, _) if value.samples > 1 => "reached every time",
            (true, _) | (false, true) => "reached",
            (false, false) => "missed",
        }
    }
}

impl Bar {
    /// Whether a figure reaches it.
    pub fn is_reached(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bar) => figure >= bar,
            Self::AtMost(bar) => figure <= bar,
        }
    }

    const fn worst(self, value: &Summary) -> f64 {
        match self {
            Self::AtLeast(_) => value.lowest,
            Self::AtMost(_) => value.highest,
        }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(formatter, "≥ {bar}"),
            Self::AtMost(bar) => write!(formatter, "≤ {bar}"),
        }
    }
}

/// A cell of a table: the median, with its spread where there is one.
pub fn cell(summary: Option<Summary>) -> String {
    match summary {
        None => "–".to_owned(),
        Some(Summary { median, samples: 1, .. }) => number(median),
        Some(Summary { median, lowest, highest, .. }) => {
            format!("{} ({} – {})", number(median), number(lowest), number(highest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn comparison(samples: &[f64], bar: Option<Bar>) -> Comparison {
        Comparison {
            what: "1 stream up".to_owned(),
            beside: "HAProxy".to_owned(),
            unit: "ratio".to_owned(),
            value: summarize(samples),
            bar,
        }
    }

    pub(super) fn document() -> Document {
        let section = Section {
            name: "front-door".to_owned(),
            title: "The front door".to_owned(),
            command: "make bench".to_owned(),
            machine: Machine {
                date: "2026-01-02".to_owned(),
                kernel: "6.1".to_owned(),
                ..Machine::default()
            },
            notes: vec!["3 rounds".to_owned()],
            comparisons: vec![
                comparison(&[2.0, 1.0, 2.5], Some(Bar::AtLeast(1.3))),
                comparison(&[], Some(Bar::AtLeast(1.1))),
                comparison(&[1.5], None),
            ],
            tables: vec![Table {
                title: "Medians".to_owned(),
                header: vec!["load".to_owned(), "ours".to_owned()],
                rows: vec![vec!["1 stream up".to_owned(), "20.0".to_owned()]],
            }],
            samples: Value::Null,
        };
        Document { sections: vec![section] }
    }

    #[test]
    fn a_bar_is_reached_by_the_median_or_by_every_sample() {
        for (samples, bar, verdict) in [
            (&[2.0, 1.0, 2.5][..], Some(Bar::AtLeast(1.3)), "reached"),
            (&[2.0, 1.4, 2.5], Some(Bar::AtLeast(1.3)), "reached every time"),
            (&[0.4, 0.5, 0.7], Some(Bar::AtMost(0.5)), "reached"),
            (&[0.6, 0.4, 0.7], Some(Bar::AtMost(0.5)), "missed"),
            (&[0.5], Some(Bar::AtMost(0.5)), "reached"),
            (&[], Some(Bar::AtMost(0.5)), ""),
            (&[0.5], None, ""),
        ] {
            assert_eq!(comparison(samples, bar).verdict(), verdict, "{samples:?} {bar:?}");
        }
    }

    #[test]
    fn a_section_takes_the_place_of_an_earlier_one() -> Result<()> {
        let mut document = document();
        let named = |name: &str, title: &str| Section {
            name: name.to_owned(),
            title: title.to_owned(),
            ..Section::default()
        };
        document.put(named("service-path", "first"))?;
        document.put(named("front-door", "new"))?;
        let titles: Vec<&str> = document.sections.iter().map(|section| &*section.title).collect();
        assert_eq!(titles, ["first", "new"]);
        Ok(())
    }

    #[test]
    fn figures_are_kept_with_six_digits() -> Result<()> {
        let mut document = Document::default();
        let samples = serde_json::json!({"of": [1.0 / 3.0, 123_456.789, 7], "text": "0.123456789"});
        document.put(Section { samples, ..Section::default() })?;
        let expected = serde_json::json!({"of": [0.333_333, 123_457.0, 7], "text": "0.123456789"});
        assert_eq!(document.sections[0].samples, expected);
        Ok(())
    }

    #[test]
    fn a_busy_machine_is_said_to_be_one() {
        let mut section = Section::default();
        section.note_busy(&[0.01, 0.3, 0.2]);
        section.note_busy(&[0.01]);
        assert!(section.notes[0].starts_with("**a busy machine**: other things took 20 %"), "{section:?}");
        assert!(section.notes[1].starts_with("a quiet machine"), "{section:?}");
    }

    /// What is kept of a run is what is shown of it, here and in the README.
    #[test]
    fn everything_shown_is_made_of_the_results() -> Result<()> {
        let place = Place::ours();
        for (path, expected) in Document::read(&place)?.files(&place)? {
            let found = fs::read_to_string(&path).map_err(Error::system("read", path.display()))?;
            assert!(found == expected, "{} differs from what the results say", path.display());
        }
        Ok(())
    }
}
