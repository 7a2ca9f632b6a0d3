//! How the proxy's costs grow with the cluster.

mod report;

use std::time::Duration;

use serde::Serialize;
use tests::Result;

pub use report::Report;

use crate::machine::{self, Machine};
use crate::node::{Mode, Node};
use crate::statistics::median;

/// A cluster to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// How many Services.
    pub services: u32,
    /// How many endpoints each of them has.
    pub endpoints: u32,
}

/// From small to large; the last one has 100,000 endpoints.
pub const SIZES: [Size; 4] = [
    Size { services: 10, endpoints: 2 },
    Size { services: 1_000, endpoints: 2 },
    Size { services: 10_000, endpoints: 2 },
    Size { services: 10_000, endpoints: 10 },
];

/// What one round in a cluster of one size has shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    /// From the start of the proxy until its Services answered, seconds; the way of the lists included.
    pub cold_start: f64,
    /// Of it the way of the lists by itself, as a client has it that does nothing with them, seconds.
    pub lists: f64,
    /// Processor time of the proxy until then, seconds.
    pub cold_start_cpu: f64,
    /// Resident memory once what follows a start is over, MiB.
    pub resident: f64,
    /// From the commit of one endpoint's change until connections followed, median, milliseconds.
    pub change: f64,
    /// Processor time of the proxy per change, microseconds.
    pub change_cpu: f64,
    /// From the first of many changes until all were written, milliseconds.
    pub burst: f64,
}

/// Changes of one endpoint, one after the other.
const CHANGES: u32 = 200;
/// Changes at once; as many as there are Services where those are fewer.
const BURST: u32 = 1_000;

/// Rounds of a quick run.
pub const QUICK_ROUNDS: u32 = 1;
/// Rounds of a full one: some twenty seconds.
pub const FULL_ROUNDS: u32 = 3;
/// Rounds in a guest, where one takes nearly three minutes.
pub const GUEST_ROUNDS: u32 = 1;

/// Measures every size so often; `progress` is given a line after each. `command` goes into the report.
pub fn measure(mode: Mode, rounds: u32, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut report = Report {
        mode,
        command: command.to_owned(),
        machine: Machine::describe(None, &[])?,
        busy: vec![machine::busy_with_others()?],
        rounds: Vec::new(),
    };
    for number in 1..=rounds {
        for size in SIZES {
            let round = measure_one(size, mode)?;
            progress(&format!(
                "programming, round {number} of {rounds}, {} services x {} endpoints: start {:.2} s, {:.0} MiB, change {:.2} ms",
                size.services, size.endpoints, round.cold_start, round.resident, round.change
            ));
            report.rounds.push((size, round));
        }
    }
    Ok(report)
}

fn measure_one(size: Size, mode: Mode) -> Result<Round> {
    let (node, start) = Node::among(size.services, size.endpoints, mode)?;
    let started = node.usage()?;
    // The first of these waits for what still follows a start.
    node.endpoint_changes(2)?;
    let settled = node.usage()?;
    let changes = node.endpoint_changes(CHANGES)?;
    let changed = node.usage()?;
    let burst = node.burst(BURST.min(size.services), size.endpoints)?;
    let milliseconds = |duration: &Duration| duration.as_secs_f64() * 1e3;
    Ok(Round {
        cold_start: start.took.as_secs_f64(),
        lists: start.lists.as_secs_f64(),
        cold_start_cpu: started.cpu_seconds,
        resident: settled.resident,
        change: median(&changes.iter().map(milliseconds).collect::<Vec<_>>()),
        change_cpu: (changed.cpu_seconds - settled.cpu_seconds) * 1e6 / f64::from(CHANGES),
        burst: milliseconds(&burst),
    })
}
