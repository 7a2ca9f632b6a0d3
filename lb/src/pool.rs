//! What the relay's threads and the health checks share: who is eligible, who has how many connections, whose turn it is.
//!
//! One short critical section per connection and per probe, no awaiting inside. It makes round robin exact across
//! threads, and least connections free of two threads choosing the same backend from the same count.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::config::{Backend, Backends, Policy};
use crate::health::{Event, Health, Status, Thresholds};
use crate::metrics::{BackendMetrics, Metrics};
use crate::relay::balance::{Candidate, pick};

/// The backends of one front door, as everybody who serves it sees them. Backends are named by their position.
#[derive(Debug)]
pub struct Pool {
    members: Vec<Member>,
    policy: Policy,
    thresholds: Thresholds,
    state: Mutex<State>,
    settled: watch::Sender<bool>,
}

#[derive(Debug)]
struct Member {
    backend: Backend,
    metrics: BackendMetrics,
    probe_wanted: Notify,
}

#[derive(Debug)]
struct State {
    turn: usize,
    members: Vec<MemberState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberState {
    health: Health,
    active: usize,
}

impl Pool {
    /// Starts with every backend unknown.
    pub fn new(backends: &Backends, policy: Policy, thresholds: Thresholds, metrics: &Metrics) -> Arc<Self> {
        let members = backends.iter().cloned().zip(&metrics.backends).map(|(backend, metrics)| Member {
            backend,
            metrics: metrics.clone(),
            probe_wanted: Notify::new(),
        });
        Arc::new(Self {
            members: members.collect(),
            policy,
            thresholds,
            state: Mutex::new(State { turn: 0, members: vec![MemberState::default(); backends.len()] }),
            settled: watch::Sender::new(false),
        })
    }

    /// The configuration of a backend.
    pub fn backend(&self, backend: usize) -> &Backend {
        &self.members[backend].backend
    }

    /// The metrics of a backend.
    pub fn metrics(&self, backend: usize) -> &BackendMetrics {
        &self.members[backend].metrics
    }

    /// What is known of a backend.
    pub fn status(&self, backend: usize) -> Status {
        self.state().members[backend].health.status()
    }

    /// A backend for a new connection, other than those `tried` already; `None` if no other one is up.
    pub fn lease(self: &Arc<Self>, tried: &[usize]) -> Option<Lease> {
        let mut state = self.state();
        let candidates = state
            .members
            .iter()
            .enumerate()
            .filter(|(backend, member)| member.health.status() == Status::Up && !tried.contains(backend));
        let candidates = candidates.map(|(backend, member)| Candidate { backend, active: member.active });
        let backend = pick(self.policy, candidates, state.turn)?;
        state.turn = state.turn.wrapping_add(1);
        state.members[backend].active += 1;
        drop(state);
        self.metrics(backend).active.inc();
        Some(Lease { pool: Arc::clone(self), backend })
    }

    /// Takes in what was learned of a backend; `reason` is what an operator is told if that changes its status. Returns
    /// whether it did.
    pub fn observe(&self, backend: usize, event: Event, reason: &dyn Display) -> bool {
        let mut state = self.state();
        let health = &mut state.members[backend].health;
        let before = health.status();
        *health = health.after(event, self.thresholds);
        let after = health.status();
        let settled = state.settled();
        drop(state);
        let member = &self.members[backend];
        if event.asks_for_probe() {
            member.probe_wanted.notify_one();
        }
        if before != after {
            member.metrics.up.set(i64::from(after == Status::Up));
            let Backend { name, address } = &member.backend;
            tracing::info!(backend = %name, %address, from = ?before, to = ?after, %reason, "backend changed");
        }
        if settled {
            self.settled.send_replace(true);
        }
        before != after
    }

    /// Waits until it makes sense to accept clients: one backend is up, or the first probe of each has ended. Each
    /// probe has a deadline, so this has one too. Cancelling it is harmless.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this pool: there is no error to see.
        while !*settled.borrow_and_update() && settled.changed().await.is_ok() {}
    }

