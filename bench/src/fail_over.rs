//! What faults cost clients: fairway-lb on three masters beside keepalived + HAProxy on three, same run, in turn.

mod contender;
mod fault;
mod report;
mod site;

use tests::Result;

pub use contender::{ADVERT_INTERVAL, Contender, SHORTEST_ADVERT_INTERVAL};
pub use fault::{Fault, Figure};
pub use report::{Report, Sample};

use crate::machine::{self, Machine};
use crate::statistics::number;

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often each fault is tried on each contender.
    pub rounds: u32,
    /// Which.
    pub faults: &'static [Fault],
}

impl Plan {
    /// Less than a minute.
    pub const QUICK: Self = Self { rounds: 1, faults: &Fault::QUICK };
    /// About seven minutes.
    pub const FULL: Self = Self { rounds: 3, faults: &Fault::ALL };
}

/// What the pair consists of.
const RIVALS: [&str; 2] = ["keepalived", "haproxy"];
/// A round that the machine disturbed is tried again, so often at most.
const ATTEMPTS: u32 = 3;

/// Tries the faults; `progress` is given a line after each. `command` goes into the report.
pub fn measure(plan: Plan, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut report = Report {
        command: command.to_owned(),
        machine: Machine::describe(None, &RIVALS)?,
        rounds: plan.rounds,
        absent: absent()?,
        not_run: Fault::ALL.into_iter().filter(|fault| !plan.faults.contains(fault)).collect(),
        busy: Vec::new(),
        failures: Vec::new(),
        samples: Vec::new(),
    };
    for round in 0..plan.rounds {
        report.busy.push(machine::busy_with_others()?);
        for &fault in plan.faults {
            let takes_part = |contender: &Contender| !contender.is_rival() || report.absent.is_none();
            let contenders: Vec<Contender> = Contender::ALL.into_iter().filter(takes_part).collect();
            for contender in contenders {
                attempt(&mut report, (round, fault, contender), &mut progress);
            }
        }
    }
    Ok(report)
}

/// Why the pair does not take part, if so.
fn absent() -> Result<Option<String>> {
    for program in RIVALS {
        if machine::version(program)?.is_none() {
            return Ok(Some(format!("{program} is not installed: ./setup.sh bench installs it")));
        }
    }
    Ok(None)
}

fn attempt(
    report: &mut Report,
    (round, fault, contender): (u32, Fault, Contender),
    progress: &mut impl FnMut(&str),
) {
    let title = format!("round {} of {}, {}, {}", round + 1, report.rounds, fault.title(), contender.name());
    for _ in 0..ATTEMPTS {
        match fault.try_on(contender) {
            Ok(figures) => {
                let shown: Vec<String> = figures
                    .iter()
                    .map(|(figure, value)| format!("{} {}", figure.title(), number(*value)))
                    .collect();
                progress(&format!("{title}: {}", shown.join(", ")));
                let sample = |(figure, value)| Sample { fault, figure, contender, value };
                report.samples.extend(figures.into_iter().map(sample));
                return;
            }
            Err(error) => {
                progress(&format!("failed: {title}: {error:?}"));
                report.failures.push(format!("{title}: {error:?}"));
            }
        }
    }
}
