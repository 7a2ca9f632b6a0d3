//! What the relay's threads and the health checks share: who is eligible, who has how many connections, whose turn it is.
//!
//! One short critical section per connection and per probe, no awaiting inside. It makes round robin exact across
//! threads, and least connections free of two threads choosing the same backend from the same count.
//!
//! Backends come and go by [`Pool::reconfigure`]. Each has a number that no other backend of the pool ever gets: one
//! that was taken out is remembered until its last connection has ended, beside one of the same name that may have taken
//! its place.

mod balance;
mod notice;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::{Backend, BackendName, Backends, Balance, Policy, Reload};
use crate::health::{Event, Health, Status, Thresholds};
use crate::metrics::{BackendMetrics, EndReason, Metrics};
use crate::rebalance::{Load, Register};
use balance::{Candidate, HashTable, fewest_connections, in_turn, share};

pub use notice::Told;

use notice::{Crier, Notice};

/// The backends of one front door, as everybody who serves it sees them.
#[derive(Debug)]
pub struct Pool {
    metrics: Metrics,
    state: Mutex<State>,
    settled: watch::Sender<bool>,
    /// Somebody takes connections who did not, or the other way round.
    changed: Notify,
    register: Register,
    /// Marked when connections are told to end.
    ends: watch::Sender<()>,
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

#[derive(Debug)]
struct State {
    balance: Balance,
    thresholds: Thresholds,
    /// Who was chosen last, by position.
    last: usize,
    next_id: usize,
    /// Those configured, in their order, and after them those taken out that still have connections.
    entries: Vec<Entry>,
    /// Who has which client, by position among those configured.
    table: HashTable,
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
    /// See [`Candidate::credit`].
    credit: i64,
    /// Since when it takes connections again, where it had stopped to.
    risen: Option<Instant>,
    /// Since when it takes no connections; `None` while it does.
    closed: Option<Instant>,
    /// Its connections have been told to end, and no new ones have come since.
    ended: bool,
    /// Since when its status is what it is, and why.
    since: Instant,
    reason: String,
    checked: Option<LastCheck>,
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
    /// Connections that it has now, those being established included.
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

/// Why there is no backend for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None is up, or could be connected to.
    Down,
    /// Those that are up have as many connections as they may have.
    Full,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Down, Self::Full];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Full => "full",
        }
    }
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
            register: Register::new(),
            ends: watch::Sender::new(()),
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
            connections: entry.active,
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
        if before != after && matches!(after, Status::Down | Status::Dead) {
            member.crier.say_lost();
        }
        let ended = state.end_the_dead();
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
        self.tell(&ended);
        before != after
    }

    /// The connections that rebalancing may end.
    pub const fn register(&self) -> &Register {
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

    /// Counts a connection of a backend that was ended for others to take it.
    pub fn count_rebalanced(&self, id: usize) {
        if let Some(entry) = self.state().entry(id) {
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

    /// Changes whenever connections are told to end.
    pub fn ends(&self) -> watch::Receiver<()> {
        self.ends.subscribe()
    }

    fn tell(&self, ended: &[Ended]) {
        ended.iter().for_each(Ended::tell);
        if !ended.is_empty() {
            self.ends.send_replace(());
        }
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
    /// A backup that is up is not enough while another backend may turn out to be.
    fn settled(&self) -> bool {
        let serves = |entry: &Entry| self.takes_connections(entry) && !entry.member.backend.backup;
        let is_known = |entry: &Entry| entry.health.status() != Status::Unknown;
        self.entries.iter().any(serves) || self.entries.iter().all(is_known)
    }

    /// The position of the backend for a new connection.
    fn choose(&mut self, tried: &[usize], client: IpAddr, now: Instant) -> Result<usize, Refusal> {
        let willing = |entry: &Entry| self.takes_connections(entry) && !tried.contains(&entry.member.id);
        let backup = !self.entries.iter().any(|entry| willing(entry) && !entry.member.backend.backup);
        let (mut refusal, mut candidates) = (Refusal::Down, Vec::new());
        let asked = |entry: &Entry| willing(entry) && entry.member.backend.backup == backup;
        for (position, entry) in self.entries.iter().enumerate().filter(|(_, entry)| asked(entry)) {
            if entry.is_full() {
                refusal = Refusal::Full;
            } else {
                candidates.push(entry.candidate(position, self.balance, now));
            }
        }
        let chosen = match self.balance.policy {
            Policy::RoundRobin => in_turn(&mut candidates, self.last),
            Policy::LeastConnections => fewest_connections(&mut candidates, self.last),
            Policy::SourceHash => self.table.choose(&candidates, client),
        };
        for Candidate { backend, credit, .. } in candidates {
            self.entries[backend].credit = credit;
        }
        self.last = chosen.ok_or(refusal)?;
        Ok(self.last)
    }

    fn takes_connections(&self, entry: &Entry) -> bool {
        let Backend { name, weight, .. } = &entry.member.backend;
        entry.is_up() && *weight > 0 && !self.drained.contains(name)
    }

    /// Notes and shows who takes connections, and lets turns begin anew. One that was taken out may share its name with
    /// one that takes connections.
    fn takers_changed(&mut self) {
        let open: Vec<bool> = self.entries.iter().map(|entry| self.takes_connections(entry)).collect();
        for (entry, open) in self.entries.iter_mut().zip(open) {
            entry.credit = 0;
            if open {
                (entry.closed, entry.ended) = (None, false);
            } else {
                entry.closed.get_or_insert_with(Instant::now);
            }
        }
        let (up, others): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|entry| self.takes_connections(entry));
        for (value, entries) in [(0, others), (1, up)] {
            for entry in entries {
                entry.member.metrics.up.set(value);
            }
        }
    }

    /// Ends the connections of the dead: who uses them would find out only after many seconds. Not where nobody else is
    /// up: nothing is won by connecting anew then, and it may well be this node that has lost its network.
    fn end_the_dead(&mut self) -> Vec<Ended> {
        if !self.entries.iter().any(|entry| self.takes_connections(entry)) {
            return Vec::new();
        }
        let dead = |entry: &&mut Entry| entry.health.status() == Status::Dead && !entry.ended;
        self.entries.iter_mut().filter(dead).map(|entry| entry.end(EndReason::Killed)).collect()
    }

    /// Ends the connections of whoever takes no new ones for too long; also when to look again.
    fn end_overdue(&mut self, now: Instant) -> (Vec<Ended>, Option<Instant>) {
        let Some(deadline) = self.thresholds.drain else { return (Vec::new(), None) };
        let (mut ended, mut next) = (Vec::new(), None);
        for entry in self.entries.iter_mut().filter(|entry| !entry.ended) {
            match entry.closed.map(|closed| closed + deadline) {
                Some(due) if due <= now => ended.push(entry.end(EndReason::Drained)),
                Some(due) => next = Some(next.map_or(due, |next: Instant| next.min(due))),
                None => {}
            }
        }
        (ended, next)
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
        Self {
            member,
            health: Health::default(),
            active: 0,
            leaving: false,
            credit: 0,
            risen: None,
            closed: None,
            ended: false,
            since: Instant::now(),
            reason: String::new(),
            checked: None,
        }
    }

    /// Remembers what an operator may ask for.
    fn learn(&mut self, changed: bool, event: Event, reason: &dyn Display) {
        let now = Instant::now();
        if changed {
            (self.since, self.reason) = (now, reason.to_string());
        }
        if event != Event::ConnectFailed {
            self.checked = Some(LastCheck { result: reason.to_string(), at: now });
        }
    }

    fn is_for(&self, backend: &Backend) -> bool {
        self.member.backend.name == backend.name && self.member.backend.address == backend.address
    }

    fn is_up(&self) -> bool {
        self.health.status() == Status::Up && !self.leaving
    }

    fn is_full(&self) -> bool {
        let most = self.member.backend.max_connections;
        most.is_some_and(|most| usize::try_from(most.get()).is_ok_and(|most| self.active >= most))
    }

    fn candidate(&self, position: usize, balance: Balance, now: Instant) -> Candidate {
        let risen = self.risen.map(|risen| now.saturating_duration_since(risen));
        let share = share(self.member.backend.weight, risen, balance.slow_start);
        Candidate { backend: position, active: self.active, share, credit: self.credit }
    }

    /// The same backend under its present configuration. One that comes back was not probed in the meantime.
    fn keeping(self, backend: &Backend) -> Self {
        let (health, since, reason) = if self.leaving {
            (Health::default(), Instant::now(), String::new())
        } else {
            (self.health, self.since, self.reason)
        };
        let member = if self.member.backend == *backend {
            self.member
        } else {
            let Member { id, metrics, crier, .. } = &*self.member;
            let (id, metrics, crier) = (*id, metrics.clone(), Arc::clone(crier));
            Arc::new(Member { id, backend: backend.clone(), metrics, probe_wanted: Notify::new(), crier })
        };
        Self { member, health, since, reason, leaving: false, ..self }
    }

    fn leaving(self) -> Self {
        Self { leaving: true, ..self }
    }

    fn end(&mut self, reason: EndReason) -> Ended {
        self.ended = true;
        self.member.crier.say_ended();
        Ended { member: Arc::clone(&self.member), connections: self.active, reason }
    }
}

/// Connections that were told to end.
struct Ended {
    member: Arc<Member>,
    connections: usize,
    reason: EndReason,
}

impl Ended {
    fn tell(&self) {
        let Self { member, connections, reason } = self;
        if *connections > 0 {
            member.metrics.ended(*reason).inc_by(*connections as u64);
            let (backend, reason) = (&member.backend.name, reason.label());
            tracing::info!(%backend, connections, reason, "connections ended");
        }
    }
}

/// One connection's place at a backend, from the choice of the backend to the end of the connection.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    member: Arc<Member>,
    notice: Notice,
}

impl Lease {
    /// Which backend.
    pub const fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Waits for news of the backend that concern this connection. Cancelling it loses nothing.
    pub async fn told(&mut self) -> Told {
        self.notice.next().await
    }

    /// Whether this connection has to end.
    pub fn has_to_end(&self) -> bool {
        self.notice.is_end()
    }

    /// Waits until this connection has to end. Cancelling it loses nothing.
    pub async fn ended(&mut self) {
        while self.told().await != Told::Ended {}
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
mod tests;
