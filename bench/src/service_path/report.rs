//! The results as a section of the document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ByPath, Contender, Kernel, Path, Way};
use crate::document::{Bar, Comparison, Section, Table, cell};
use crate::machine::Machine;
use crate::measure::{Figure, Measure};
use crate::results::Row;

/// One whole run of the benchmark.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to get it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// How often each load was put on each contender.
    pub rounds: u32,
    /// For how long each time.
    pub milliseconds: u32,
    /// Where they met.
    pub kernel: Kernel,
    /// Why nftables did not take part, if so.
    pub not_run: Option<String>,
    /// Runs that failed, in whole or in part.
    pub failures: Vec<String>,
    /// The share of the machine that other things took before each round, from 0 to 1.
    pub busy: Vec<f64>,
    /// What was measured.
    pub results: ByPath,
}

impl Report {
    /// Ratios to no service at all and to nftables, then medians with their spreads.
    pub fn section(&self) -> Section {
        let comparisons = self
            .results
            .iter()
            .flat_map(|(path, results)| results.rows().iter().flat_map(|row| self.comparisons(*path, row)));
        let mut section = Section {
            name: self.kernel.section().to_owned(),
            title: self.kernel.title().to_owned(),
            command: self.command.clone(),
            machine: self.machine.clone(),
            notes: self.notes(),
            comparisons: comparisons.collect(),
            tables: Path::ALL.map(|path| self.medians(path)).into(),
            samples: self.samples(),
        };
        if self.kernel == Kernel::Ours {
            section.note_busy(&self.busy);
        }
        let not_run = self.not_run.iter().map(|reason| format!("not run: nftables: {reason}"));
        section.notes.extend(not_run);
        section.notes.extend(self.failures.iter().map(|failure| format!("failed: {failure}")));
        section
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!(
                "{} rounds of {} ms per load and contender, in turn; each contender has a node and addresses of its own",
                self.rounds, self.milliseconds
            ),
            "ClusterIP: from a pod of the node to another one, translated at the socket; NodePort: from outside, across the \
             node, to a pod behind it, translated at the interface and masqueraded; direct: the client knows the backends, \
             the node routes"
                .to_owned(),
            "CPU: client, server and the kernel's packet threads together".to_owned(),
        ];
        if self.kernel == Kernel::Guest {
            let guest = "the guest has one processor, emulated where the host lends none: what instructions cost there is \
                         not what they cost elsewhere, hence no bars";
            notes.push(guest.to_owned());
        }
        notes
    }

    /// Beside the limit and the rival, on nodes with most services; then with few.
    fn comparisons(&self, path: Path, row: &Row<Contender>) -> Vec<Comparison> {
        let measure = &row.measure;
        let is_ours = self.kernel == Kernel::Ours;
        let compare = |other: Contender, beside: &str, bar: Option<Bar>| Comparison {
            what: format!("{}: {}", path.name(), measure.title()),
            beside: beside.to_owned(),
            unit: "ratio".to_owned(),
            value: row.ratio(self.kernel.among_many(Way::Ebpf), other),
            bar: bar.filter(|_| is_ours),
        };
        let mut comparisons = vec![compare(Contender::DIRECT, "direct", bar_beside_direct(path, measure))];
        for rival in self.kernel.rivals() {
            let not_run = self.not_run.as_deref().filter(|_| *rival == Way::Nftables);
            let theirs = self.kernel.among_many(*rival);
            let name = not_run.unwrap_or(rival.name());
            comparisons.push(compare(theirs, name, bar_beside_nftables(path, measure)));
        }
        if is_ours && measure.figure == Figure::Rate && is_of_new_connections(measure) {
            let few = Contender::among_few(Way::Ebpf);
            let flat = Some(Bar::AtLeast(0.97));
            comparisons.push(compare(few, "the same among 10 services", flat));
        }
        comparisons
    }

    fn medians(&self, path: Path) -> Table {
        let takes_part = |contender: &Contender| contender.way != Way::Nftables || self.not_run.is_none();
        let contenders: Vec<Contender> = self.kernel.contenders().collect();
        let header = ["load".to_owned(), "figure".to_owned()];
        let row = |row: &Row<Contender>| {
            let mut cells = vec![row.measure.run.clone(), row.measure.figure.unit().to_owned()];
            cells.extend(contenders.iter().map(|contender| {
                if takes_part(contender) { cell(row.summary(*contender)) } else { "not run".to_owned() }
            }));
            cells
        };
        let rows = self.results.get(&path).map(|results| results.rows().iter().map(row).collect());
        Table {
            title: format!("{}: medians (lowest – highest)", path.name()),
            header: header.into_iter().chain(contenders.iter().map(|contender| contender.name())).collect(),
            rows: rows.unwrap_or_default(),
        }
    }

    fn samples(&self) -> Value {
        let row = |path: Path, row: &Row<Contender>| {
            let contenders = self.kernel.contenders();
            let of: BTreeMap<String, Vec<f64>> = contenders
                .map(|contender| (contender.name(), row.samples(contender)))
                .filter(|(_, samples)| !samples.is_empty())
                .collect();
            json!({ "path": path.name(), "run": row.measure.run, "figure": row.measure.figure, "of": of })
        };
        let rows = self.results.iter();
        rows.flat_map(|(path, results)| results.rows().iter().map(|one| row(*path, one))).collect()
    }
}

