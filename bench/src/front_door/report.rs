//! The results as a Markdown table for people and as JSON for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::results::{Results, Row};
use super::variant::Variant;
use crate::machine::Machine;
use crate::statistics::{Summary, number, summarize};

/// From here on, in any round, a machine counts as busy with other things.
const BUSY: f64 = 0.05;

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
    pub results: Results,
}

impl Report {
    /// As Markdown: ratios first, then medians, with their spreads.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# The front door beside its rivals\n\n");
        self.describe(&mut text);
        text.push_str("\n## Ours beside the best rival\n\n");
        text.push_str("| load | figure | ratio | lowest – highest | best rival | bar | |\n");
        text.push_str("|---|---|---|---|---|---|---|\n");
        for row in self.results.rows() {
            line(&mut text, &self.ratio(row));
        }
        text.push_str("\n## Medians (lowest – highest)\n\n| load | figure |");
        for variant in Variant::ALL {
            text.extend([" ", variant.name(), " |"]);
        }
        text.push_str("\n|---|---|---|---|---|---|---|\n");
        for row in self.results.rows() {
            let mut cells = title(row);
            cells.extend(Variant::ALL.map(|variant| self.cell(row, variant)));
            line(&mut text, &cells);
        }
        text
    }

    fn describe(&self, text: &mut String) {
        let Machine { date, commit, kernel, processor, processors, memory, congestion_control, rivals } =
            &self.machine;
        let mut say = |sentence: String| {
            text.push_str("* ");
            text.push_str(&sentence);
            text.push('\n');
        };
        say(format!("`{}`, {date}, commit {commit}", self.command));
        say(format!(
            "Linux {kernel}, {processors} x {processor}, {memory} MiB; client, balancer and server share them"
        ));
        let congestion_control = congestion_control.unwrap_or("the system's");
        say(format!("congestion control of every socket: {congestion_control}; {}", rivals.join("; ")));
        say(format!(
            "{} rounds of {} ms per load and variant, the variants in turn; idle connections once, before all else",
            self.rounds, self.milliseconds
        ));
        if let Some(busy) = summarize(&self.busy) {
            let (median, highest) = (busy.median * 100.0, busy.highest * 100.0);
            let judgement = if busy.highest > BUSY { "**a busy machine**" } else { "a quiet machine" };
            say(format!(
                "{judgement}: other things took {median:.0} % of it before a round, at most {highest:.0} %"
            ));
        }
        for (variant, reason) in &self.not_run {
            say(format!("not run: {}: {reason}", variant.name()));
        }
        for failure in &self.failures {
            say(format!("failed: {failure}"));
        }
    }

    fn ratio(&self, row: &Row) -> Vec<String> {
        let mut cells = title(row);
        let bar = row.measure.bar();
        let Some(ratio) = row.ratio() else {
            let absent = if self.not_run.is_empty() { "no sample" } else { "not run" };
            cells.extend([absent, "", "", "", ""].map(str::to_owned));
            return cells;
        };
        let Summary { median, lowest, highest, .. } = ratio.summary;
        let judgement = match row.measure.reached(median) {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "",
        };
        let floor = row.measure.figure.compare(2.0, 1.0).is_lt();
        let sign = if floor { ">=" } else { "<=" };
        cells.extend([
            format!("{median:.2}"),
            format!("{lowest:.2} – {highest:.2}"),
            ratio.rival.name().to_owned(),
            bar.map_or_else(String::new, |bar| format!("{sign} {bar}")),
            judgement.to_owned(),
        ]);
        cells
    }

    fn cell(&self, row: &Row, variant: Variant) -> String {
        match (row.summary(variant), self.not_run.contains_key(&variant)) {
            (Some(summary), _) if summary.samples == 1 => number(summary.median),
            (Some(Summary { median, lowest, highest, .. }), _) => {
                format!("{} ({} – {})", number(median), number(lowest), number(highest))
            }
            (None, true) => "not run".to_owned(),
            (None, false) => "–".to_owned(),
        }
    }

    /// As JSON, every sample included.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self.results.rows().iter().map(row_json).collect();
        let not_run: BTreeMap<&str, &String> =
            self.not_run.iter().map(|(variant, reason)| (variant.name(), reason)).collect();
        json!({
            "command": self.command,
            "machine": self.machine,
            "rounds": self.rounds,
            "milliseconds": self.milliseconds,
            "not_run": not_run,
            "failures": self.failures,
            "busy_with_others": self.busy,
            "rows": rows,
        })
    }
}

