//! The results as a section of the document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Case;
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::statistics::summarize;

/// One whole run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// How often everything took its turn.
    pub rounds: u32,
    /// The share of the machine that other things took before some of the rounds, from 0 to 1.
    pub busy: Vec<f64>,
    /// How many instructions the verifier walked through, by program.
    pub verified: Vec<(&'static str, Option<u32>)>,
    /// Nanoseconds per packet, by round.
    pub packets: BTreeMap<Case, Vec<f64>>,
    /// Nanoseconds per connecting of a socket, by round.
    pub connects: BTreeMap<&'static str, Vec<f64>>,
}

/// Looking up what a packet is of may take so many nanoseconds more than a bare pass; all that is done with it, if it can be, no
/// more either.
const HIT: f64 = 60.0;

impl Report {
    /// What each case takes beyond a bare pass, then everything.
    pub fn section(&self) -> Section {
        let mut section = Section {
            name: "programs".to_owned(),
            title: "eBPF programs, beyond a bare pass".to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: vec![
                format!(
                    "{} rounds; packets by BPF_PROG_TEST_RUN, 10,000 runs in a round, in rows of 250 on one packet; cold: 250 \
                     single runs, each on another packet",
                    self.rounds
                ),
                "connecting: a datagram socket, which sends nothing".to_owned(),
                "not run: the programs for interfaces without Ethernet, which the kernel has no test run for"
                    .to_owned(),
            ],
            comparisons: Case::ALL.into_iter().filter_map(|case| self.comparison(case)).collect(),
            tables: vec![self.nanoseconds(), self.instructions()],
            samples: self.samples(),
        };
        section.note_busy(&self.busy);
        section
    }

    fn comparison(&self, case: Case) -> Option<Comparison> {
        let base = case.base()?;
        let (samples, base_samples) = (self.packets.get(&case)?, self.packets.get(&base)?);
        let beyond: Vec<f64> = samples.iter().zip(base_samples).map(|(one, base)| one - base).collect();
        Some(Comparison {
            what: case.title().to_owned(),
            beside: format!("more than a {}", base.title()),
            unit: "ns".to_owned(),
            value: summarize(&beyond),
            bar: matches!(case, Case::LookUp | Case::Hit).then_some(Bar::AtMost(HIT)),
        })
    }

    fn nanoseconds(&self) -> Table {
        let row = |title: &str, samples: &[f64]| vec![title.to_owned(), cell(summarize(samples))];
        let packets = self.packets.iter().map(|(case, samples)| row(case.title(), samples));
        let connects = self.connects.iter();
        let connects = connects.map(|(title, samples)| row(&format!("connecting: {title}"), samples));
        Table {
            title: "Nanoseconds: medians (lowest – highest)".to_owned(),
            header: ["what", "ns"].map(str::to_owned).into(),
            rows: packets.chain(connects).collect(),
        }
    }

    fn instructions(&self) -> Table {
        let row = |(name, count): &(&'static str, Option<u32>)| {
            vec![
                (*name).to_owned(),
                count.map_or_else(|| "the kernel does not say".to_owned(), |count| count.to_string()),
            ]
        };
        Table {
            title: "Instructions that the kernel's verifier walks through".to_owned(),
            header: ["program", "instructions"].map(str::to_owned).into(),
            rows: self.verified.iter().map(row).collect(),
        }
    }

    fn samples(&self) -> Value {
        let packets: BTreeMap<&str, &Vec<f64>> =
            self.packets.iter().map(|(case, samples)| (case.title(), samples)).collect();
        json!({ "packets": packets, "connecting": self.connects })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_measured_beside_the_pass_of_its_round() {
        let packets = [
            (Case::Pass, vec![20.0, 30.0, 40.0]),
            (Case::Hit, vec![70.0, 85.0, 110.0]),
            (Case::PassOnce, vec![100.0, 100.0, 100.0]),
            (Case::New, vec![900.0, 800.0, 700.0]),
        ];
        let report = Report {
            command: "make bench".to_owned(),
            machine: Machine::default(),
            rounds: 3,
            busy: vec![0.0],
            verified: vec![("fairway_in", Some(7)), ("connect4", None)],
            packets: packets.into(),
            connects: BTreeMap::new(),
        };
        let section = report.section();
        let seen: Vec<(Option<f64>, Option<Bar>)> =
            section.comparisons.iter().map(|one| (one.value.map(|value| value.median), one.bar)).collect();
        assert_eq!(seen, [(Some(55.0), Some(Bar::AtMost(60.0))), (Some(700.0), None)]);
        assert_eq!(section.tables[1].rows[0], ["fairway_in", "7"]);
    }
}
