//! What the relay's threads and the health checks share: who is eligible, who has how many connections, whose turn it is.
//!
//! One short critical section per connection and per probe, no awaiting inside. It makes round robin exact across
//! threads, and least connections free of two threads choosing the same backend from the same count.
//!
//! Backends come and go by [`Pool::reconfigure`]. Each has a number that no other backend of the pool ever gets: one
//! that was taken out is remembered until its last connection has ended, beside one of the same name that may have taken
//! its place.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::config::{Backend, BackendName, Backends, Policy};
use crate::health::{Event, Health, Status, Thresholds};
use crate::metrics::{BackendMetrics, Metrics};
use crate::relay::balance::{Candidate, pick};

/// The backends of one front door, as everybody who serves it sees them.
#[derive(Debug)]
pub struct Pool {
    metrics: Metrics,
    state: Mutex<State>,
    settled: watch::Sender<bool>,
}

/// A backend, as configured at the moment of asking.
#[derive(Debug)]
pub struct Member {
    /// Its number. Those that a pool starts with are numbered by position, from 0.
    pub id: usize,
    /// Its configuration.
    pub backend: Backend,
    /// What is counted about it.
    pub metrics: BackendMetrics,
    probe_wanted: Notify,
}

impl Member {
    /// Waits until somebody wants this backend probed now. Cancelling it loses nothing.
    pub async fn probe_wanted(&self) {
        self.probe_wanted.notified().await;
    }
}

#[derive(Debug)]
struct State {
    policy: Policy,
    thresholds: Thresholds,
    turn: usize,
    next_id: usize,
    /// Those configured, in their order, and after them those taken out that still have connections.
    entries: Vec<Entry>,
    /// Who takes no new connections because an operator says so; kept by name, whatever is configured.
    drained: BTreeSet<BackendName>,
}

#[derive(Debug)]
struct Entry {
    member: Arc<Member>,
    health: Health,
    active: usize,
    /// Taken out of the configuration.
    leaving: bool,
}

impl Pool {
    /// Starts with every backend unknown.
    pub fn new(backends: &Backends, policy: Policy, thresholds: Thresholds, metrics: &Metrics) -> Arc<Self> {
        let state =
            State { policy, thresholds, turn: 0, next_id: 0, entries: Vec::new(), drained: BTreeSet::new() };
        let (state, settled) = (Mutex::new(state), watch::Sender::new(false));
        let pool = Self { metrics: metrics.clone(), state, settled };
        pool.reconfigure(backends, policy, thresholds);
        Arc::new(pool)
    }

    /// From now on these are the backends, chosen and judged so.
    ///
    /// Who was there before, by name and address, keeps health and connections. Who is new takes connections once a
    /// probe has found it ready. Who is no longer there takes none, and is forgotten, metrics included, when its last one
    /// ends.
    pub fn reconfigure(&self, backends: &Backends, policy: Policy, thresholds: Thresholds) {
        let mut state = self.state();
        state.policy = policy;
        state.thresholds = thresholds;
        let mut former = std::mem::take(&mut state.entries);
        for backend in backends.iter() {
            let known = former.iter().position(|entry| entry.is_for(backend));
            let entry = match known.map(|position| former.remove(position)) {
                Some(entry) => entry.keeping(backend),
                None => Entry::new(self.member(state.next_id(), backend)),
            };
            state.entries.push(entry);
        }
        state.entries.extend(former.into_iter().map(Entry::leaving));
        state.publish();
        self.forget_the_gone(&mut state);
    }

    fn member(&self, id: usize, backend: &Backend) -> Arc<Member> {
        let metrics = self.metrics.of_backend(&backend.name);
        Arc::new(Member { id, backend: backend.clone(), metrics, probe_wanted: Notify::new() })
    }

