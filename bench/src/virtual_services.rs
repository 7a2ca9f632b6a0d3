//! Virtual services: how fast many are programmed beside the tools that do the same, and what one change costs among few
//! and many.
//!
//! It takes the kernel's IP virtual server, and so mostly a guest. Without hardware support that is slow: only ratios within
//! one round mean something.

mod node;
mod report;

use serde::Serialize;
use tests::Result;

pub use self::report::Report;
use crate::machine::Machine;

/// Among how many of them something is measured: few, more, most.
pub const SIZES: [u32; 3] = [FEW, 1_000, SERVICES];
/// How many there are where nothing else is said.
pub const SERVICES: u32 = 10_000;
/// What "among few" means.
pub const FEW: u32 = 10;
/// How many servers each of them has.
pub const ENDPOINTS: u32 = 2;
/// Rounds of a quick run.
pub const QUICK_ROUNDS: u32 = 1;
/// Rounds of a full one.
pub const FULL_ROUNDS: u32 = 3;

/// What one round has shown. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    /// By us: services, servers, addresses and the elements of the nftables table.
    pub ours: f64,
    /// How much of it went into addresses.
    pub addresses: f64,
    /// How much of it went into the table.
    pub table: f64,
    /// Services and servers by `ipvsadm -R`.
    pub ipvsadm: f64,
    /// The addresses by `ip -batch`.
    pub ip: f64,
    /// By us, for each of [`SIZES`].
    pub by_size: [f64; SIZES.len()],
    /// Microseconds of the processor for one change, for each of [`SIZES`].
    pub change: [f64; SIZES.len()],
    /// Messages to the kernel for it.
    pub messages: f64,
    /// System calls for it.
    pub calls: f64,
}

/// Measures so often; `progress` is given a line after each round. `command` goes into the report.
pub fn measure(rounds: u32, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut report =
        Report { command: command.to_owned(), machine: Machine::describe(None, &[])?, rounds: Vec::new() };
    for number in 1..=rounds {
        let round = node::round()?;
        let Round { ours, ipvsadm, .. } = round;
        progress(&format!(
            "virtual services, round {number} of {rounds}: {ours:.1} s, by ipvsadm {ipvsadm:.1} s"
        ));
        report.rounds.push(round);
    }
    Ok(report)
}
