//! Clients and servers for the inside of namespaces: the program `traffic`, and the same as functions.
//!
//! ```no_run
//! use std::time::Duration;
//! use tests::traffic::{self, DialReport};
//! use tests::{Cgroup, Namespace};
//!
//! let (node, pod, group) = (Namespace::new("node")?, Namespace::new("pod")?, Cgroup::new("node")?);
//! let _backend = traffic::serve(&pod, "one", "10.1.0.1:8080")?;
//! let dial = traffic::dial("10.254.0.10:80", ["--rate", "100", "--milliseconds", "3000"])?;
//! let report: DialReport = traffic::report(dial.inside(&node).in_cgroup(&group), Duration::from_secs(10))?;
//! assert_eq!(report.failed, 0);
//! # Ok::<(), tests::Error>(())
//! ```
//!
//! A server says its name, so a client knows whom it reached. Behind TLS servers are told apart by their certificates,
//! which works with a real apiserver too. Rates and durations are bounded.

mod answer;
mod bulk;
mod connection;
mod dial;
mod dialing;
mod hold;
mod load;
mod paced;
mod serve;

use std::ffi::OsString;
use std::time::Duration;

use serde::de::DeserializeOwned;

pub use answer::{Answer, answer};
pub use bulk::{Pour, PourReport, pour, sink};
pub use connection::{Backend, Protocol, Target};
pub use dial::{Attempt, Dial, DialReport, dial as run_dial, longest_gap};
pub use dialing::Dialing;
pub use hold::{Break, Hold, HoldReport, hold as run_hold};
pub use load::{Load, LoadReport, Work, load};
pub use paced::PACE;
pub use serve::{Serve, serve as run_serve};

use crate::{Error, Namespace, Process, Program, Result};

/// A server in `namespace`, TCP and UDP on one port, that answers every line and every datagram with its name and its
/// client's address. Returns when it listens.
pub fn serve(namespace: &Namespace, name: &str, address: &str) -> Result<Process> {
    let program = Program::ours("traffic")?.arguments(["serve", address, "--name", name]);
    let mut process = program.inside(namespace).spawn()?;
    process.wait_for_log("listening", Duration::from_secs(30))?;
    Ok(process)
}

/// New connections at a steady rate, one request each. The arguments are those of `traffic dial --help`.
pub fn dial<A: Into<OsString>>(target: &str, arguments: impl IntoIterator<Item = A>) -> Result<Program> {
    Ok(Program::ours("traffic")?.arguments(["dial", target]).arguments(arguments))
}

/// Connections that are kept open, with a request on each every 100 ms.
pub fn hold<A: Into<OsString>>(target: &str, arguments: impl IntoIterator<Item = A>) -> Result<Program> {
    Ok(Program::ours("traffic")?.arguments(["hold", target]).arguments(arguments))
}

/// Runs a client to its end and reads its report: `DialReport`, `HoldReport`, `PourReport` or `LoadReport`.
pub fn report<R: DeserializeOwned>(client: Program, limit: Duration) -> Result<R> {
    finish(client.spawn()?, limit)
}

/// Waits for the end of a client that was spawned and reads its report.
pub fn finish<R: DeserializeOwned>(mut client: Process, limit: Duration) -> Result<R> {
    client.wait(limit)?;
    let log = client.log()?;
    let last = log.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(Error::json(format!("the report of traffic, {last:?},")))
}