/// What is known of one variant in one row.
#[derive(Serialize)]
struct Cell {
    summary: Option<Summary>,
    samples: Vec<f64>,
}

fn row_json(row: &Row) -> Value {
    let cell = |variant: Variant| Cell { summary: row.summary(variant), samples: row.samples(variant) };
    let variants: BTreeMap<&str, Cell> =
        Variant::ALL.into_iter().map(|variant| (variant.name(), cell(variant))).collect();
    let ratio = row.ratio().map(|ratio| {
        let reached = row.measure.reached(ratio.summary.median);
        json!({ "rival": ratio.rival.name(), "summary": ratio.summary, "reached": reached })
    });
    json!({
        "run": row.measure.run,
        "figure": row.measure.figure,
        "unit": row.measure.figure.unit(),
        "bar": row.measure.bar(),
        "ratio": ratio,
        "variants": variants,
    })
}

fn title(row: &Row) -> Vec<String> {
    vec![row.measure.run.clone(), row.measure.figure.unit().to_owned()]
}

fn line(text: &mut String, cells: &[String]) {
    text.extend(["| ", &cells.join(" | "), " |\n"]);
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Figure, Measure};
    use super::*;

    fn report() -> Report {
        let mut results = Results::default();
        let measure = || Measure { run: "1 stream up".to_owned(), figure: Figure::Throughput };
        for (round, ours, theirs) in [(0, 20.0, 10.0), (1, 24.0, 12.0), (2, 12.0, 12.0)] {
            results.add(measure(), Variant::Fairway, round, ours);
            results.add(measure(), Variant::HaproxySplice, round, theirs);
        }
        let machine = Machine {
            date: "2026-01-02".to_owned(),
            commit: "abc".to_owned(),
            kernel: "6.1".to_owned(),
            processor: "A CPU".to_owned(),
            processors: 2,
            memory: 4096,
            congestion_control: Some("cubic"),
            rivals: vec!["HAProxy 2.6".to_owned()],
        };
        Report {
            command: "cargo bench".to_owned(),
            machine,
            rounds: 3,
            milliseconds: 1000,
            not_run: BTreeMap::from([(Variant::Nginx, "nginx is not installed".to_owned())]),
            failures: vec!["direct, 1 stream up: it broke".to_owned()],
            busy: vec![0.01, 0.3, 0.2],
            results,
        }
    }

    #[test]
    fn ratios_come_first_and_spreads_with_every_median() {
        let text = report().markdown();
        let ratio = "| 1 stream up | Gbit/s | 2.00 | 1.00 – 2.00 | HAProxy, splice | >= 1.3 | reached |";
        let medians = "| 1 stream up | Gbit/s | 20.0 (12.0 – 24.0) | 12.0 (10.0 – 12.0) | – | not run | – |";
        let (ratio, medians) = (text.find(ratio), text.find(medians));
        assert!(ratio.is_some() && ratio < medians, "{text}");
    }

    #[test]
    fn what_is_missing_and_what_disturbed_is_said() {
        let text = report().markdown();
        for sentence in [
            "not run: nginx stream: nginx is not installed",
            "failed: direct, 1 stream up: it broke",
            "**a busy machine**: other things took 20 % of it before a round, at most 30 %",
            "Linux 6.1, 2 x A CPU, 4096 MiB",
        ] {
            assert!(text.contains(sentence), "{sentence:?} is not in {text}");
        }
    }

    #[test]
    fn programs_find_every_sample() {
        let json = report().json();
        let row = &json["rows"][0];
        assert_eq!(row["variants"]["fairway-lb"]["samples"], json!([20.0, 24.0, 12.0]));
        assert_eq!(row["ratio"]["summary"]["median"], json!(2.0));
        assert_eq!(row["ratio"]["reached"], json!(true));
        assert_eq!(json["not_run"]["nginx stream"], "nginx is not installed");
    }
}
