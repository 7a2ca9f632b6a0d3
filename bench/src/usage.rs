//! What processes and the machine use, as `/proc` has it.

use std::fs;

use ::tests::{Error, Result};

/// Ticks of `/proc` per second: `USER_HZ` is 100 wherever Linux runs these days.
const TICKS_PER_SECOND: f64 = 100.0;
const KIBIBYTES_PER_MEBIBYTE: f64 = 1024.0;

/// What a process and its children use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor time so far, user and system. What the kernel does for a process in interrupts that come
    /// while it runs is in it; what ksoftirqd does is in nobody's account.
    pub cpu_seconds: f64,
    /// Resident memory in MiB. Pages that processes share count for each of them.
    pub resident: f64,
}

/// Reads the usage of `process` and its children, all threads included.
pub(crate) fn of_process(process: u32) -> Result<Usage> {
    let children = read(&format!("/proc/{process}/task/{process}/children"))?;
    let mut usage = Usage::default();
    let children = children.split_whitespace().map(str::to_owned);
    for process in std::iter::once(process.to_string()).chain(children) {
        let (stat, status) = (format!("/proc/{process}/stat"), format!("/proc/{process}/status"));
        usage.cpu_seconds += parse(&stat, &read(&stat)?, cpu_seconds)?;
        usage.resident += parse(&status, &read(&status)?, resident)?;
    }
    Ok(usage)
}

/// Seconds of processor time so far of the kernel's threads that take over packets when there are many.
pub(crate) fn of_packet_threads() -> Result<f64> {
    let mut seconds = 0.0;
    for process in fs::read_dir("/proc").map_err(Error::system("list", "/proc"))? {
        let path = process.map_err(Error::system("list", "/proc"))?.path();
        let is_one = |comm: String| comm.starts_with("ksoftirqd/");
        // A process may have ended since it was listed.
        if fs::read_to_string(path.join("comm")).is_ok_and(is_one) {
            let stat = path.join("stat").display().to_string();
            seconds += parse(&stat, &read(&stat)?, cpu_seconds)?;
        }
    }
    Ok(seconds)
}

/// Seconds that all processors together were busy, and that have passed on all of them.
pub(crate) fn of_machine() -> Result<(f64, f64)> {
    parse("/proc/stat", &read("/proc/stat")?, busy_and_passed)
}

pub(crate) fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(Error::system("read", path))
}

fn parse<T>(path: &str, text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    let unreadable = || std::io::Error::other("not as proc(5) describes it");
    parse(text).ok_or_else(unreadable).map_err(Error::system("understand", path))
}

/// Fields 14 and 15 of proc(5)'s stat. The second field is a name in parentheses that may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<f64>().ok();
    Some((time()? + time()?) / TICKS_PER_SECOND)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / KIBIBYTES_PER_MEBIBYTE)
}

/// The first line: user nice system idle iowait irq softirq steal; what comes after is part of user already.
fn busy_and_passed(stat: &str) -> Option<(f64, f64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let (passed, idle) = (ticks.iter().sum::<f64>(), ticks.get(3)? + ticks.get(4)?);
    Some(((passed - idle) / TICKS_PER_SECOND, passed / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 3 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_in_mebibytes() {
        assert_eq!(resident("Name:\tx\nVmHWM:\t 4096 kB\nVmRSS:\t    2048 kB\n"), Some(2.0));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle() {
        let stat = "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n";
        assert_eq!(busy_and_passed(stat), Some((2.0, 10.0)));
    }

    #[test]
    fn this_process_uses_something() -> Result<()> {
        let usage = of_process(std::process::id())?;
        assert!(usage.resident > 0.1, "{usage:?}");
        Ok(())
    }
}
