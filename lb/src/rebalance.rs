//! Paced rebalancing: moves idle connections away from backends that have more than their share.
//!
//! A backend that returns has no connections, and gets few: apiservers' clients keep theirs for days. So, where it is asked
//! for, connections are ended one at a time, the oldest idle one first; their clients connect anew, and are spread then.
//! Nothing is ended while any backend is unwell: that is no time to make clients connect.
//!
//! Whom to end is decided by [`plan()`], a function of values; [`Register`] knows the connections, and [`watch`] keeps time.

mod register;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rebalance;
use crate::pool::Pool;

pub use register::{Register, Seat};

/// A backend, as far as rebalancing is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its number in the pool.
    pub backend: usize,
    /// What its share is in relation to. 0 where it should have no connections, as a backup while others are up.
    pub weight: u16,
    /// How many connections it has.
    pub connections: usize,
    /// Whether it is up and not in doubt, and nobody has drained it.
    pub well: bool,
}

impl Load {
    /// How many connections it has beyond its share of `total`, which is rounded up, and beyond a tenth more than that.
    fn excess(&self, total: usize, weights: usize) -> usize {
        let share = (total * usize::from(self.weight)).div_ceil(weights.max(1));
        if self.connections > share + share / TOLERANCE { self.connections - share } else { 0 }
    }
}

/// A connection that could be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number in the register.
    pub id: u64,
    /// Whose it is.
    pub backend: usize,
    /// How long it has carried nothing.
    pub idle: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Some backend is unwell: nothing.
    Unwell,
    /// Everybody has about the share that is due: nothing.
    Balanced,
    /// A backend has more.
    Skewed {
        /// The one that has most beyond its share.
        backend: usize,
        /// How many that is.
        excess: usize,
        /// The connection to end, if it has an idle one.
        end: Option<u64>,
    },
}

/// Decides about one connection. `connections` are in the order of their beginning; those idle for less than `idle` stay.
pub fn plan(loads: &[Load], connections: impl Iterator<Item = Connection>, idle: Duration) -> Plan {
    if loads.iter().any(|load| !load.well) {
        return Plan::Unwell;
    }
    let total = loads.iter().map(|load| load.connections).sum();
    let weights = loads.iter().map(|load| usize::from(load.weight)).sum();
    let fullest = loads.iter().map(|load| (load.excess(total, weights), load.backend));
    match fullest.max_by_key(|(excess, _)| *excess) {
        Some((excess @ 1.., backend)) if weights > 0 => {
            let mut candidates = connections.filter(|one| one.backend == backend && one.idle >= idle);
            Plan::Skewed { backend, excess, end: candidates.next().map(|one| one.id) }
        }
        Some(_) | None => Plan::Balanced,
    }
}

