//! The results as a section of the document.

use serde_json::json;

use super::{ENDPOINTS, FEW, Round, SERVICES, SIZES};
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::statistics::{Summary, slope, summarize};

/// One whole run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// In the order in which they were measured.
    pub rounds: Vec<Round>,
}

/// A figure of a round.
type Figure = fn(&Round) -> f64;

const FIGURES: [(&str, Figure); 7] = [
    ("all of it by fairway-proxy's dataplane, s", |round| round.ours),
    ("of this, addresses, s", |round| round.addresses),
    ("of this, elements of the nftables table, s", |round| round.table),
    ("services and servers by ipvsadm -R, s", |round| round.ipvsadm),
    ("addresses by ip -batch, s", |round| round.ip),
    ("messages for one change", |round| round.messages),
    ("system calls for it", |round| round.calls),
];

/// A figure that every size has.
type BySize = fn(&Round) -> [f64; SIZES.len()];

const BY_SIZE: [(&str, BySize); 2] = [
    ("all of it by fairway-proxy's dataplane, s", |round| round.by_size),
    ("one endpoint changes, CPU µs", |round| round.change),
];

impl Round {
    /// Services and servers alone.
    fn services(&self) -> f64 {
        self.ours - self.addresses - self.table
    }
}

impl Report {
    /// Ratios, then all figures.
    pub fn section(&self) -> Section {
        let row = |(title, figure): (&str, Figure)| vec![title.to_owned(), cell(self.summary(figure))];
        Section {
            name: "virtual-services".to_owned(),
            title: "Mode ipvs: virtual services of the kernel".to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: vec![
                format!("{SERVICES} services of {ENDPOINTS} endpoints each, in a guest without hardware support"),
                "ipvsadm knows services and servers alone; beside these ours has addresses and a table".to_owned(),
                "a change is half a change of either kind: an endpoint comes, its connections are asked for, it leaves"
                    .to_owned(),
                "exponents: the slope of a line through the logarithms; 1 is in proportion to the services, 0 independent of them"
                    .to_owned(),
            ],
            comparisons: self.comparisons(),
            tables: vec![Table {
                title: "Medians (lowest – highest)".to_owned(),
                header: vec!["figure".to_owned(), String::new()],
                rows: FIGURES.into_iter().map(row).collect(),
            }, self.by_size()],
            samples: json!(self.rounds),
        }
    }

    fn comparisons(&self) -> Vec<Comparison> {
        let compare = |what: &str, beside: &str, bar: Option<Bar>, ratio: Figure| Comparison {
            what: what.to_owned(),
            beside: beside.to_owned(),
            unit: "ratio".to_owned(),
            value: self.summary(ratio),
            bar,
        };
        let programmed =
            format!("{SERVICES} services x {ENDPOINTS} endpoints, without addresses and rules: per second");
        vec![
            compare(&programmed, "ipvsadm -R", Some(Bar::AtLeast(5.0)), |round| {
                round.ipvsadm / round.services()
            }),
            compare(
                "the same with addresses and the nftables table",
                "ipvsadm -R, which has neither",
                None,
                |round| round.ipvsadm / round.ours,
            ),
            compare(
                "the same with addresses and the nftables table",
                "ipvsadm -R and ip -batch",
                None,
                |round| (round.ipvsadm + round.ip) / round.ours,
            ),
            compare(
                &format!("among {SERVICES} services: one endpoint changes, CPU"),
                &format!("among {FEW}"),
                Some(Bar::AtMost(1.2)),
                |round| round.change[SIZES.len() - 1] / round.change[0],
            ),
        ]
    }

    fn by_size(&self) -> Table {
        let sizes = SIZES.map(|services| services.to_string());
        let row = |(title, figure): (&str, BySize)| {
            let of = |size| self.summary(|round| figure(round)[size]);
            let summaries: Vec<Option<Summary>> = (0..SIZES.len()).map(of).collect();
            let points = SIZES.iter().zip(&summaries);
            let points =
                points.map(|(services, of)| Some((f64::from(*services).ln(), of.as_ref()?.median.ln())));
            let exponent = points.collect::<Option<Vec<_>>>().and_then(|points| slope(&points));
            let exponent = exponent.map_or_else(String::new, |exponent| format!("{exponent:.2}"));
            [title.to_owned()].into_iter().chain(summaries.into_iter().map(cell)).chain([exponent]).collect()
        };
        Table {
            title: "By services: medians (lowest – highest)".to_owned(),
            header: ["figure".to_owned()].into_iter().chain(sizes).chain(["exponent".to_owned()]).collect(),
            rows: BY_SIZE.into_iter().map(row).collect(),
        }
    }

    fn summary(&self, figure: impl Fn(&Round) -> f64) -> Option<Summary> {
        summarize(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_compared_with_like() {
        let round = Round {
            ours: 10.0,
            addresses: 6.0,
            table: 2.0,
            ipvsadm: 12.0,
            ip: 8.0,
            by_size: [0.01, 1.0, 10.0],
            change: [100.0, 100.0, 110.0],
            messages: 4.0,
            calls: 6.0,
        };
        let report =
            Report { command: "make bench".to_owned(), machine: Machine::default(), rounds: vec![round] };
        let section = report.section();
        let ratios: Vec<f64> =
            section.comparisons.iter().filter_map(|it| it.value).map(|value| value.median).collect();
        assert_eq!(ratios, [6.0, 1.2, 2.0, 1.1]);
        assert_eq!(section.comparisons.iter().filter(|it| it.bar.is_some()).count(), 2);
        // As the services: to the power of 1; and of nothing.
        let exponents: Vec<Option<&String>> = section.tables[1].rows.iter().map(|row| row.last()).collect();
        assert_eq!(exponents, [Some(&"1.00".to_owned()), Some(&"0.01".to_owned())]);
    }
}
