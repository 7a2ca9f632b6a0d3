//! The results as a section of the document.

use std::collections::BTreeMap;

use ::tests::traffic::PACE;
use serde_json::{Value, json};

use super::variant::Variant;
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::measure::{Figure, Measure};
use crate::results::{Results, Row};

/// One whole run of the benchmark.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// How often each load was put on each variant.
    pub rounds: u32,
    /// For how long each time.
    pub milliseconds: u32,
    /// Who did not take part, and why.
    pub not_run: BTreeMap<Variant, String>,
    /// Runs that failed, in whole or in part.
    pub failures: Vec<String>,
    /// The share of the machine that other things took before each round, from 0 to 1.
    pub busy: Vec<f64>,
    /// What was measured.
    pub results: Results<Variant>,
}

impl Report {
    /// Ratios to the best rival, then medians with their spreads.
    pub fn section(&self) -> Section {
        let mut section = Section {
            name: "front-door".to_owned(),
            title: "The front door beside the best rival".to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: vec![format!(
                "{} rounds of {} ms per load and variant, the variants in turn; client, balancer and server share the \
                 machine; idle connections once, before all else",
                self.rounds, self.milliseconds
            )],
            comparisons: self.results.rows().iter().flat_map(|row| self.comparisons(row)).collect(),
            tables: vec![self.medians()],
            samples: self.samples(),
        };
        section.note_busy(&self.busy);
        let not_run =
            self.not_run.iter().map(|(variant, reason)| format!("not run: {}: {reason}", variant.name()));
        section.notes.extend(not_run);
        section.notes.extend(self.failures.iter().map(|failure| format!("failed: {failure}")));
        section
    }

    fn comparisons(&self, row: &Row<Variant>) -> Vec<Comparison> {
        let at_a_pace =
            is_at_a_pace(&row.measure) && matches!(row.measure.figure, Figure::Median | Figure::Percentile99);
        let balancers = Variant::ALL.into_iter().filter(|variant| at_a_pace && variant.program().is_some());
        let added = balancers.map(|variant| Comparison {
            what: format!("{}: {}", variant.name(), row.measure.title()),
            beside: "more than direct".to_owned(),
            unit: "ms".to_owned(),
            value: row.difference(variant, Variant::Direct),
            bar: None,
        });
        [self.beside_the_best(row)].into_iter().chain(added).collect()
    }

    fn beside_the_best(&self, row: &Row<Variant>) -> Comparison {
        let rival = row.best(Variant::ALL.into_iter().filter(|variant| variant.is_rival()));
        Comparison {
            what: row.measure.title(),
            beside: rival.map_or_else(
                || self.not_run.values().cloned().collect::<Vec<_>>().join("; "),
                |rival| rival.name().to_owned(),
            ),
            unit: "ratio".to_owned(),
            value: rival.and_then(|rival| row.ratio(Variant::Fairway, rival)),
            bar: bar(&row.measure),
        }
    }

    fn medians(&self) -> Table {
        let header = ["load", "figure"].into_iter().chain(Variant::ALL.map(Variant::name));
        let row = |row: &Row<Variant>| {
            let mut cells = vec![row.measure.run.clone(), row.measure.figure.unit().to_owned()];
            cells.extend(Variant::ALL.map(|variant| match row.summary(variant) {
                None if self.not_run.contains_key(&variant) => "not run".to_owned(),
                summary => cell(summary),
            }));
            cells
        };
        Table {
            title: "Medians (lowest – highest)".to_owned(),
            header: header.map(str::to_owned).collect(),
            rows: self.results.rows().iter().map(row).collect(),
        }
    }

    fn samples(&self) -> Value {
        let row = |row: &Row<Variant>| {
            let of: BTreeMap<&str, Vec<f64>> =
                Variant::ALL.map(|variant| (variant.name(), row.samples(variant))).into();
            json!({ "run": row.measure.run, "figure": row.measure.figure, "of": of })
        };
        self.results.rows().iter().map(row).collect()
    }
}

/// What the ratio to the best rival is to reach.
fn bar(measure: &Measure) -> Option<Bar> {
    let paced = is_at_a_pace(measure);
    let connections = measure.run.starts_with("new");
    match measure.figure {
        Figure::Throughput => Some(Bar::AtLeast(1.3)),
        Figure::Rate => Some(Bar::AtLeast(1.1)),
        Figure::Percentile99 if !connections && !paced => Some(Bar::AtMost(1.0)),
        Figure::CpuPerGigabyte => Some(Bar::AtMost(0.5)),
        Figure::CpuPer10k if !paced => Some(Bar::AtMost(0.8)),
        Figure::Resident => Some(Bar::AtMost(0.15)),
        Figure::Median | Figure::Percentile99 | Figure::Percentile999 | Figure::CpuPer10k => None,
    }
}

