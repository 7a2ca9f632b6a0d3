//! The results as a section of the document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contender::{ADVERT_INTERVAL, Contender};
use super::fault::{Fault, Figure};
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::statistics::{Summary, number, summarize};

/// One figure of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// What happened.
    pub fault: Fault,
    /// What was seen of it.
    pub figure: Figure,
    /// On whom it was tried.
    pub contender: Contender,
    /// In the figure's unit.
    pub value: f64,
}

/// One whole run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// How often each fault was tried on each contender.
    pub rounds: u32,
    /// Why the pair did not take part, if so.
    pub absent: Option<String>,
    /// Faults that were not tried.
    pub not_run: Vec<Fault>,
    /// The share of the machine that other things took before each round, from 0 to 1.
    pub busy: Vec<f64>,
    /// Rounds that failed; they were tried again.
    pub failures: Vec<String>,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
}

impl Report {
    /// What clients saw, then both contenders beside each other.
    pub fn section(&self) -> Section {
        let [ours, theirs] = Contender::ALL;
        let comparison = |(fault, figure): (Fault, Figure)| {
            let (what, unit) = figure.title().rsplit_once(", ").unwrap_or((figure.title(), ""));
            let value = self.summary(fault, figure, theirs);
            let beside = value.map_or("not run".to_owned(), |value| number(value.median));
            Comparison {
                what: format!("{}: {what}", fault.title()),
                beside: format!("{} {beside}", theirs.name()),
                unit: unit.to_owned(),
                value: self.summary(fault, figure, ours),
                bar: fault.bar(figure, value.map(|value| value.median)).map(Bar::AtMost),
            }
        };
        let row = |(fault, figure): (Fault, Figure)| {
            let of = |contender: Contender| match &self.absent {
                Some(_) if contender.is_rival() => "not run".to_owned(),
                _ => cell(self.summary(fault, figure, contender)),
            };
            vec![fault.title().to_owned(), figure.title().to_owned(), of(ours), of(theirs)]
        };
        let header = ["fault", "figure", ours.name(), theirs.name()];
        let mut section = Section {
            name: "fail-over".to_owned(),
            title: "Fail-over beside keepalived + HAProxy".to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: self.description(),
            comparisons: self.rows().into_iter().map(comparison).collect(),
            tables: vec![Table {
                title: "Medians (lowest – highest)".to_owned(),
                header: header.map(str::to_owned).into(),
                rows: self.rows().into_iter().map(row).collect(),
            }],
            samples: self.rows().into_iter().map(|row| self.samples_of(row)).collect(),
        };
        section.note_busy(&self.busy);
        let absent = self.absent.iter().map(|reason| format!("not run: {}: {reason}", theirs.name()));
        section.notes.extend(absent);
        section.notes.extend(self.not_run.iter().map(|fault| format!("not run: {}", fault.title())));
        section.notes.extend(self.failures.iter().map(|failure| format!("tried again: {failure}")));
        section
    }

    fn description(&self) -> Vec<String> {
        vec![format!(
            "advert interval {ADVERT_INTERVAL} ms, priorities 250, 240, 230; a client dials TLS 100 times a second; {} \
                 rounds, each on freshly started masters",
            self.rounds
        )]
    }

    fn samples_of(&self, (fault, figure): (Fault, Figure)) -> Value {
        let of: BTreeMap<&str, Vec<f64>> =
            Contender::ALL.map(|contender| (contender.name(), self.values(fault, figure, contender))).into();
        json!({ "fault": fault, "figure": figure, "of": of })
    }

    /// What was seen of which fault, in the order in which it first was.
    fn rows(&self) -> Vec<(Fault, Figure)> {
        let mut rows = Vec::new();
        for Sample { fault, figure, .. } in &self.samples {
            if !rows.contains(&(*fault, *figure)) {
                rows.push((*fault, *figure));
            }
        }
        rows
    }

    fn values(&self, fault: Fault, figure: Figure, contender: Contender) -> Vec<f64> {
        let wanted =
            |sample: &&Sample| (sample.fault, sample.figure, sample.contender) == (fault, figure, contender);
        self.samples.iter().filter(wanted).map(|sample| sample.value).collect()
    }

    fn summary(&self, fault: Fault, figure: Figure, contender: Contender) -> Option<Summary> {
        summarize(&self.values(fault, figure, contender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[f64]) -> Report {
        let sample = |value: &f64| Sample {
            fault: Fault::Lost,
            figure: Figure::Gap,
            contender: Contender::Fairway,
            value: *value,
        };
        Report {
            command: "cargo bench".to_owned(),
            machine: Machine::default(),
            rounds: 3,
            absent: None,
            not_run: Vec::new(),
            busy: vec![0.5],
            failures: vec!["round 1: it broke".to_owned()],
            samples: values.iter().map(sample).collect(),
        }
    }

    #[test]
    fn ours_has_a_bar_and_theirs_stands_beside_it() {
        let section = report(&[300.0, 310.0, 340.0]).section();
        let comparison = &section.comparisons[0];
        assert_eq!(comparison.bar, Some(Bar::AtMost(330.0)));
        assert_eq!(comparison.value.map(|value| value.median), Some(310.0));
        assert_eq!(comparison.beside, "keepalived + HAProxy not run");
        assert_eq!(section.tables[0].rows[0][2..], ["310 (300 – 340)", "–"]);
        let notes = section.notes.join("\n");
        for words in ["tried again: round 1: it broke", "at most 50 %"] {
            assert!(notes.contains(words), "{words} is not in {notes}");
        }
        assert_eq!(section.samples[0]["of"]["fairway-lb"], json!([300.0, 310.0, 340.0]));
    }

    #[test]
    fn who_and_what_did_not_run_is_named() {
        let absent = Some("keepalived is not installed".to_owned());
        let section = Report { absent, not_run: vec![Fault::Hangs], ..report(&[300.0]) }.section();
        assert_eq!(section.tables[0].rows[0][2..], ["300", "not run"]);
        for note in
            ["not run: keepalived + HAProxy: keepalived is not installed", "not run: an apiserver hangs"]
        {
            assert!(section.notes.iter().any(|one| one == note), "{note:?} is not in {:?}", section.notes);
        }
    }
}