/// Ends connections at the configured pace until dropped. Dropping it is harmless.
pub async fn watch(pool: Arc<Pool>) -> Infallible {
    let register = pool.register();
    let mut settings = register.settings();
    let mut said = None;
    loop {
        let now = *settings.borrow_and_update();
        let pause = async {
            match now.pace() {
                Some(pace) => tokio::time::sleep(pace).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            // The pool has the sender, and lives.
            _ = settings.changed() => continue,
        }
        let plan = register.plan(&pool.loads(), now.idle, Instant::now());
        said = tell(plan, said, now, &pool);
        if let Plan::Skewed { backend, end: Some(end), .. } = plan
            && !now.dry_run
        {
            pool.rebalance(end, backend);
        }
    }
}

/// Shows the plan, and says who has too many connections where that has changed since it was `said`.
fn tell(plan: Plan, said: Option<usize>, settings: Rebalance, pool: &Pool) -> Option<usize> {
    let (skewed, excess) = match plan {
        Plan::Skewed { backend, excess, .. } => (Some(backend), excess),
        Plan::Unwell | Plan::Balanced => (None, 0),
    };
    for member in pool.members() {
        let excess = if Some(member.id) == skewed { excess } else { 0 };
        member.metrics.excess.set(i64::try_from(excess).unwrap_or(i64::MAX));
        if skewed != said && Some(member.id) == skewed {
            let (backend, dry_run) = (&member.backend.name, settings.dry_run);
            tracing::info!(%backend, excess, dry_run, "backend has more connections than its share");
        }
    }
    if plan == Plan::Balanced && said.is_some() {
        tracing::info!("connections are balanced");
    }
    skewed
}

/// A skew of one part in so many is none.
const TOLERANCE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(5);

    /// Backends by weight and number of connections, all well.
    fn loads(list: &[(u16, usize)]) -> Vec<Load> {
        let load = |(backend, &(weight, connections))| Load { backend, weight, connections, well: true };
        list.iter().enumerate().map(load).collect()
    }

    /// Connections by backend and seconds of silence, oldest first, numbered from 0.
    fn planned(loads: &[Load], connections: &[(usize, u64)]) -> Plan {
        let connection =
            |(id, &(backend, seconds))| Connection { id, backend, idle: Duration::from_secs(seconds) };
        plan(loads, (0..).zip(connections).map(connection), IDLE)
    }

    /// What it is about, backends by weight and connections, and which of them has how many too many.
    type Case = (&'static str, &'static [(u16, usize)], Option<(usize, usize)>);

    #[test]
    fn who_has_more_than_its_share_loses_its_oldest_idle_connection() {
        let cases: [Case; 11] = [
            ("nobody has any", &[(1, 0), (1, 0)], None),
            ("all have the same", &[(1, 10), (1, 10), (1, 10)], None),
            ("one more is not worth it", &[(1, 2), (1, 1)], None),
            ("nor is a tenth", &[(1, 110), (1, 90)], None),
            ("more is", &[(1, 111), (1, 89)], Some((0, 11))),
            ("one has returned", &[(1, 30), (1, 31), (1, 0)], Some((1, 10))),
            ("shares follow weights", &[(3, 30), (1, 10)], None),
            ("and so does skew", &[(3, 20), (1, 20)], Some((1, 10))),
            ("a backup should have none", &[(1, 50), (0, 3)], Some((1, 3))),
            ("only backups are left", &[(0, 5), (0, 1)], None),
            ("one alone has what there is", &[(1, 7)], None),
        ];
        for (name, list, expected) in cases {
            let connections: Vec<(usize, u64)> = [4, 5, 6]
                .into_iter()
                .flat_map(|idle| (0..list.len()).map(move |backend| (backend, idle)))
                .collect();
            let expected = expected.map_or(Plan::Balanced, |(backend, excess)| {
                // The first with five seconds is in the second round.
                let end = u64::try_from(list.len() + backend).unwrap();
                Plan::Skewed { backend, excess, end: Some(end) }
            });
            assert_eq!(planned(&loads(list), &connections), expected, "{name}");
        }
    }

    #[test]
    fn busy_connections_and_those_of_others_stay() {
        let loads = loads(&[(1, 0), (1, 9)]);
        let skewed = |end| Plan::Skewed { backend: 1, excess: 4, end };
        assert_eq!(planned(&loads, &[(0, 60), (1, 4), (1, 0)]), skewed(None));
        assert_eq!(planned(&loads, &[(0, 60), (1, 4), (1, 5), (1, 60)]), skewed(Some(2)));
    }

    #[test]
    fn nothing_is_ended_while_anybody_is_unwell() {
        let mut loads = loads(&[(1, 9), (1, 0), (1, 0)]);
        loads[2].well = false;
        assert_eq!(planned(&loads, &[(0, 60)]), Plan::Unwell);
    }

    #[test]
    fn ending_what_is_planned_ends_the_skew_and_no_more_than_that() {
        let mut loads = loads(&[(1, 90), (2, 10), (1, 0)]);
        let mut ended = 0;
        while let Plan::Skewed { backend, .. } = planned(&loads, &[]) {
            loads[backend].connections -= 1;
            // Its client is served by whoever has fewest in relation to its weight.
            let taker = loads.iter_mut().min_by_key(|load| load.connections * 2 / usize::from(load.weight));
            taker.unwrap().connections += 1;
            ended += 1;
            assert!(ended <= 65, "{loads:?}");
        }
        assert!(loads[0].connections <= 28, "{loads:?}");
    }
}
