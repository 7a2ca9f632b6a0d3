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

/// How often each fault is tried on each contender.
pub const QUICK_ROUNDS: u32 = 1;
/// About a quarter of an hour.
pub const FULL_ROUNDS: u32 = 5;
/// A round that the machine disturbed is tried again, so often at most.
const ATTEMPTS: u32 = 3;

/// Tries every fault; `progress` is given a line after each. `command` goes into the report.
pub fn measure(rounds: u32, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut report = Report {
        command: command.to_owned(),
        machine: Machine::describe(None, &["keepalived", "haproxy"])?,
        rounds,
        busy: Vec::new(),
        failures: Vec::new(),
        samples: Vec::new(),
    };
    for round in 0..rounds {
        report.busy.push(machine::busy_with_others()?);
        for fault in Fault::ALL {
            for contender in Contender::ALL {
                attempt(&mut report, (round, fault, contender), &mut progress);
            }
        }
    }
    Ok(report)
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