fn bar_beside_direct(path: Path, measure: &Measure) -> Option<Bar> {
    let bar = match (path, measure.figure) {
        (Path::Local, Figure::Rate) if is_of_new_connections(measure) => 0.95,
        (Path::Local, Figure::Throughput | Figure::Rate) => 0.98,
        (Path::Across, Figure::Throughput | Figure::Rate) => 1.0,
        (_, _) => return None,
    };
    Some(Bar::AtLeast(bar))
}

fn bar_beside_nftables(path: Path, measure: &Measure) -> Option<Bar> {
    let bar = match (path, measure.figure) {
        (Path::Local, Figure::Rate) if is_of_new_connections(measure) => 1.1,
        (Path::Across, Figure::Throughput | Figure::Rate) => 1.15,
        (_, _) => return None,
    };
    Some(Bar::AtLeast(bar))
}

fn is_of_new_connections(measure: &Measure) -> bool {
    measure.run.starts_with("new")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Results;

    fn report(not_run: Option<&str>) -> Report {
        let mut results = Results::default();
        let many = |way| Kernel::Ours.among_many(way);
        let measure = || Measure { run: "new connections, 16 at a time".to_owned(), figure: Figure::Rate };
        let mut samples =
            vec![(Contender::DIRECT, 20.0), (many(Way::Ebpf), 19.0), (Contender::among_few(Way::Ebpf), 19.0)];
        samples.extend(not_run.is_none().then_some((many(Way::Nftables), 10.0)));
        for (contender, value) in samples {
            results.add(measure(), contender, 0, value);
        }
        Report {
            command: "make bench".to_owned(),
            machine: Machine::default(),
            rounds: 1,
            milliseconds: 300,
            kernel: Kernel::Ours,
            not_run: not_run.map(str::to_owned),
            failures: Vec::new(),
            busy: vec![0.0],
            results: BTreeMap::from([(Path::Local, results)]),
        }
    }

    #[test]
    fn ours_is_compared_with_the_limit_with_the_rival_and_with_itself() {
        let section = report(None).section();
        let seen: Vec<(&str, Option<f64>, Option<Bar>)> = section
            .comparisons
            .iter()
            .map(|one| (&*one.beside, one.value.map(|value| value.median), one.bar))
            .collect();
        let bar = |bar| Some(Bar::AtLeast(bar));
        assert_eq!(
            seen,
            [
                ("direct", Some(0.95), bar(0.95)),
                ("nftables", Some(1.9), bar(1.1)),
                ("the same among 10 services", Some(1.0), bar(0.97)),
            ]
        );
    }

    #[test]
    fn a_rival_that_is_missing_is_named() {
        let section = report(Some("nft is not installed")).section();
        assert_eq!(section.comparisons[1].value, None);
        assert_eq!(section.comparisons[1].beside, "nft is not installed");
        assert!(section.notes.iter().any(|note| note == "not run: nftables: nft is not installed"));
        let table = &section.tables[0];
        let theirs = table.header.iter().position(|name| name.starts_with("nftables")).unwrap();
        assert_eq!(table.rows[0][theirs], "not run");
    }
}
