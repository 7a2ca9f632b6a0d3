//! What a sync came to, in words and numbers.

use std::collections::BTreeSet;
use std::time::Duration;

use plan::{Change, Forwarding, Frontend};

use super::write::Written;

/// How many frontends are forwarded otherwise than they were left.
pub(super) fn drifted(left: &Forwarding, found: &Forwarding) -> usize {
    let differs = |frontend: &&Frontend| left.get(frontend) != found.get(frontend);
    let frontends: BTreeSet<&Frontend> = left.keys().chain(found.keys()).collect();
    frontends.into_iter().filter(differs).count()
}

/// Tells what was written, in which time, and how long ago it was noticed that it had to be.
pub(super) fn log_changes(written: &Written, took: Duration, noticed: Option<Duration>) {
    if written.drifted > 0 {
        tracing::warn!(
            frontends = written.drifted,
            seconds_since_noticed = noticed.map(|noticed| noticed.as_secs_f64()),
            "the kernel forwarded otherwise than it was told to, repaired"
        );
    }
    let (mut added, mut changed, mut removed, mut backends_added, mut backends_removed) = (0, 0, 0, 0, 0);
    for change in &written.changes {
        match change {
            Change::AddService { service, .. } => {
                added += 1;
                backends_added += service.backends.len();
            }
            Change::SetRules { .. } => changed += 1,
            Change::RemoveService { .. } => removed += 1,
            Change::AddBackend { .. } => backends_added += 1,
            Change::DrainBackend { .. } | Change::RemoveBackend { .. } => backends_removed += 1,
        }
    }
    if !written.changes.is_empty() {
        tracing::info!(added, changed, removed, backends_added, backends_removed, ?took, "rules written");
    }
}

pub(super) fn counter(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
