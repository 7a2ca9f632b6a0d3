//! The results as a section of the document.

use serde_json::json;

use super::{Round, SIZES, Size};
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::node::Mode;
use crate::statistics::{Summary, slope, summarize};

/// One whole run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How the proxy forwards.
    pub mode: Mode,
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// The share of the machine that other things took before, from 0 to 1.
    pub busy: Vec<f64>,
    /// In the order in which they were measured.
    pub rounds: Vec<(Size, Round)>,
}

/// A figure of a round.
type Figure = (&'static str, fn(&Round) -> f64);

const FIGURES: [Figure; 7] = [
    ("start until all is served, s", |round| round.cold_start),
    ("the lists' way by itself, s", |round| round.lists),
    ("CPU until then, s", |round| round.cold_start_cpu),
    ("RSS then, MiB", |round| round.resident),
    ("one endpoint changes, ms", |round| round.change),
    ("CPU per change, µs", |round| round.change_cpu),
    ("1,000 change at once, ms", |round| round.burst),
];

/// What is not to grow, and by how much it may.
const FLAT: [(Figure, Option<f64>); 2] = [
    (("one endpoint changes, ms", |round| round.change), Some(1.2)),
    (("CPU per change, µs", |round| round.change_cpu), None),
];

/// What is not to be exceeded, and at which size: figures of fairway-proxy by itself. 80 MB and 300 MB are promised.
const LIMITS: [(Size, Figure, &str, f64); 4] = [
    (SIZES[2], ("start until all is served, the lists' way included", |round| round.cold_start), "s", 1.5),
    (SIZES[2], ("one endpoint changes", |round| round.change), "ms", 5.0),
    (SIZES[2], ("RSS once all is served", |round| round.resident), "MiB", 76.0),
    (SIZES[3], ("RSS once all is served", |round| round.resident), "MiB", 286.0),
];

impl Report {
    /// One change among many services beside one among few, then everything by size.
    pub fn section(&self) -> Section {
        let (name, title, limits) = match self.mode {
            Mode::Ebpf => ("programming", "How the proxy's costs grow with the cluster", &LIMITS[..]),
            // What a guest takes is not what the promises are about.
            Mode::Ipvs => {
                ("programming-ipvs", "How the proxy's costs grow with the cluster in mode ipvs", &[][..])
            }
        };
        let mut section = Section {
            name: name.to_owned(),
            title: title.to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: vec![
                "API server and proxy share the machine; a change is timed from its commit in the API server until \
                 connections follow; of few services fewer change at once"
                    .to_owned(),
                "exponents: the slope of a line through the logarithms, from 10 to 10,000 services of 2 endpoints; 1 is in \
                 proportion, 0 is independent of them"
                    .to_owned(),
            ],
            comparisons: FLAT
                .into_iter()
                .map(|(figure, bar)| self.comparison(figure, bar))
                .chain(limits.iter().map(|limit| self.limited(*limit)))
                .collect(),
            tables: vec![self.by_size()],
            samples: self.rounds.iter().map(|(size, round)| json!({ "size": size, "figures": round })).collect(),
        };
        match self.mode {
            Mode::Ebpf => section.note_busy(&self.busy),
            Mode::Ipvs => section.notes.push("in a guest, whose one processor is emulated where the host lends none: only ratios and exponents mean something beyond it".to_owned()),
        }
        section
    }

    /// Most services beside fewest, round by round.
    fn comparison(&self, (title, figure): Figure, bar: Option<f64>) -> Comparison {
        let (few, many) = (self.values(SIZES[0], figure), self.values(SIZES[2], figure));
        let ratios: Vec<f64> = few.iter().zip(&many).map(|(few, many)| many / few).collect();
        Comparison {
            what: format!("among {} services: {title}", SIZES[2].services),
            beside: format!("among {}", SIZES[0].services),
            unit: "ratio".to_owned(),
            value: summarize(&ratios),
            bar: bar.map(Bar::AtMost),
        }
    }

    fn limited(&self, (size, (title, figure), unit, most): (Size, Figure, &str, f64)) -> Comparison {
        Comparison {
            what: format!("among {} services: {title}", size.services),
            beside: format!("{} endpoints of each", size.endpoints),
            unit: unit.to_owned(),
            value: self.summary(size, figure),
            bar: Some(Bar::AtMost(most)),
        }
    }

    fn by_size(&self) -> Table {
        let sizes = SIZES.map(|Size { services, endpoints }| format!("{services} x {endpoints}"));
        let row = |(title, figure): Figure| {
            let cells = SIZES.map(|size| cell(self.summary(size, figure)));
            let exponent =
                self.exponent(figure).map_or_else(String::new, |exponent| format!("{exponent:.2}"));
            [title.to_owned()].into_iter().chain(cells).chain([exponent]).collect()
        };
        Table {
            title: "By services x endpoints of each: medians (lowest – highest)".to_owned(),
            header: ["figure".to_owned()].into_iter().chain(sizes).chain(["exponent".to_owned()]).collect(),
            rows: FIGURES.into_iter().map(row).collect(),
        }
    }

    fn values(&self, size: Size, figure: fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().filter(|(one, _)| *one == size).map(|(_, round)| figure(round)).collect()
    }

    fn summary(&self, size: Size, figure: fn(&Round) -> f64) -> Option<Summary> {
        summarize(&self.values(size, figure))
    }

    /// By how much a figure grows with the number of services, endpoints of each being the same.
    fn exponent(&self, figure: fn(&Round) -> f64) -> Option<f64> {
        let same = SIZES.into_iter().filter(|size| size.endpoints == SIZES[0].endpoints);
        let points: Vec<(f64, f64)> = same
            .map(|size| Some((f64::from(size.services).ln(), self.summary(size, figure)?.median.ln())))
            .collect::<Option<_>>()?;
        slope(&points).filter(|slope| slope.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_an_exponent_and_what_is_flat_a_ratio() {
        let round = |value| Round {
            cold_start: value,
            lists: value,
            cold_start_cpu: 1.0,
            resident: value * value,
            change: 2.0,
            change_cpu: 0.0,
            burst: 1.0,
        };
        // As the services: to the power of 1.
        let values = [1.0, 100.0, 1000.0, 1000.0];
        let report = Report {
            mode: Mode::Ebpf,
            command: "cargo bench".to_owned(),
            machine: Machine::default(),
            busy: vec![0.0],
            rounds: SIZES.into_iter().zip(values.map(round)).collect(),
        };
        let section = report.section();
        let rows = &section.tables[0].rows;
        for (title, exponent) in
            [("start until", "1.00"), ("RSS", "2.00"), ("one endpoint", "0.00"), ("CPU per", "")]
        {
            let row = rows.iter().find(|row| row[0].contains(title)).unwrap();
            assert_eq!(row.last().map(String::as_str), Some(exponent), "{row:?}");
        }
        let change = &section.comparisons[0];
        assert_eq!((change.value.map(|value| value.median), change.bar), (Some(1.0), Some(Bar::AtMost(1.2))));
        // Of 10,000 services.
        let start = &section.comparisons[FLAT.len()];
        assert_eq!(
            (start.value.map(|value| value.median), start.bar),
            (Some(1000.0), Some(Bar::AtMost(1.5)))
        );
    }
}