/// Whether nobody was at the limit: what a balancer adds to the time of an answer then shows.
fn is_at_a_pace(measure: &Measure) -> bool {
    measure.run.starts_with(&PACE.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Run;
    use ::tests::traffic::Work;

    fn report(samples: &[(Variant, &[f64])]) -> Report {
        let mut results = Results::default();
        for (variant, values) in samples {
            for (round, value) in (0..).zip(*values) {
                let measure = Measure { run: "1 stream up".to_owned(), figure: Figure::Throughput };
                results.add(measure, *variant, round, *value);
            }
        }
        Report {
            command: "cargo bench".to_owned(),
            machine: Machine::default(),
            rounds: 3,
            milliseconds: 1000,
            not_run: BTreeMap::from([(Variant::Nginx, "nginx is not installed".to_owned())]),
            failures: vec!["direct, 1 stream up: it broke".to_owned()],
            busy: vec![0.01, 0.3, 0.2],
            results,
        }
    }

    const OURS: (Variant, &[f64]) = (Variant::Fairway, &[20.0, 24.0, 12.0]);

    #[test]
    fn ours_is_compared_with_the_best_rival() {
        let theirs: [(Variant, &[f64]); 2] =
            [(Variant::HaproxySplice, &[10.0, 12.0, 12.0]), (Variant::HaproxyCopy, &[1.0])];
        let section = report(&[&[OURS], &theirs[..]].concat()).section();
        let comparison = &section.comparisons[0];
        assert_eq!((&*comparison.what, &*comparison.beside), ("1 stream up, Gbit/s", "HAProxy, splice"));
        assert_eq!(comparison.value.map(|value| value.median), Some(2.0));
        assert_eq!(comparison.bar, Some(Bar::AtLeast(1.3)));
        let medians =
            ["1 stream up", "Gbit/s", "20.0 (12.0 – 24.0)", "12.0 (10.0 – 12.0)", "1.00", "not run", "–"];
        assert_eq!(section.tables[0].rows, [medians.map(str::to_owned)]);
        assert_eq!(section.samples[0]["of"]["fairway-lb"], json!([20.0, 24.0, 12.0]));
    }

    #[test]
    fn what_a_balancer_adds_is_seen_at_a_fixed_rate() {
        let mut report = report(&[]);
        let run = Run { work: Work::Paced, connections: 32 }.title();
        let samples = [(Variant::Direct, 0.2), (Variant::Fairway, 0.3), (Variant::HaproxyCopy, 0.5)];
        for (variant, value) in samples {
            for figure in [Figure::Percentile99, Figure::CpuPer10k] {
                report.results.add(Measure { run: run.clone(), figure }, variant, 0, value);
            }
        }
        let section = report.section();
        let seen: Vec<(&str, Option<String>)> = section
            .comparisons
            .iter()
            .map(|one| (&*one.beside, one.value.map(|value| format!("{:.1}", value.median))))
            .collect();
        let figure = |value: &str| Some(value.to_owned());
        let (ours, theirs) = (("more than direct", figure("0.1")), ("more than direct", figure("0.3")));
        let nobodys = ("more than direct", None);
        let beside = ("HAProxy, 64 KiB", figure("0.6"));
        assert_eq!(seen, [beside.clone(), ours, nobodys.clone(), theirs, nobodys, beside]);
        assert!(section.comparisons.iter().all(|one| one.bar.is_none()));
    }

    #[test]
    fn what_is_missing_and_what_disturbed_is_said() {
        let section = report(&[OURS]).section();
        let notes = section.notes.join("\n");
        for sentence in [
            "not run: nginx stream: nginx is not installed",
            "failed: direct, 1 stream up: it broke",
            "**a busy machine**: other things took 20 % of it before a round, at most 30 %",
        ] {
            assert!(notes.contains(sentence), "{sentence:?} is not in {notes}");
        }
        assert_eq!(
            (section.comparisons[0].value, &*section.comparisons[0].beside),
            (None, "nginx is not installed")
        );
    }
}
