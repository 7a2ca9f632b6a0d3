//! Loads, and what is seen of them, in which units.

use std::cmp::Ordering;

use ::tests::traffic::{LoadReport, PACE, Work};
use serde::Serialize;

/// One kind of load, put on every variant in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What clients do.
    pub work: Work,
    /// How many connections at a time.
    pub connections: u32,
}

impl Run {
    /// What it is called in progress and report.
    pub fn title(self) -> String {
        let Self { work, connections } = self;
        match (work, connections) {
            (Work::Up, 1) => "1 stream up".to_owned(),
            (Work::Down, 1) => "1 stream down".to_owned(),
            (Work::Up, _) => format!("{connections} streams up"),
            (Work::Down, _) => format!("{connections} streams down"),
            (Work::Requests, _) => format!("requests over {connections} kept connections"),
            (Work::Paced, _) => format!("{PACE} requests per second over {connections} kept connections"),
            (Work::Connections, _) => format!("new connections, {connections} at a time"),
            (Work::Idle, _) => "idle connections".to_owned(),
            (Work::Datagrams, _) => format!("datagrams, {connections} at a time"),
        }
    }

    /// The figures of one run: `report` is the client's, `cpu_seconds` the processor time that counts, where there is
    /// something to count.
    pub fn figures(self, report: &LoadReport, cpu_seconds: Option<f64>) -> Vec<(Measure, f64)> {
        let measure = |figure| Measure { run: self.title(), figure };
        let (bytes, answered) = (float(report.bytes), float(report.answered as u64));
        let (throughput, rate) = (bytes * 8.0 / 1e9 / report.seconds, answered / report.seconds);
        let mut figures = match self.work {
            Work::Up | Work::Down => vec![(Figure::Throughput, throughput)],
            Work::Requests | Work::Connections | Work::Datagrams => vec![(Figure::Rate, rate)],
            Work::Paced | Work::Idle => vec![],
        };
        figures.extend(match self.work {
            Work::Requests | Work::Paced | Work::Connections | Work::Datagrams => vec![
                (Figure::Median, f64::from(report.p50) / 1e3),
                (Figure::Percentile99, f64::from(report.p99) / 1e3),
                (Figure::Percentile999, f64::from(report.p999) / 1e3),
            ],
            Work::Up | Work::Down | Work::Idle => vec![],
        });
        figures.extend(cpu_seconds.and_then(|seconds| match self.work {
            Work::Up | Work::Down if bytes > 0.0 => Some((Figure::CpuPerGigabyte, seconds / (bytes / 1e9))),
            Work::Requests | Work::Paced | Work::Connections | Work::Datagrams if answered > 0.0 => {
                Some((Figure::CpuPer10k, seconds / (answered / 1e4)))
            }
            _ => None,
        }));
        figures.into_iter().map(|(figure, value)| (measure(figure), value)).collect()
    }
}

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// The load, by its title.
    pub run: String,
    /// What was seen of it.
    pub figure: Figure,
}

impl Measure {
    /// What it is called.
    pub fn title(&self) -> String {
        format!("{}, {}", self.run, self.figure.unit())
    }
}

/// What is seen of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Gbit/s.
    Throughput,
    /// Per second.
    Rate,
    /// Milliseconds that half of the answers took at most.
    Median,
    /// Milliseconds that 99 of 100 answers took at most.
    Percentile99,
    /// Milliseconds that 999 of 1,000 answers took at most.
    Percentile999,
    /// Seconds of processor time, user and system, per 10^9 bytes.
    CpuPerGigabyte,
    /// The same per 10,000 answers.
    CpuPer10k,
    /// MiB resident, all processes of the balancer together, while the connections idle.
    Resident,
}

impl Figure {
    /// Its unit, as a row's title has it.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::Rate => "per second",
            Self::Median => "p50, ms",
            Self::Percentile99 => "p99, ms",
            Self::Percentile999 => "p99.9, ms",
            Self::CpuPerGigabyte => "CPU s per GB",
            Self::CpuPer10k => "CPU s per 10k",
            Self::Resident => "RSS, MiB",
        }
    }

    /// Whether more of it is better.
    pub const fn more_is_better(self) -> bool {
        match self {
            Self::Throughput | Self::Rate => true,
            Self::Median
            | Self::Percentile99
            | Self::Percentile999
            | Self::CpuPerGigabyte
            | Self::CpuPer10k
            | Self::Resident => false,
        }
    }

    /// Which of two values is better: `Less` where the first one is.
    pub fn compare(self, one: f64, other: f64) -> Ordering {
        if self.more_is_better() { other.total_cmp(&one) } else { one.total_cmp(&other) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure needs no more than 52 bits")]
pub(crate) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: u64, answered: usize) -> LoadReport {
        LoadReport {
            bytes,
            answered,
            seconds: 2.0,
            p50: 500,
            p99: 1_500,
            p999: 4_500,
            ..LoadReport::default()
        }
    }

    #[test]
    fn figures_are_in_their_units() {
        let cases = [
            (
                Work::Up,
                report(2_500_000_000, 0),
                vec![(Figure::Throughput, 10.0), (Figure::CpuPerGigabyte, 0.2)],
            ),
            (
                Work::Requests,
                report(0, 20_000),
                vec![
                    (Figure::Rate, 10_000.0),
                    (Figure::Median, 0.5),
                    (Figure::Percentile99, 1.5),
                    (Figure::Percentile999, 4.5),
                    (Figure::CpuPer10k, 0.25),
                ],
            ),
        ];
        for (work, report, expected) in cases {
            let figures = Run { work, connections: 1 }.figures(&report, Some(0.5));
            let figures: Vec<_> =
                figures.into_iter().map(|(measure, value)| (measure.figure, value)).collect();
            assert_eq!(figures, expected);
        }
    }

    #[test]
    fn without_a_balancer_no_processor_time_is_its_own() {
        let figures = Run { work: Work::Up, connections: 1 }.figures(&report(2_500_000_000, 0), None);
        assert!(figures.iter().all(|(measure, _)| measure.figure != Figure::CpuPerGigabyte));
    }
}
