//! What the relay's threads and the health checks share: who is eligible, who has how many connections, whose turn it is.
//!
//! One short critical section per connection and per probe, no awaiting inside. It makes round robin exact across
//! threads, and least connections free of two threads choosing the same backend from the same count.
//!
//! Backends come and go by [`Pool::reconfigure`]. Each has a number that no other backend of the pool ever gets: one
//! that was taken out is remembered until its last connection has ended, beside one of the same name that may have taken
//! its place.

mod balance;
mod carried;
mod lease;
mod notice;
mod state;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::bell::Bell;
use crate::config::{Backend, BackendName, Backends, Balance, Policy, Reload};
use crate::health::{ConnectFailure, Event, Status, Thresholds};
use crate::metrics::{BackendMetrics, EndReason, Metrics, Refusal};
use crate::rebalance::{Load, Register};
use balance::HashTable;

pub use carried::Carried;
pub use lease::Lease;
pub use notice::Told;

use notice::Crier;
use state::{Ended, Entry, State};

/// The backends of one front door, as everybody who serves it sees them.
#[derive(Debug)]
pub struct Pool {
    metrics: Metrics,
    state: Mutex<State>,
    settled: watch::Sender<bool>,
    /// Somebody takes connections who did not, or the other way round.
    changed: Notify,
    register: Arc<Register>,
    /// How often connections were told something.
    told: AtomicU64,
    /// Of those who carry connections.
    bells: Mutex<Vec<Weak<Bell>>>,
    /// Marked when a backend's standing has changed.
    changes: watch::Sender<()>,
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
    crier: Arc<Crier>,
}

impl Member {
    /// Waits until somebody wants this backend probed now. Cancelling it loses nothing.
    pub async fn probe_wanted(&self) {
        self.probe_wanted.notified().await;
    }
}

/// How a backend is at one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which backend.
    pub member: Arc<Member>,
    /// What is known of it.
    pub status: Status,
    /// Since when.
    pub since: Instant,
    /// Why; empty before the first check has ended.
    pub reason: String,
    /// Its last check, once the first has ended.
    pub checked: Option<LastCheck>,
    /// Connections that it has now, those being established and those that the kernel carries included.
    pub connections: usize,
    /// Whether an operator keeps new connections from it.
    pub drained: bool,
    /// Whether it was taken out of the configuration.
    pub removed: bool,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// In words.
    pub result: String,
    /// When it ended.
    pub at: Instant,
}

impl Pool {
    /// Starts with every backend unknown.
    pub fn new(
        backends: &Backends,
        balance: Balance,
        thresholds: Thresholds,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let state = State {
            balance,
            thresholds,
            last: usize::MAX,
            next_id: 0,
            entries: Vec::new(),
            table: HashTable::default(),
            drained: BTreeSet::new(),
        };
        let (state, settled) = (Mutex::new(state), watch::Sender::new(false));
        let pool = Self {
            metrics: metrics.clone(),
            state,
            settled,
            changed: Notify::new(),
            register: Arc::new(Register::new()),
            told: AtomicU64::new(0),
            bells: Mutex::default(),
            changes: watch::Sender::new(()),
        };
        pool.reconfigure(backends, balance, thresholds);
        Arc::new(pool)
    }

    /// From now on these are the backends, chosen and judged so.
    ///
    /// Who was there before, by name and address, keeps health and connections. Who is new takes connections once a
    /// probe has found it ready. Who is no longer there takes none, and is forgotten, metrics included, when its last one
    /// ends.
    pub fn reconfigure(&self, backends: &Backends, balance: Balance, thresholds: Thresholds) {
        let table = match balance.policy {
            Policy::SourceHash => HashTable::new(backends),
            Policy::RoundRobin | Policy::LeastConnections => HashTable::default(),
        };
        let mut state = self.state();
        state.balance = balance;
        state.thresholds = thresholds;
        state.table = table;
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
        state.takers_changed();
        self.changed.notify_one();
        self.changes.send_replace(());
        self.forget_the_gone(&mut state);
    }

    fn member(&self, id: usize, backend: &Backend) -> Arc<Member> {
        let metrics = self.metrics.of_backend(&backend.name);
        let (probe_wanted, crier) = (Notify::new(), Arc::default());
        Arc::new(Member { id, backend: backend.clone(), metrics, probe_wanted, crier })
    }

    /// The configured backends, in their order.
    pub fn members(&self) -> Vec<Arc<Member>> {
        let state = self.state();
        let configured = state.entries.iter().filter(|entry| !entry.leaving);
        configured.map(|entry| Arc::clone(&entry.member)).collect()
    }

    /// Whether a backend takes connections; `None` if somebody else is about to change that: a thread with real-time
    /// priority must not wait for one without.
    pub fn sees_backend(&self) -> Option<bool> {
        let state = self.state.try_lock().ok()?;
        Some(state.entries.iter().any(|entry| state.takes_connections(entry)))
    }

    /// How every backend is: those configured, in their order, and after them those taken out that still have connections.
    pub fn standings(&self) -> Vec<Standing> {
        let state = self.state();
        let standing = |entry: &Entry| Standing {
            member: Arc::clone(&entry.member),
            status: entry.health.status(),
            since: entry.since,
            reason: entry.reason.clone(),
            checked: entry.checked.clone(),
            connections: entry.active + entry.carried.connections,
            drained: state.drained.contains(&entry.member.backend.name),
            removed: entry.leaving,
        };
        state.entries.iter().map(standing).collect()
    }

    /// Whom an operator has drained.
    pub fn drained(&self) -> Vec<BackendName> {
        self.state().drained.iter().cloned().collect()
    }