    /// The configured backends, in their order.
    pub fn members(&self) -> Vec<Arc<Member>> {
        let state = self.state();
        let configured = state.entries.iter().filter(|entry| !entry.leaving);
        configured.map(|entry| Arc::clone(&entry.member)).collect()
    }

    /// What is known of a backend; `None` once it is forgotten.
    pub fn status(&self, id: usize) -> Option<Status> {
        self.state().entry(id).map(|entry| entry.health.status())
    }

    /// A backend for a new connection, other than those `tried` already; `None` if no other one is up.
    pub fn lease(self: &Arc<Self>, tried: &[usize]) -> Option<Lease> {
        let mut state = self.state();
        let candidates = state
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| state.takes_connections(entry) && !tried.contains(&entry.member.id));
        let candidates = candidates.map(|(backend, entry)| Candidate { backend, active: entry.active });
        let chosen = pick(state.policy, candidates, state.turn)?;
        state.turn = state.turn.wrapping_add(1);
        let entry = &mut state.entries[chosen];
        entry.active += 1;
        let member = Arc::clone(&entry.member);
        drop(state);
        member.metrics.active.inc();
        Some(Lease { pool: Arc::clone(self), member })
    }

    /// Takes in what was learned of a backend; `reason` is what an operator is told if that changes its status. Returns
    /// whether it did.
    pub fn observe(&self, id: usize, event: Event, reason: &dyn Display) -> bool {
        let mut state = self.state();
        let thresholds = state.thresholds;
        let Some(entry) = state.entry_mut(id) else { return false };
        let before = entry.health.status();
        entry.health = entry.health.after(event, thresholds);
        let after = entry.health.status();
        let member = Arc::clone(&entry.member);
        if before != after {
            state.publish();
        }
        let settled = state.settled();
        drop(state);
        if event.asks_for_probe() {
            member.probe_wanted.notify_one();
        }
        if before != after {
            let Backend { name, address, .. } = &member.backend;
            tracing::info!(backend = %name, %address, from = ?before, to = ?after, %reason, "backend changed");
        }
        if settled {
            self.settled.send_replace(true);
        }
        before != after
    }

    /// An operator's word: whether a backend of this name is to take new connections. Connections that it has stay. It
    /// holds until it is taken back, whatever is configured meanwhile. False where no backend has this name.
    pub fn drain(&self, name: &BackendName, drained: bool) -> bool {
        let mut state = self.state();
        let known = state.entries.iter().any(|entry| !entry.leaving && entry.member.backend.name == *name);
        let changed = match (known, drained) {
            (true, true) => state.drained.insert(name.clone()),
            // Also one that is gone: or it would be drained unasked when it comes back.
            (_, false) => state.drained.remove(name),
            (false, true) => return false,
        };
        state.publish();
        drop(state);
        if changed {
            tracing::info!(backend = %name, drained, "backend drained or undrained by the operator");
        }
        known || changed
    }

    /// Waits until it makes sense to accept clients: one backend is up, or the first probe of each has ended. Each
    /// probe has a deadline, so this has one too. Cancelling it is harmless.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this pool: there is no error to see.
        while !*settled.borrow_and_update() && settled.changed().await.is_ok() {}
    }

    fn forget_the_gone(&self, state: &mut State) {
        let gone = |entry: &mut Entry| entry.leaving && entry.active == 0;
        let gone: Vec<Entry> = state.entries.extract_if(.., gone).collect();
        for Entry { member, .. } in gone {
            let name = &member.backend.name;
            if !state.entries.iter().any(|entry| entry.member.backend.name == *name) {
                self.metrics.forget_backend(name);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settled(&self) -> bool {
        let is = |status| move |entry: &Entry| entry.health.status() == status;
        self.entries.iter().any(is(Status::Up)) || !self.entries.iter().any(is(Status::Unknown))
    }

    fn takes_connections(&self, entry: &Entry) -> bool {
        entry.is_up() && !self.drained.contains(&entry.member.backend.name)
    }

    /// Shows who takes connections. One that was taken out may share its name with one that does.
    fn publish(&self) {
        let (up, others): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|entry| self.takes_connections(entry));
        for (value, entries) in [(0, others), (1, up)] {
            for entry in entries {
                entry.member.metrics.up.set(value);
            }
        }
    }

    fn next_id(&mut self) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn entry(&self, id: usize) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.member.id == id)
    }

    fn entry_mut(&mut self, id: usize) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.member.id == id)
    }
}

