//! What is measured, in which units, and what the front door should reach beside its best rival.

use std::cmp::Ordering;

use ::tests::traffic::{LoadReport, Work};
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
    /// All loads of one round, in the order in which they are put on.
    pub const ALL: [Self; 6] = [
        Self { work: Work::Up, connections: 1 },
        Self { work: Work::Down, connections: 1 },
        Self { work: Work::Up, connections: 8 },
        Self { work: Work::Down, connections: 8 },
        Self { work: Work::Requests, connections: 32 },
        Self { work: Work::Connections, connections: 32 },
    ];

    /// What it is called in progress and report.
    pub fn title(self) -> String {
        let Self { work, connections } = self;
        match (work, connections) {
            (Work::Up, 1) => "1 stream up".to_owned(),
            (Work::Down, 1) => "1 stream down".to_owned(),
            (Work::Up, _) => format!("{connections} streams up"),
            (Work::Down, _) => format!("{connections} streams down"),
            (Work::Requests, _) => format!("requests over {connections} kept connections"),
            (Work::Connections, _) => format!("new connections, {connections} at a time"),
            (Work::Idle, _) => "idle connections".to_owned(),
        }
    }

    /// The figures of one run: `report` is the client's, `cpu_seconds` what the balancer used meanwhile, where there
    /// is one.
    pub fn figures(self, report: &LoadReport, cpu_seconds: Option<f64>) -> Vec<(Measure, f64)> {
        let measure = |figure| Measure { run: self.title(), figure };
        let (bytes, answered) = (float(report.bytes), float(report.answered as u64));
        let (throughput, rate) = (bytes * 8.0 / 1e9 / report.seconds, answered / report.seconds);
        let mut figures = match self.work {
            Work::Up | Work::Down => vec![(Figure::Throughput, throughput)],
            Work::Requests | Work::Connections => vec![
                (Figure::Rate, rate),
                (Figure::Median, f64::from(report.p50) / 1e3),
                (Figure::Percentile99, f64::from(report.p99) / 1e3),
            ],
            Work::Idle => vec![],
        };
        figures.extend(cpu_seconds.and_then(|seconds| match self.work {
            Work::Up | Work::Down if bytes > 0.0 => Some((Figure::CpuPerGigabyte, seconds / (bytes / 1e9))),
            Work::Requests | Work::Connections if answered > 0.0 => {
                Some((Figure::CpuPer10k, seconds / (answered / 1e4)))
            }
            Work::Up | Work::Down | Work::Requests | Work::Connections | Work::Idle => None,
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
    /// Seconds of processor time of the balancer, user and system, per 10^9 bytes.
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
            Self::CpuPerGigabyte => "CPU s per GB",
            Self::CpuPer10k => "CPU s per 10k",
            Self::Resident => "RSS, MiB",
        }
    }

    /// Which of two values is better: `Less` where the first one is.
    pub fn compare(self, one: f64, other: f64) -> Ordering {
        match self {
            Self::Throughput | Self::Rate => other.total_cmp(&one),
            Self::Median | Self::Percentile99 | Self::CpuPerGigabyte | Self::CpuPer10k | Self::Resident => {
                one.total_cmp(&other)
            }
        }
    }
}

impl Measure {
    /// What the ratio to the best rival should be: at least, or at most where less is better. `None`: no bar.
    pub fn bar(&self) -> Option<f64> {
        let connections = self.run.starts_with("new");
        match self.figure {
            Figure::Throughput => Some(1.3),
            Figure::Rate => Some(1.1),
            Figure::Percentile99 if !connections => Some(1.0),
            Figure::CpuPerGigabyte => Some(0.5),
            Figure::CpuPer10k => Some(0.8),
            Figure::Resident => Some(0.15),
            Figure::Median | Figure::Percentile99 => None,
        }
    }

    /// Whether `ratio` to the best rival reaches the bar, where there is one.
    pub fn reached(&self, ratio: f64) -> Option<bool> {
        self.bar().map(|bar| self.figure.compare(ratio, bar).is_le())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure needs no more than 52 bits")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: u64, answered: usize) -> LoadReport {
        LoadReport { bytes, answered, seconds: 2.0, p50: 500, p99: 1_500, failed: 0, error: None }
    }

    #[test]
    fn figures_are_in_their_units() {
        let cases = [
            (0, report(2_500_000_000, 0), vec![(Figure::Throughput, 10.0), (Figure::CpuPerGigabyte, 0.2)]),
            (
                4,
                report(0, 20_000),
                vec![
                    (Figure::Rate, 10_000.0),
                    (Figure::Median, 0.5),
                    (Figure::Percentile99, 1.5),
                    (Figure::CpuPer10k, 0.25),
                ],
            ),
        ];
        for (run, report, expected) in cases {
            let figures = Run::ALL[run].figures(&report, Some(0.5));
            let figures: Vec<_> =
                figures.into_iter().map(|(measure, value)| (measure.figure, value)).collect();
            assert_eq!(figures, expected);
        }
    }

    #[test]
    fn without_a_balancer_no_processor_time_is_its_own() {
        let figures = Run::ALL[0].figures(&report(2_500_000_000, 0), None);
        assert!(figures.iter().all(|(measure, _)| measure.figure != Figure::CpuPerGigabyte));
    }

    #[test]
    fn a_bar_is_a_floor_or_a_ceiling() {
        let measure = |figure| Measure { run: "1 stream up".to_owned(), figure };
        for (figure, ratio, reached) in [
            (Figure::Throughput, 1.3, Some(true)),
            (Figure::Throughput, 1.29, Some(false)),
            (Figure::CpuPerGigabyte, 0.5, Some(true)),
            (Figure::CpuPerGigabyte, 0.51, Some(false)),
            (Figure::Median, 0.1, None),
        ] {
            assert_eq!(measure(figure).reached(ratio), reached, "{figure:?} {ratio}");
        }
    }
}
