//! What the process takes, under the names that every program with Prometheus metrics has for it.

use std::time::SystemTime;
use std::{fs, io};

use nix::unistd::{SysconfVar, sysconf};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

use crate::clock;

/// Read from `/proc` whenever somebody asks.
pub(crate) struct ProcessMetrics {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_descriptors: Gauge,
    most_descriptors: Gauge,
    started: Gauge,
    units: Units,
}

/// How many bytes a page has, and how many ticks a second.
#[derive(Clone, Copy, Debug)]
struct Units {
    page: f64,
    ticks: f64,
}

impl ProcessMetrics {
    /// Publishes them in `registry`. Fails where a name is taken.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<()> {
        let unit = |name| sysconf(name).ok().flatten().and_then(|value| u32::try_from(value).ok());
        let metrics = Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Time on processors, the kernel's for us included",
            )?,
            resident: Gauge::new("process_resident_memory_bytes", "Memory in use that is not swapped out")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Addresses that are taken")?,
            open_descriptors: Gauge::new("process_open_fds", "Descriptors that are open")?,
            most_descriptors: Gauge::new("process_max_fds", "How many may be open")?,
            started: Gauge::new("process_start_time_seconds", "When the process started, since 1970")?,
            units: Units {
                page: unit(SysconfVar::PAGE_SIZE).unwrap_or(4096).into(),
                ticks: unit(SysconfVar::CLK_TCK).unwrap_or(100).into(),
            },
        };
        let uptime = fs::read_to_string("/proc/uptime").ok();
        let uptime = uptime.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        let usage = metrics.usage().ok();
        // Said once: where the clock is set later, nobody takes that for another start.
        if let Some((uptime, usage)) = uptime.zip(usage) {
            metrics.started.set(seconds(clock::wall()) - uptime + usage.started);
        }
        registry.register(Box::new(metrics))
    }

    fn usage(&self) -> io::Result<Usage> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        Ok(Usage::read(&stat, self.units).ok_or(io::ErrorKind::InvalidData)?)
    }

    fn update(&self) -> io::Result<()> {
        let usage = self.usage()?;
        self.cpu.inc_by((usage.cpu - self.cpu.get()).max(0.0));
        self.resident.set(usage.resident);
        self.virtual_memory.set(usage.virtual_memory);
        let open = fs::read_dir("/proc/self/fd")?.count();
        self.open_descriptors.set(u32::try_from(open).unwrap_or(u32::MAX).into());
        let most = most_descriptors(&fs::read_to_string("/proc/self/limits")?);
        self.most_descriptors.set(most.ok_or(io::ErrorKind::InvalidData)?);
        Ok(())
    }

    fn gauges(&self) -> [&Gauge; 5] {
        let Self { resident, virtual_memory, open_descriptors, most_descriptors, started, .. } = self;
        [resident, virtual_memory, open_descriptors, most_descriptors, started]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.cpu.desc().into_iter().chain(self.gauges().into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Err(error) = self.update() {
            tracing::warn!(%error, "the process's own usage not read");
        }
        self.cpu.collect().into_iter().chain(self.gauges().into_iter().flat_map(Collector::collect)).collect()
    }
}

/// What the kernel says of a process, in seconds and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu: f64,
    /// Since the machine started.
    started: f64,
    virtual_memory: f64,
    resident: f64,
}

impl Usage {
    /// From `/proc/PID/stat` (proc(5)): fields are numbered from 1, and the second, in brackets, may hold anything.
    fn read(text: &str, units: Units) -> Option<Self> {
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu: (field(14)? + field(15)?) / units.ticks,
            started: field(22)? / units.ticks,
            virtual_memory: field(23)?,
            resident: field(24)? * units.page,
        })
    }
}

/// From `/proc/PID/limits`. Without a limit it is said to be infinite.
fn most_descriptors(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 9 0 4200 8192 3 18446744073709551615";
        let units = Units { page: 4096.0, ticks: 100.0 };
        let expected = Usage { cpu: 2.0, started: 42.0, virtual_memory: 8192.0, resident: 12288.0 };
        assert_eq!(Usage::read(stat, units), Some(expected));
        assert_eq!(Usage::read("7 (a) S 1", units), None);
    }

    #[test]
    fn the_soft_limit_of_descriptors_counts() {
        let limits = |soft| {
            format!("Limit  Soft Limit  Hard Limit\nMax open files            {soft}      4096  files\n")
        };
        assert_eq!(most_descriptors(&limits("1024")), Some(1024.0));
        assert_eq!(most_descriptors(&limits("unlimited")), Some(f64::INFINITY));
        assert_eq!(most_descriptors(""), None);
    }

    #[test]
    fn what_is_shown_is_of_this_process() {
        let registry = Registry::new();
        ProcessMetrics::register(&registry).unwrap();
        let shown = registry.gather();
        let value = |name: &str| {
            let family = shown.iter().find(|family| family.name() == name).expect(name);
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        let age = seconds(clock::wall()) - value("process_start_time_seconds");
        assert!((-1.0..3600.0).contains(&age), "{age}");
    }
}
