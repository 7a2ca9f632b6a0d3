//! Dials in progress: what a client has seen so far.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;

use super::Attempt;
use crate::outage::Dial;
use crate::{Error, Process, Program, Result, wait};

/// A client that dials, and tells of every dial when it ends.
#[derive(Debug)]
pub struct Dialing {
    process: Process,
    log: File,
    /// The end of what was read: the beginning of a line.
    unread: String,
    began: Duration,
    dials: Vec<Dial>,
}

impl Dialing {
    /// Starts `client`, which [`super::dial()`] made and which is in its place; what it prints goes to `log`.
    pub fn start(client: Program, log: &Path) -> Result<Self> {
        let process = client.arguments(["--each"]).log_to(log).spawn()?;
        let log = File::open(log).map_err(Error::system("open", log.display()))?;
        Ok(Self { process, log, unread: String::new(), began: Duration::ZERO, dials: Vec::new() })
    }

    /// The dials that have ended, in the order of their ends.
    pub fn dials(&mut self) -> Result<&[Dial]> {
        let read = self.log.read_to_string(&mut self.unread);
        read.map_err(Error::system("read", "the log of a client"))?;
        while let Some(end) = self.unread.find('\n') {
            let line: String = self.unread.drain(..=end).collect();
            match serde_json::from_str(&line).map_err(Error::json(&line))? {
                Line::Began { began_nanoseconds } => self.began = Duration::from_nanos(began_nanoseconds),
                Line::Attempt(attempt) => self.dials.push(dial(self.began, attempt)),
                Line::Report {} => {}
            }
        }
        Ok(&self.dials)
    }

    /// How the client ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Waits until there are `count` dials. The client ending first is an error.
    pub fn wait_for(&mut self, count: usize, limit: Duration) -> Result<()> {
        wait::until_some(&format!("the client has dialed {count} times"), limit, || {
            let ended = self.ended()?;
            match (self.dials()?.len() >= count, ended) {
                (true, _) => Ok(Some(())),
                (false, None) => Ok(None),
                (false, Some(status)) => Err(failed(status)),
            }
        })
    }

    /// Waits for the end of the client and returns all dials.
    pub fn finish(mut self, limit: Duration) -> Result<Vec<Dial>> {
        let status = self.process.wait(limit)?;
        if !status.success() {
            return Err(failed(status));
        }
        self.dials()?;
        Ok(self.dials)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Began { began_nanoseconds: u64 },
    Attempt(Attempt),
    Report {},
}

fn dial(began: Duration, attempt: Attempt) -> Dial {
    let start = began + Duration::from_secs_f64(attempt.at / 1e3);
    let outcome = attempt.backend.ok_or_else(|| attempt.error.unwrap_or_default());
    Dial { start, end: start + Duration::from_secs_f64(attempt.took / 1e3), outcome }
}

fn failed(status: ExitStatus) -> Error {
    Error::Ended { program: "a client".to_owned(), status: status.to_string() }
}
