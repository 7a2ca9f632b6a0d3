//! Connections that are kept open: what a change must not break.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connection::{Dialer, Target};
use crate::{Error, Result};

/// A request on every connection each.
const EVERY: Duration = Duration::from_millis(100);
/// An answer that takes longer counts as a break.
const LIMIT: Duration = Duration::from_secs(5);

/// What to hold and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Hold {
    /// Whom.
    #[command(flatten)]
    pub target: Target,
    /// How many connections.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// For how long.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=120_000))]
    pub milliseconds: u32,
}

/// How they fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// How many were opened.
    pub opened: usize,
    /// How many requests were answered.
    pub answered: usize,
    /// The slowest answer, in milliseconds.
    pub slowest: f64,
    /// How many connections to whom.
    pub backends: BTreeMap<String, usize>,
    /// Those that broke, or answered by another's name.
    pub broken: Vec<Break>,
}

/// The end of a connection before its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Break {
    /// When, in milliseconds since the start.
    pub at: f64,
    /// Whose; empty if it was never opened.
    pub backend: String,
    /// Why.
    pub error: String,
}

/// Holds as told; `opened` is called once all connections have had a first answer, or have failed to.
pub async fn hold(settings: &Hold, opened: impl FnOnce()) -> Result<HoldReport> {
    let dialer = Arc::new(Dialer::new(&settings.target)?);
    let start = Instant::now();
    let end = start + Duration::from_millis(settings.milliseconds.into());
    let count = usize::try_from(settings.connections).unwrap_or(usize::MAX);
    let (sender, mut first) = tokio::sync::mpsc::channel(count);
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(hold_one(Arc::clone(&dialer), start, end, sender.clone()));
    }
    drop(sender);
    // Every task gives up its sender after its first answer or failure.
    while first.recv().await.is_some() {}
    opened();
    let mut report = HoldReport::default();
    while let Some(outcome) = tasks.join_next().await {
        let one =
            outcome.map_err(|error| Error::system("hold", "a connection")(std::io::Error::other(error)))?;
        report.opened += one.opened;
        report.answered += one.answered;
        report.slowest = report.slowest.max(one.slowest);
        report.broken.extend(one.broken);
        for (backend, count) in one.backends {
            *report.backends.entry(backend).or_default() += count;
        }
    }
    Ok(report)
}

async fn hold_one(
    dialer: Arc<Dialer>,
    start: Instant,
    end: Instant,
    first: tokio::sync::mpsc::Sender<()>,
) -> HoldReport {
    let mut report = HoldReport::default();
    let broken = |backend: &str, error: String| Break {
        at: (Instant::now() - start).as_secs_f64() * 1000.0,
        backend: backend.to_owned(),
        error,
    };
    let opened = timeout(LIMIT, async {
        let mut connection = dialer.open().await?;
        let backend = connection.ask().await?;
        Ok::<_, std::io::Error>((connection, backend))
    });
    let (mut connection, backend) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return HoldReport { broken: vec![broken("", error.to_string())], ..report },
        Err(elapsed) => return HoldReport { broken: vec![broken("", elapsed.to_string())], ..report },
    };
    drop(first);
    report.opened = 1;
    report.backends.insert(backend.clone(), 1);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        let asked = Instant::now();
        let error = match timeout(LIMIT, connection.ask()).await {
            Ok(Ok(name)) if name == backend => {
                report.answered += 1;
                report.slowest = report.slowest.max(asked.elapsed().as_secs_f64() * 1000.0);
                continue;
            }
            Ok(Ok(other)) => format!("answered by {other}"),
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        report.broken.push(broken(&backend, error));
        break;
    }
    report
}
