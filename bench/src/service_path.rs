//! What a Service costs on its way: eBPF beside the rules that kube-proxy writes for nftables, and beside no Service at
//! all, in one run, in turn.

mod contender;
mod report;
mod rules;
mod site;

use std::collections::BTreeMap;

use tests::Result;
use tests::traffic::Work;

pub use contender::{Contender, Kernel, Path, Way};
pub use report::Report;

use site::Site;

use crate::ends;
use crate::machine::{self, Machine};
use crate::measure::Run;
use crate::results::Results;
use crate::statistics::number;

const STREAMS: u32 = 16;
/// All loads of a round that are in every run, in the order in which they are put on.
const RUNS: [Run; 5] = [
    Run { work: Work::Up, connections: 1 },
    Run { work: Work::Up, connections: STREAMS },
    Run { work: Work::Requests, connections: STREAMS },
    NEW_CONNECTIONS,
    Run { work: Work::Datagrams, connections: STREAMS },
];
/// Those that only a full run has.
const FURTHER_RUNS: [Run; 2] =
    [Run { work: Work::Down, connections: 1 }, Run { work: Work::Down, connections: STREAMS }];
/// The load that looks services up: the one where their number could show.
const NEW_CONNECTIONS: Run = Run { work: Work::Connections, connections: STREAMS };

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often each load is put on each contender.
    pub rounds: u32,
    /// For how long each time.
    pub milliseconds: u32,
    /// Every load at every number of services. Otherwise new connections alone are opened among fewer.
    pub every_size: bool,
    /// Where, which decides who takes part.
    pub kernel: Kernel,
}

impl Plan {
    /// About a minute.
    pub const QUICK: Self = Self { rounds: 3, milliseconds: 250, every_size: false, kernel: Kernel::Ours };
    /// About six minutes.
    pub const FULL: Self = Self { rounds: 5, milliseconds: 500, every_size: true, kernel: Kernel::Ours };
    /// About three minutes.
    pub const IN_GUEST: Self =
        Self { rounds: 3, milliseconds: 750, every_size: false, kernel: Kernel::Guest };

    fn runs(self) -> Vec<Run> {
        let further = FURTHER_RUNS.into_iter().filter(|_| self.every_size);
        RUNS.into_iter().chain(further).collect()
    }

    fn takes(self, run: Run, contender: Contender) -> bool {
        let is_largest = [Contender::DIRECT, self.kernel.among_many(contender.way)].contains(&contender);
        self.every_size || is_largest || run == NEW_CONNECTIONS
    }
}

/// Measures; `progress` is given a line after each step. `command` goes into the report.
pub fn measure(plan: Plan, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    let most = plan.kernel.contenders().filter_map(Contender::services).max().unwrap_or_default();
    progress(&format!("service path: starting nodes with up to {most} services"));
    let site = Site::start(plan.kernel)?;
    let mut report = Report {
        command: command.to_owned(),
        machine: Machine::describe(Some(ends::CONGESTION_CONTROL), &["nft"])?,
        rounds: plan.rounds,
        milliseconds: plan.milliseconds,
        kernel: plan.kernel,
        not_run: site.not_run().map(str::to_owned),
        failures: Vec::new(),
        busy: Vec::new(),
        results: Path::ALL.map(|path| (path, Results::default())).into(),
    };
    if let Some(reason) = &report.not_run {
        progress(&format!("not run: nftables: {reason}"));
    }
    for round in 0..plan.rounds {
        report.busy.push(machine::busy_with_others()?);
        for run in plan.runs() {
            for path in Path::ALL {
                for contender in site.contenders().filter(|contender| plan.takes(run, *contender)) {
                    load(&site, &mut report, (round, run), (path, contender), &mut progress);
                }
            }
        }
    }
    Ok(report)
}

fn load(
    site: &Site,
    report: &mut Report,
    (round, run): (u32, Run),
    (path, contender): (Path, Contender),
    progress: &mut impl FnMut(&str),
) {
    let rounds = report.rounds;
    let title =
        format!("round {} of {rounds}, {}, {}, {}", round + 1, path.name(), run.title(), contender.name());
    let mut fail = |failure: String| {
        progress(&format!("failed: {failure}"));
        report.failures.push(failure);
    };
    let (client, cpu_seconds) = match site.load(path, contender, run, report.milliseconds) {
        Ok(measured) => measured,
        Err(error) => return fail(format!("{title}: {error:?}")),
    };
    if let Some(error) = &client.error {
        fail(format!("{title}: {} times: {error}", client.failed));
    }
    let results = report.results.entry(path).or_default();
    for (position, (measure, value)) in run.figures(&client, Some(cpu_seconds)).into_iter().enumerate() {
        if position == 0 {
            progress(&format!("{title}: {} {}", number(value), measure.figure.unit()));
        }
        results.add(measure, contender, round, value);
    }
}

/// The results of each path.
type ByPath = BTreeMap<Path, Results<Contender>>;
