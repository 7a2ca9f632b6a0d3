//! What was seen, as a Markdown table for people and as JSON for programs.

use serde_json::{Value, json};

use super::{Round, SIZES, Size};
use crate::machine::Machine;
use crate::statistics::{Summary, median, number, summarize};

/// One whole run.
#[derive(Clone, Debug)]
pub struct Report {
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

const FIGURES: [Figure; 6] = [
    ("start until all is served, s", |round| round.cold_start),
    ("CPU until then, s", |round| round.cold_start_cpu),
    ("RSS then, MiB", |round| round.resident),
    ("one endpoint changes, ms", |round| round.change),
    ("CPU per change, µs", |round| round.change_cpu),
    ("1,000 change at once, ms", |round| round.burst),
];

impl Report {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let Machine { date, commit, kernel, processor, processors, memory, .. } = &self.machine;
        let mut text = format!(
            "# How the proxy's costs grow with the cluster\n\n\
             * `{}`, {date}, commit {commit}\n\
             * Linux {kernel}, {processors} x {processor}, {memory} MiB, API server and proxy on it\n\
             * other things took {:.0} % of the machine before\n\
             * a change is timed from its commit in the API server until connections follow; of few services fewer change at once\n\n\
             | figure |",
            self.command,
            median(&self.busy) * 100.0
        );
        for Size { services, endpoints } in SIZES {
            text.extend([" ", &format!("{services} x {endpoints}"), " |"]);
        }
        text.push_str(" grows with the services to the power of |\n|---|---|---|---|---|---|\n");
        for (title, figure) in FIGURES {
            let cells: Vec<String> = SIZES.into_iter().map(|size| cell(self.summary(size, figure))).collect();
            let exponent =
                self.exponent(figure).map_or_else(String::new, |exponent| format!("{exponent:.2}"));
            text.extend(["| ", title, " | ", &cells.join(" | "), " | ", &exponent, " |\n"]);
        }
        text
    }

    /// As JSON, every round included.
    pub fn json(&self) -> Value {
        let rounds: Vec<Value> =
            self.rounds.iter().map(|(size, round)| json!({ "size": size, "figures": round })).collect();
        json!({
            "command": self.command,
            "machine": self.machine,
            "busy_with_others": self.busy,
            "rounds": rounds,
        })
    }

    fn summary(&self, size: Size, figure: fn(&Round) -> f64) -> Option<Summary> {
        let of = self.rounds.iter().filter(|(one, _)| *one == size);
        summarize(&of.map(|(_, round)| figure(round)).collect::<Vec<_>>())
    }

    /// From a thousand services to ten thousand: 1 is in proportion, 0 is independent of them.
    fn exponent(&self, figure: fn(&Round) -> f64) -> Option<f64> {
        let [_, small, large, _] = SIZES.map(|size| self.summary(size, figure).map(|summary| summary.median));
        let growth = f64::from(SIZES[2].services) / f64::from(SIZES[1].services);
        Some((large? / small?).ln() / growth.ln()).filter(|exponent| exponent.is_finite())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_an_exponent() {
        let round = |value| Round {
            cold_start: value,
            cold_start_cpu: 1.0,
            resident: value * value,
            change: 2.0,
            change_cpu: 0.0,
            burst: 1.0,
        };
        let values = [1.0, 10.0, 100.0, 100.0];
        let report = Report {
            command: "cargo bench".to_owned(),
            machine: Machine::default(),
            busy: vec![0.0],
            rounds: SIZES.into_iter().zip(values.map(round)).collect(),
        };
        let text = report.markdown();
        for (title, exponent) in [("start until", "1.00"), ("RSS", "2.00"), ("one endpoint", "0.00")] {
            let row = text.lines().find(|line| line.contains(title)).unwrap();
            assert!(row.ends_with(&format!("| {exponent} |")), "{row}");
        }
        assert!(text.lines().any(|line| line.contains("CPU per change") && line.ends_with("|  |")), "{text}");
    }
}
