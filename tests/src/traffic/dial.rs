//! New connections at a steady rate, whatever became of those before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::connection::{Dialer, Target};
use crate::{Result, wait};

/// What to dial and how often.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Dial {
    /// Whom.
    #[command(flatten)]
    pub target: Target,
    /// New connections per second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=120_000))]
    pub milliseconds: u32,
    /// An attempt that takes longer has failed.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    pub timeout_milliseconds: u32,
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began, in milliseconds since the first.
    pub at: f64,
    /// How long it took until the answer, or the failure, in milliseconds.
    pub took: f64,
    /// Who answered.
    pub backend: Option<String>,
    /// The other end as the socket has it.
    pub peer: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What became of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DialReport {
    /// How many were tried.
    pub attempts: usize,
    /// How many failed.
    pub failed: usize,
    /// The longest time in which no connection was answered, in milliseconds. At 100 per second and in peace about 10.
    pub longest_gap: f64,
    /// Half of the answers took at most this, in milliseconds.
    pub median: f64,
    /// The slowest answer, in milliseconds.
    pub slowest: f64,
    /// How many answers came from whom.
    pub backends: BTreeMap<String, usize>,
    /// How often which error.
    pub errors: BTreeMap<String, usize>,
    /// The other ends, as the sockets have them.
    pub peers: BTreeMap<String, usize>,
}

/// Dials as told; `watch` sees each attempt as it ends.
pub async fn dial(settings: &Dial, mut watch: impl FnMut(&Attempt)) -> Result<DialReport> {
    let dialer = Arc::new(Dialer::new(&settings.target)?);
    let limit = Duration::from_millis(settings.timeout_milliseconds.into());
    let pause = Duration::from_secs(1) / settings.rate;
    let total = (settings.rate * settings.milliseconds).div_ceil(1000).max(1);
    let start = wait::now();
    let (sender, mut receiver) = mpsc::channel(1024);
    tokio::spawn(async move {
        for number in 0..total {
            sleep_until((start + pause * number).into()).await;
            let (dialer, sender) = (Arc::clone(&dialer), sender.clone());
            tokio::spawn(async move {
                let attempt = attempt(&dialer, start, limit).await;
                // The receiver outlives every sender: it is drained below.
                drop(sender.send(attempt).await);
            });
        }
    });
    let mut attempts = Vec::new();
    while let Some(attempt) = receiver.recv().await {
        watch(&attempt);
        attempts.push(attempt);
    }
    Ok(summarize(&attempts, milliseconds(pause * total)))
}

async fn attempt(dialer: &Dialer, start: Instant, limit: Duration) -> Attempt {
    let began = wait::now();
    let mut peer = None;
    let exchange = timeout(limit, async {
        let mut connection = dialer.open().await?;
        peer = connection.peer().ok().map(|peer| peer.to_string());
        connection.ask().await
    });
    let (backend, error) = match exchange.await {
        Ok(Ok(backend)) => (Some(backend), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_elapsed) => (None, Some("timed out".to_owned())),
    };
    Attempt { at: milliseconds(began - start), took: milliseconds(wait::now() - began), backend, peer, error }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn summarize(attempts: &[Attempt], length: f64) -> DialReport {
    let mut report = DialReport { attempts: attempts.len(), ..DialReport::default() };
    let mut answered = Vec::new();
    for attempt in attempts {
        match (&attempt.backend, &attempt.error) {
            (Some(backend), _) => {
                answered.push(attempt);
                *report.backends.entry(backend.clone()).or_default() += 1;
            }
            (None, error) => {
                report.failed += 1;
                *report.errors.entry(error.clone().unwrap_or_default()).or_default() += 1;
            }
        }
        if let Some(peer) = &attempt.peer {
            *report.peers.entry(peer.clone()).or_default() += 1;
        }
    }
    let mut took: Vec<f64> = answered.iter().map(|attempt| attempt.took).collect();
    took.sort_by(f64::total_cmp);
    report.median = took.get(took.len() / 2).copied().unwrap_or_default();
    report.slowest = took.last().copied().unwrap_or_default();
    report.longest_gap =
        longest_gap(answered.iter().map(|attempt| attempt.at + attempt.took).collect(), length);
    report
}

/// The longest stretch from 0 to `end` without one of `answers`.
pub fn longest_gap(mut answers: Vec<f64>, end: f64) -> f64 {
    answers.retain(|answer| *answer < end);
    answers.extend([0.0, end]);
    answers.sort_by(f64::total_cmp);
    answers.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_where_nothing_was_answered() {
        for (answers, end, expected) in [
            (vec![], 100.0, 100.0),
            (vec![10.0, 20.0, 80.0, 90.0], 100.0, 60.0),
            (vec![80.0, 10.0], 100.0, 70.0),
            (vec![10.0], 100.0, 90.0),
            (vec![50.0, 400.0], 100.0, 50.0),
        ] {
            let gap = longest_gap(answers.clone(), end);
            assert!((gap - expected).abs() < f64::EPSILON, "{answers:?} {end}: {gap}");
        }
    }

    #[test]
    fn failures_and_answers_are_counted_apart() {
        let answer = |at, backend: &str| Attempt {
            at,
            took: 1.0,
            backend: Some(backend.to_owned()),
            peer: None,
            error: None,
        };
        let failure =
            Attempt { at: 20.0, took: 500.0, backend: None, peer: None, error: Some("refused".to_owned()) };
        let report = summarize(&[answer(0.0, "a"), answer(10.0, "b"), failure, answer(30.0, "a")], 40.0);
        assert_eq!((report.attempts, report.failed), (4, 1));
        assert_eq!(report.backends, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        assert_eq!(report.errors, BTreeMap::from([("refused".to_owned(), 1)]));
        assert!((report.longest_gap - 20.0).abs() < f64::EPSILON);
    }
}