impl Entry {
    fn new(member: Arc<Member>) -> Self {
        Self { member, health: Health::default(), active: 0, leaving: false }
    }

    fn is_for(&self, backend: &Backend) -> bool {
        self.member.backend.name == backend.name && self.member.backend.address == backend.address
    }

    fn is_up(&self) -> bool {
        self.health.status() == Status::Up && !self.leaving
    }

    /// The same backend under its present configuration. One that comes back was not probed in the meantime.
    fn keeping(self, backend: &Backend) -> Self {
        let health = if self.leaving { Health::default() } else { self.health };
        let member = if self.member.backend == *backend {
            self.member
        } else {
            let Member { id, metrics, .. } = &*self.member;
            let (id, metrics, backend) = (*id, metrics.clone(), backend.clone());
            Arc::new(Member { id, backend, metrics, probe_wanted: Notify::new() })
        };
        Self { member, health, leaving: false, ..self }
    }

    fn leaving(self) -> Self {
        Self { leaving: true, ..self }
    }
}

/// One connection's place at a backend, from the choice of the backend to the end of the connection.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    member: Arc<Member>,
}

impl Lease {
    /// Which backend.
    pub const fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.metrics.active.dec();
        let mut state = self.pool.state();
        let Some(entry) = state.entry_mut(self.member.id) else { return };
        entry.active -= 1;
        if entry.leaving && entry.active == 0 {
            self.pool.forget_the_gone(&mut state);
        }
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
        let metrics = Metrics::register(&Registry::new()).unwrap();
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
        lease.map(|lease| lease.member().id)
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
        let active = || pool.members().iter().map(|member| member.metrics.active.get()).collect::<Vec<_>>();
        assert_eq!(active(), [5, 5]);
        drop(held);
        assert_eq!(active(), [0, 0]);
        let first = pool.lease(&[]).unwrap();
        assert_ne!(chosen(pool.lease(&[])), Some(first.member().id));
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

    /// `name=address` each.
    fn backends(list: &[&str]) -> Backends {
        Backends::listed(list.iter().map(|entry| entry.split_once('=').unwrap()))
    }

    fn reconfigure(pool: &Pool, list: &[&str]) {
        let thresholds = Thresholds { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN };
        pool.reconfigure(&backends(list), Policy::LeastConnections, thresholds);
    }

    /// The numbers of those who take connections.
    fn takers(pool: &Arc<Pool>) -> BTreeSet<usize> {
        let leases: Vec<Lease> = (0..20).filter_map(|_| pool.lease(&[])).collect();
        leases.iter().map(|lease| lease.member().id).collect()
    }