    /// What is known of a backend; `None` once it is forgotten.
    pub fn status(&self, id: usize) -> Option<Status> {
        self.state().entry(id).map(|entry| entry.health.status())
    }

    /// A backend for a new connection of `client`, other than those `tried` already.
    pub fn lease(self: &Arc<Self>, tried: &[usize], client: IpAddr) -> Result<Lease, Refusal> {
        let mut state = self.state();
        let chosen = state.choose(tried, client, Instant::now())?;
        let entry = &mut state.entries[chosen];
        entry.active += 1;
        let member = Arc::clone(&entry.member);
        let notice = member.crier.notice();
        drop(state);
        member.metrics.active.inc();
        Ok(Lease { pool: Arc::clone(self), member, notice })
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
        entry.learn(before != after, event, reason);
        let member = Arc::clone(&entry.member);
        if (before == Status::Up) != (after == Status::Up) {
            entry.risen = (before != Status::Unknown).then(Instant::now);
            state.takers_changed();
            self.changed.notify_one();
        }
        let lost = before != after && matches!(after, Status::Down | Status::Dead);
        let ended = state.end_the_dead();
        let settled = state.settled();
        drop(state);
        if event.asks_for_probe() {
            member.probe_wanted.notify_one();
        }
        if before != after {
            self.changes.send_replace(());
            let Backend { name, address, .. } = &member.backend;
            tracing::info!(backend = %name, %address, from = ?before, to = ?after, %reason, "backend changed");
        }
        if settled {
            self.settled.send_replace(true);
        }
        if lost {
            member.crier.say_lost();
            self.ring();
        }
        self.tell(&ended);
        before != after
    }

    /// Takes in that a connection to a backend failed, attempted since `began`; others that were attempted meanwhile and
    /// failed too are no further evidence. A crowd may meet a queue that is full for a moment, or a network that has lost
    /// its words together: that must not weigh as much as failures one after another.
    pub fn connect_failed(&self, id: usize, began: Instant, failure: ConnectFailure) {
        let is_evidence = self.state().entry_mut(id).is_some_and(|entry| entry.blame(began, Instant::now()));
        if is_evidence {
            self.observe(id, Event::ConnectFailed, &format_args!("connect: {}", failure.label()));
        }
    }

    /// The connections that rebalancing may end.
    pub const fn register(&self) -> &Arc<Register> {
        &self.register
    }

    /// The configured backends, as far as rebalancing is concerned.
    pub fn loads(&self) -> Vec<Load> {
        let state = self.state();
        let load = |entry: &Entry| {
            let Backend { name, weight, backup, .. } = &entry.member.backend;
            Load {
                backend: entry.member.id,
                weight: if *backup { 0 } else { *weight },
                connections: entry.active,
                well: entry.is_up() && !entry.health.in_doubt() && !state.drained.contains(name),
            }
        };
        state.entries.iter().filter(|entry| !entry.leaving).map(load).collect()
    }

    /// Ends a connection of a backend for others to take it, unless it has ended already.
    pub fn rebalance(&self, connection: u64, backend: usize) {
        if !self.register.end(connection) {
            return;
        }
        self.ring();
        if let Some(entry) = self.state().entry(backend) {
            entry.member.metrics.ended(EndReason::Rebalanced).inc();
        }
    }

    /// Counts files of health checks that have changed.
    pub fn count_reload(&self, reload: &Reload) {
        self.metrics.tls_reloads(reload).inc();
    }

    /// Whether what was last learned of a backend speaks against what is known of it.
    pub fn in_doubt(&self, id: usize) -> bool {
        self.state().entry(id).is_some_and(|entry| entry.health.in_doubt())
    }

    /// Ends the connections of backends that have taken no new ones for as long as the
    /// [drain deadline](Thresholds::drain) says, until dropped. Dropping it is harmless.
    pub async fn end_overdue(&self) -> Infallible {
        loop {
            let (ended, next) = self.state().end_overdue(Instant::now());
            self.tell(&ended);
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.changed.notified() => {}
            }
        }
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
        if changed {
            let back =
                state.entries.iter_mut().filter(|entry| !drained && entry.member.backend.name == *name);
            back.for_each(|entry| entry.risen = Some(Instant::now()));
        }
        state.takers_changed();
        drop(state);
        self.changed.notify_one();
        self.changes.send_replace(());
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

    /// Changes whenever a backend takes connections that did not, or the other way round, or is known otherwise.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Rings `bell` from now on whenever connections are [told](Lease::told) something, for as long as it is there.
    pub(crate) fn add_bell(&self, bell: &Arc<Bell>) {
        self.bells().push(Arc::downgrade(bell));
    }

    /// How often connections were told something.
    pub(crate) fn times_told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    fn tell(&self, ended: &[Ended]) {
        ended.iter().for_each(Ended::tell);
        if !ended.is_empty() {
            self.ring();
        }
    }

    fn ring(&self) {
        self.told.fetch_add(1, Ordering::Release);
        self.bells().retain(|bell| bell.upgrade().inspect(|bell| bell.ring()).is_some());
    }

    fn forget_the_gone(&self, state: &mut State) {
        let gone = |entry: &mut Entry| entry.leaving && entry.active + entry.carried.connections == 0;
        let gone: Vec<Entry> = state.entries.extract_if(.., gone).collect();
        for Entry { member, .. } in gone {
            let name = &member.backend.name;
            if !state.entries.iter().any(|entry| entry.member.backend.name == *name) {
                self.metrics.forget_backend(name);
            }
        }
    }

    fn bells(&self) -> MutexGuard<'_, Vec<Weak<Bell>>> {
        // Nothing that holds the lock can panic.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
