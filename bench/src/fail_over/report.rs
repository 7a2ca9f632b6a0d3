//! What was seen, as a Markdown table for people and as JSON for programs.

use serde_json::{Value, json};

use super::contender::{ADVERT_INTERVAL, Contender};
use super::fault::{Fault, Figure};
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
    /// The share of the machine that other things took before each round, from 0 to 1.
    pub busy: Vec<f64>,
    /// Rounds that failed; they were tried again.
    pub failures: Vec<String>,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
}

impl Report {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Fail-over beside keepalived + HAProxy\n\n");
        for sentence in self.description() {
            text.extend(["* ", &sentence, "\n"]);
        }
        let [ours, theirs] = Contender::ALL.map(Contender::name);
        text.extend(["\n| fault | figure | ", ours, " | ", theirs, " | bar for ours | |\n"]);
        text.push_str("|---|---|---|---|---|---|\n");
        for (fault, figure) in self.rows() {
            let [ours, theirs] = Contender::ALL.map(|contender| self.summary(fault, figure, contender));
            let bar = fault.bar(figure);
            let cells = [
                fault.title().to_owned(),
                figure.title().to_owned(),
                cell(ours),
                cell(theirs),
                bar.map_or_else(String::new, |bar| format!("<= {}", number(bar))),
                verdict(ours, bar).to_owned(),
            ];
            text.extend(["| ", &cells.join(" | "), " |\n"]);
        }
        text
    }

    fn description(&self) -> Vec<String> {
        let Machine { date, commit, kernel, processor, processors, memory, rivals, .. } = &self.machine;
        let mut sentences = vec![
            format!("`{}`, {date}, commit {commit}", self.command),
            format!("Linux {kernel}, {processors} x {processor}, {memory} MiB, all nodes on it"),
            rivals.join("; "),
            format!(
                "advert interval {ADVERT_INTERVAL} ms, priorities 250, 240, 230; a client dials TLS 100 times a second; {} rounds, each on freshly started masters; medians (lowest – highest)",
                self.rounds
            ),
        ];
        if let Some(busy) = summarize(&self.busy) {
            sentences.push(format!(
                "other things took {:.0} % of the machine before a round, at most {:.0} %",
                busy.median * 100.0,
                busy.highest * 100.0
            ));
        }
        sentences.extend(self.failures.iter().map(|failure| format!("tried again: {failure}")));
        sentences
    }

    /// As JSON, every sample included.
    pub fn json(&self) -> Value {
        let row = |(fault, figure): (Fault, Figure)| {
            let of = |contender| {
                json!({
                    "summary": self.summary(fault, figure, contender),
                    "samples": self.values(fault, figure, contender),
                })
            };
            let contenders: serde_json::Map<String, Value> = Contender::ALL
                .into_iter()
                .map(|contender| (contender.name().to_owned(), of(contender)))
                .collect();
            json!({ "fault": fault, "figure": figure, "bar": fault.bar(figure), "contenders": contenders })
        };
        json!({
            "command": self.command,
            "machine": self.machine,
            "rounds": self.rounds,
            "busy_with_others": self.busy,
            "failures": self.failures,
            "rows": self.rows().into_iter().map(row).collect::<Vec<_>>(),
        })
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

fn cell(summary: Option<Summary>) -> String {
    match summary {
        None => "–".to_owned(),
        Some(Summary { median, samples: 1, .. }) => number(median),
        Some(Summary { median, lowest, highest, .. }) => {
            format!("{} ({} – {})", number(median), number(lowest), number(highest))
        }
    }
}

/// A promise is kept when it is kept every time.
fn verdict(ours: Option<Summary>, bar: Option<f64>) -> &'static str {
    match (ours, bar) {
        (Some(Summary { highest, .. }), Some(bar)) if highest <= bar => "reached every time",
        (Some(Summary { median, .. }), Some(bar)) if median <= bar => "reached by the median",
        (Some(_), Some(_)) => "missed",
        (None, _) | (_, None) => "",
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
            busy: vec![0.5],
            failures: vec!["round 1: it broke".to_owned()],
            samples: values.iter().map(sample).collect(),
        }
    }

    #[test]
    fn a_bar_is_reached_when_every_round_reaches_it() {
        for (values, verdict) in [
            (&[300.0, 310.0, 320.0][..], "reached every time"),
            (&[300.0, 310.0, 340.0], "reached by the median"),
            (&[300.0, 340.0, 350.0], "missed"),
        ] {
            let text = report(values).markdown();
            let row = format!("| <= 330 | {verdict} |");
            assert!(text.contains(&row), "{row} is not in {text}");
        }
    }

    #[test]
    fn spreads_and_what_went_wrong_are_said() {
        let text = report(&[300.0, 310.0, 340.0]).markdown();
        for words in ["310 (300 – 340)", "| – |", "tried again: round 1: it broke", "at most 50 %"] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        let json = report(&[300.0]).json();
        assert_eq!(json["rows"][0]["contenders"]["fairway-lb"]["samples"], json!([300.0]));
    }
}