    /// Waits until somebody wants a backend probed now. Cancelling it loses nothing.
    pub async fn probe_wanted(&self, backend: usize) {
        self.members[backend].probe_wanted.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settled(&self) -> bool {
        let is = |status| move |member: &MemberState| member.health.status() == status;
        self.members.iter().any(is(Status::Up)) || !self.members.iter().any(is(Status::Unknown))
    }
}

/// One connection's place at a backend, from the choice of the backend to the end of the connection.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: usize,
}

impl Lease {
    /// Which backend.
    pub const fn backend(&self) -> usize {
        self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.state().members[self.backend].active -= 1;
        self.pool.metrics(self.backend).active.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::thread;

    use prometheus::Registry;

    use super::*;

    fn pool(policy: Policy, events: &[Option<Event>]) -> Arc<Pool> {
        let backends = Backends::numbered(events.len());
        let metrics = Metrics::register(&Registry::new(), &backends).unwrap();
        let thresholds = Thresholds { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN };
        let pool = Pool::new(&backends, policy, thresholds, &metrics);
        for (backend, event) in events.iter().enumerate() {
            if let Some(event) = event {
                pool.observe(backend, *event, &"test");
            }
        }
        pool
    }

    fn chosen(lease: Option<Lease>) -> Option<usize> {
        lease.map(|lease| lease.backend())
    }

    const UP: Option<Event> = Some(Event::ProbeOk);

    #[test]
    fn round_robin_is_exact_across_threads() {
        let pool = pool(Policy::RoundRobin, &[UP, UP, UP]);
        let work = || (0..1000).map_while(|_| chosen(pool.lease(&[]))).collect::<Vec<_>>();
        let chosen: Vec<usize> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        for backend in 0..3 {
            assert_eq!(chosen.iter().filter(|one| **one == backend).count(), 1000, "backend {backend}");
        }
    }

    #[test]
    fn least_connections_counts_leases_and_forgets_them_when_they_end() {
        let pool = pool(Policy::LeastConnections, &[UP, UP]);
        let held: Vec<Lease> = (0..10).filter_map(|_| pool.lease(&[])).collect();
        assert_eq!(pool.metrics(0).active.get(), 5);
        drop(held);
        assert_eq!((pool.metrics(0).active.get(), pool.metrics(1).active.get()), (0, 0));
        let first = pool.lease(&[]).unwrap();
        assert_ne!(chosen(pool.lease(&[])), Some(first.backend()));
    }

    #[test]
    fn only_backends_that_are_up_and_untried_are_leased() {
        let unready = Some(Event::ProbeUnready);
        let down = Some(Event::ProbeFailed);
        let pool = pool(Policy::RoundRobin, &[None, unready, down, UP, UP]);
        assert!((0..10).all(|_| matches!(chosen(pool.lease(&[])), Some(3 | 4))));
        assert_eq!(chosen(pool.lease(&[3])), Some(4));
        assert_eq!(chosen(pool.lease(&[3, 4])), None);
    }

    #[tokio::test]
    async fn settled_waits_for_one_up_or_all_known() {
        let down = Some(Event::ProbeFailed);
        let cases: [(&[Option<Event>], bool); 5] = [
            (&[None, None], false),
            (&[down, None], false),
            (&[None, UP], true),
            (&[down, down], true),
            (&[Some(Event::ProbeUnready), down], true),
        ];
        for (events, expected) in cases {
            let pool = pool(Policy::RoundRobin, events);
            let settled = tokio::select! {
                biased;
                () = pool.settled() => true,
                () = std::future::ready(()) => false,
            };
            assert_eq!(settled, expected, "{events:?}");
        }
    }

    #[tokio::test]
    async fn a_failed_connect_wants_a_probe_even_if_nobody_waits_yet() {
        let pool = pool(Policy::RoundRobin, &[UP]);
        pool.observe(0, Event::ConnectFailed, &"refused");
        pool.probe_wanted(0).await;
    }
}
