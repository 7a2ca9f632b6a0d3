//! fairway-lb beside HAProxy, nginx and plain routing: same topology, same run, in turn.

mod report;
mod site;
mod variant;

use std::collections::BTreeMap;

use nix::sys::resource::{Resource, getrlimit};
use tests::traffic::Work;
use tests::{Error, Result};

pub use report::Report;
pub use variant::Variant;

use site::Site;

use crate::ends;
use crate::machine::{self, Machine};
use crate::measure::{Figure, Measure, Run};
use crate::results::Results;
use crate::statistics::number;

/// All loads of one round, in the order in which they are put on.
const RUNS: [Run; 7] = [
    Run { work: Work::Up, connections: 1 },
    Run { work: Work::Down, connections: 1 },
    Run { work: Work::Up, connections: 8 },
    Run { work: Work::Down, connections: 8 },
    Run { work: Work::Requests, connections: 32 },
    Run { work: Work::Paced, connections: 32 },
    Run { work: Work::Connections, connections: 32 },
];

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often each load is put on each variant.
    pub rounds: u32,
    /// For how long each time.
    pub milliseconds: u32,
}

impl Plan {
    /// About a minute.
    pub const QUICK: Self = Self { rounds: 3, milliseconds: 300 };
    /// About five minutes.
    pub const FULL: Self = Self { rounds: 7, milliseconds: 1000 };
}

/// Measures; `progress` is given a line after each step. `command` goes into the report.
pub fn measure(plan: Plan, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    progress("starting client, server and balancers");
    let site = Site::start()?;
    let mut report = Report {
        command: command.to_owned(),
        machine: Machine::describe(Some(ends::CONGESTION_CONTROL), &["haproxy", "nginx"])?,
        rounds: plan.rounds,
        milliseconds: plan.milliseconds,
        not_run: site.not_run().into_iter().collect::<BTreeMap<_, _>>(),
        failures: Vec::new(),
        busy: Vec::new(),
        results: Results::default(),
    };
    for (variant, reason) in &report.not_run {
        progress(&format!("not run: {}: {reason}", variant.name()));
    }
    idle(&site, &mut report, &mut progress)?;
    for round in 0..plan.rounds {
        report.busy.push(machine::busy_with_others()?);
        for run in RUNS {
            for variant in site.variants() {
                load(&site, &mut report, (round, run, variant), &mut progress);
            }
        }
    }
    Ok(report)
}

/// Memory comes first: later it would show what earlier loads have left behind.
fn idle(site: &Site, report: &mut Report, progress: &mut impl FnMut(&str)) -> Result<()> {
    let connections = idle_connections()?;
    for variant in site.variants() {
        let run = format!("{connections} idle connections");
        match site.resident_with_idle(variant, connections) {
            Ok(Some(mebibytes)) => {
                progress(&format!("{run}, {}: {} MiB", variant.name(), number(mebibytes)));
                report.results.add(Measure { run, figure: Figure::Resident }, variant, 0, mebibytes);
            }
            Ok(None) => {}
            Err(error) => fail(report, progress, format!("{}, {run}: {error:?}", variant.name())),
        }
    }
    Ok(())
}

fn load(
    site: &Site,
    report: &mut Report,
    (round, run, variant): (u32, Run, Variant),
    progress: &mut impl FnMut(&str),
) {
    let title = format!("round {} of {}, {}, {}", round + 1, report.rounds, run.title(), variant.name());
    let (client, cpu_seconds) = match site.load(variant, run, report.milliseconds) {
        Ok(measured) => measured,
        Err(error) => return fail(report, progress, format!("{title}: {error:?}")),
    };
    if let Some(error) = &client.error {
        fail(report, progress, format!("{title}: {} connections: {error}", client.failed));
    }
    for (position, (measure, value)) in run.figures(&client, cpu_seconds).into_iter().enumerate() {
        if position == 0 {
            progress(&format!("{title}: {} {}", number(value), measure.figure.unit()));
        }
        report.results.add(measure, variant, round, value);
    }
}

fn fail(report: &mut Report, progress: &mut impl FnMut(&str), failure: String) {
    progress(&format!("failed: {failure}"));
    report.failures.push(failure);
}

/// 9,000, or as many as the descriptors of a balancer suffice for: each connection takes two, and some are kept back.
fn idle_connections() -> Result<u32> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::system("read", "the limit of open files"))?;
    Ok(u32::try_from(hard.saturating_sub(1_000) / 2).unwrap_or(u32::MAX).clamp(1, 9_000))
}