    #[test]
    fn who_stays_keeps_health_and_connections_and_who_is_new_is_probed_first() {
        let pool = pool(Policy::LeastConnections, &[UP, UP]);
        let held: Vec<Lease> = (0..4).filter_map(|_| pool.lease(&[])).collect();
        reconfigure(&pool, &["m3=172.16.60.3:6443", "m2=172.16.60.2:6443"]);
        assert_eq!(takers(&pool), [1].into());
        assert_eq!(pool.members().iter().map(|member| member.id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(pool.members()[1].metrics.active.get(), 2, "its connections are still counted");
        pool.observe(2, Event::ProbeOk, &"test");
        // Two connections of the second are older than these.
        let next: Vec<usize> =
            (0..2).filter_map(|_| pool.lease(&[])).map(|lease| lease.member().id).collect();
        assert_eq!(next, [2, 2]);
        drop(held);
    }

    #[test]
    fn who_is_taken_out_is_forgotten_with_its_last_connection() {
        let pool = pool(Policy::RoundRobin, &[UP, UP]);
        let lease = (0..2).filter_map(|_| pool.lease(&[])).find(|lease| lease.member().id == 0);
        reconfigure(&pool, &["m2=172.16.60.2:6443"]);
        assert_eq!((takers(&pool), pool.status(0)), ([1].into(), Some(Status::Up)));
        drop(lease);
        assert_eq!((pool.status(0), pool.status(1)), (None, Some(Status::Up)));
        // It is another one that comes under the old name.
        reconfigure(&pool, &["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]);
        assert_eq!((takers(&pool), pool.status(2)), ([1].into(), Some(Status::Unknown)));
    }

    #[test]
    fn who_comes_back_before_it_is_forgotten_is_probed_again_and_keeps_its_connections() {
        let pool = pool(Policy::LeastConnections, &[UP]);
        let held = pool.lease(&[]);
        reconfigure(&pool, &["m2=172.16.60.2:6443"]);
        reconfigure(&pool, &["m1=172.16.60.1:6443"]);
        assert_eq!((takers(&pool), pool.status(0)), ([].into(), Some(Status::Unknown)));
        pool.observe(0, Event::ProbeOk, &"test");
        assert_eq!((takers(&pool), pool.members()[0].metrics.active.get()), ([0].into(), 1));
        drop(held);
    }

    #[test]
    fn a_name_shows_the_backend_that_has_it_now() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let thresholds = Thresholds { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN };
        let pool = Pool::new(&backends(&["m1=172.16.60.1:6443"]), Policy::RoundRobin, thresholds, &metrics);
        let up = || {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == "fairway_lb_backend_up");
            family.map(|family| {
                family.get_metric().iter().map(|it| it.get_gauge().get_value()).collect::<Vec<_>>()
            })
        };
        pool.observe(0, Event::ProbeOk, &"test");
        let held = pool.lease(&[]);
        assert_eq!(up(), Some(vec![1.0]));
        reconfigure(&pool, &["m1=172.16.60.9:6443"]);
        assert_eq!(up(), Some(vec![0.0]), "the new one is not probed yet");
        pool.observe(1, Event::ProbeOk, &"test");
        pool.observe(0, Event::ProbeFailed, &"test");
        assert_eq!(up(), Some(vec![1.0]));
        drop(held);
        assert_eq!(up(), Some(vec![1.0]), "the former one is forgotten, its successor is not");
        reconfigure(&pool, &["m2=172.16.60.9:6443"]);
        assert_eq!(up(), Some(vec![0.0]), "one that had no connections is forgotten at once");
    }

    #[test]
    fn who_is_drained_by_the_operator_takes_nothing_until_the_word_is_taken_back() {
        let pool = pool(Policy::RoundRobin, &[UP, UP]);
        let name = |text: &str| BackendName::new(text.to_owned()).unwrap();
        assert!(!pool.drain(&name("m3"), true), "there is no such backend");
        assert!(pool.drain(&name("m1"), true));
        assert_eq!((takers(&pool), pool.members()[0].metrics.up.get()), ([1].into(), 0));
        // Neither its health nor a reload changes that.
        pool.observe(0, Event::ProbeFailed, &"test");
        pool.observe(0, Event::ProbeOk, &"test");
        reconfigure(&pool, &["m2=172.16.60.2:6443"]);
        reconfigure(&pool, &["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]);
        pool.observe(2, Event::ProbeOk, &"test");
        assert_eq!(takers(&pool), [1].into());
        assert!(pool.drain(&name("m1"), false));
        assert_eq!((takers(&pool), pool.members()[0].metrics.up.get()), ([1, 2].into(), 1));
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
        pool.members()[0].probe_wanted().await;
    }
}
