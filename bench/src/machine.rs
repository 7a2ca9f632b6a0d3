//! The machine that the figures are of.

use std::time::Duration;

use ::tests::{Error, Program, Result, wait};
use serde::{Deserialize, Serialize};

use crate::usage;

/// How long a tool may take to say something.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a reader must know to judge the figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The day of the run, UTC.
    pub date: String,
    /// The commit that was measured, with `-dirty` where the tree differs from it in more than results.
    pub commit: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processors.
    pub processor: String,
    /// How many processors client, balancer and server share.
    pub processors: usize,
    /// Memory in MiB.
    pub memory: u64,
    /// Congestion control of every socket, where the benchmark sees to it.
    pub congestion_control: Option<String>,
    /// Versions of the rivals that are installed.
    pub rivals: Vec<String>,
}

impl Machine {
    /// Describes this one, with the versions of the `rivals` that are installed.
    pub fn describe(congestion_control: Option<&str>, rivals: &[&str]) -> Result<Self> {
        let versions: Vec<Option<String>> =
            rivals.iter().map(|program| version(program)).collect::<Result<_>>()?;
        let (processor, processors) = processors(&usage::read("/proc/cpuinfo")?);
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        Ok(Self {
            date: output("date", &["-u", "+%F"])?,
            commit: commit(root)?,
            kernel: usage::read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor,
            processors,
            memory: memory(&usage::read("/proc/meminfo")?),
            congestion_control: congestion_control.map(str::to_owned),
            rivals: versions.into_iter().flatten().collect(),
        })
    }
}

/// Which share of its processors the machine spends on other things, from 0 to 1, while the benchmark waits a moment.
pub(crate) fn busy_with_others() -> Result<f64> {
    let (busy_before, passed_before) = usage::of_machine()?;
    wait::pace(Duration::from_millis(300));
    let (busy, passed) = usage::of_machine()?;
    let passed = passed - passed_before;
    Ok(if passed > 0.0 { (busy - busy_before) / passed } else { 0.0 })
}

/// The first line that a program of the system says about its version; `None` where it is not installed.
pub(crate) fn version(program: &str) -> Result<Option<String>> {
    let log = tempfile::NamedTempFile::new().map_err(Error::system("make", "a log"))?;
    let (status, said) = Program::new(program).arguments(["-v"]).log_to(log.path()).run(PATIENCE)?;
    Ok(status.success().then(|| said.lines().next().unwrap_or_default().to_owned()))
}

/// The commit, and whether the tree differs from it in more than results.
fn commit(root: &str) -> Result<String> {
    let commit = output("git", &["-C", root, "describe", "--always"])?;
    let results = [":/", ":!bench/results", ":!README.md"];
    let changed = output("git", &[&["-C", root, "status", "--porcelain", "--"][..], &results].concat())?;
    Ok(if changed.is_empty() { commit } else { commit + "-dirty" })
}

/// What a tool prints; "unknown" where it fails.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let log = tempfile::NamedTempFile::new().map_err(Error::system("make", "a log"))?;
    let tool = Program::new(program).arguments(arguments.iter().copied()).log_to(log.path());
    let (status, said) = tool.run(PATIENCE)?;
    Ok(if status.success() { said.trim().to_owned() } else { "unknown".to_owned() })
}

/// Model of the first processor, and how many there are.
fn processors(cpuinfo: &str) -> (String, usize) {
    let models: Vec<&str> = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model = models.first().map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
    (model.to_owned(), models.len())
}

/// MiB; 0 where the kernel does not say.
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_named() {
        let text = "processor\t: 0\nmodel name\t: A CPU\nprocessor\t: 1\nmodel name\t: A CPU\n";
        assert_eq!(processors(text), ("A CPU".to_owned(), 2));
        assert_eq!(processors(""), ("unknown".to_owned(), 0));
    }

    #[test]
    fn memory_is_in_mebibytes() {
        assert_eq!(memory("MemTotal:       4096 kB\nMemFree: 1 kB\n"), 4);
    }
}
