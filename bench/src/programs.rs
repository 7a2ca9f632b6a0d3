//! What the eBPF programs themselves cost: packets by the kernel's own test runs, sockets by connecting.

mod frame;
mod report;
mod site;

use std::collections::BTreeMap;

use tests::Result;

pub use report::Report;

use frame::Frame;
use site::Site;

use crate::machine::{self, Machine};
use crate::statistics::{median, number};

/// Rounds of a quick run: some seconds.
pub const QUICK_ROUNDS: u32 = 9;
/// Rounds of a full one.
pub const FULL_ROUNDS: u32 = 51;

/// What a packet program meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// Nothing to do: the program that others are measured beside.
    Pass,
    /// No service, no conversation.
    Miss,
    /// The same, of a packet that opens a connection.
    MissOpening,
    /// What of the next one is looking up: the conversation, and its service's backend.
    LookUp,
    /// The client's side of a conversation under way.
    Hit,
    /// The same over IPv6.
    HitV6,
    /// The answers.
    Reverse,
    /// An answer of a process of the node, as it leaves.
    Leaving,
    /// A fragment with ports of a conversation under way, which those without them follow.
    FirstFragment,
    /// A fragment without ports.
    Fragment,
    /// Nothing to do, once.
    PassOnce,
    /// The first packet of a conversation: a backend is chosen and two entries are made.
    New,
    /// The first packet to a service without backends: a reset goes back.
    Refused,
}

impl Case {
    /// All of them, in the order in which they take their turns.
    pub const ALL: [Self; 13] = [
        Self::Pass,
        Self::Miss,
        Self::MissOpening,
        Self::LookUp,
        Self::Hit,
        Self::HitV6,
        Self::Reverse,
        Self::Leaving,
        Self::FirstFragment,
        Self::Fragment,
        Self::PassOnce,
        Self::New,
        Self::Refused,
    ];

    /// Its name in progress and report.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Pass => "bare pass",
            Self::Miss => "in: neither service nor conversation",
            Self::MissOpening => "in: the same, opening a connection",
            Self::LookUp => "conversation under way: look-up of service and flow by itself",
            Self::Hit => "in: conversation under way, look-up, route and rewriting",
            Self::HitV6 => "in: the same over IPv6",
            Self::Reverse => "in: its answers",
            Self::Leaving => "out: answers of a process of the node",
            Self::FirstFragment => "in: first fragment of a datagram of one",
            Self::Fragment => "in: later fragment of it",
            Self::PassOnce => "bare pass, cold",
            Self::New => "in: first packet, cold",
            Self::Refused => "in: first packet to a service without backends, answered with a reset, cold",
        }
    }

    /// What it is measured beside.
    const fn base(self) -> Option<Self> {
        match self {
            Self::Pass | Self::PassOnce => None,
            Self::Miss
            | Self::MissOpening
            | Self::LookUp
            | Self::Hit
            | Self::HitV6
            | Self::Reverse
            | Self::Leaving
            | Self::FirstFragment
            | Self::Fragment => Some(Self::Pass),
            Self::New | Self::Refused => Some(Self::PassOnce),
        }
    }
}

/// Measures; `progress` is given a line after each round. `command` goes into the report.
pub fn measure(rounds: u32, command: &str, mut progress: impl FnMut(&str)) -> Result<Report> {
    progress("programs: starting a node");
    let mut site = Site::start()?;
    let mut report = Report {
        command: command.to_owned(),
        machine: Machine::describe(None, &[])?,
        rounds,
        busy: Vec::new(),
        verified: site.verified(),
        packets: BTreeMap::new(),
        connects: BTreeMap::new(),
    };
    for round in 0..rounds {
        if round % BUSY_EVERY == 0 {
            report.busy.push(machine::busy_with_others()?);
        }
        for case in Case::ALL {
            report.packets.entry(case).or_default().push(site.packet(case)?);
        }
        for (title, nanoseconds) in site.connects()? {
            report.connects.entry(title).or_default().push(nanoseconds);
        }
    }
    for (case, samples) in &report.packets {
        progress(&format!("programs, {}: {} ns", case.title(), number(median(samples))));
    }
    Ok(report)
}

/// Looking how busy the machine is takes longer than a round.
const BUSY_EVERY: u32 = 4;
