//! What is known of all backends, behind one lock; and who is next. Nothing here waits, counts or logs but [`Ended::tell`].

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::balance::{Candidate, HashTable, fewest_connections, in_turn, share};
use super::{Carried, LastCheck, Member};
use crate::config::{Backend, BackendName, Balance, Policy};
use crate::health::{Event, Health, Status, Thresholds};
use crate::metrics::{EndReason, Refusal};

#[derive(Debug)]
pub(super) struct State {
    pub(super) balance: Balance,
    pub(super) thresholds: Thresholds,
    /// Who was chosen last, by position.
    pub(super) last: usize,
    pub(super) next_id: usize,
    /// Those configured, in their order, and after them those taken out that still have connections.
    pub(super) entries: Vec<Entry>,
    /// Who has which client, by position among those configured.
    pub(super) table: HashTable,
    /// Who takes no new connections because an operator says so; kept by name, whatever is configured.
    pub(super) drained: BTreeSet<BackendName>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) member: Arc<Member>,
    pub(super) health: Health,
    /// When a failed connect last counted against it.
    pub(super) blamed: Option<Instant>,
    pub(super) active: usize,
    pub(super) carried: Carried,
    /// Taken out of the configuration.
    pub(super) leaving: bool,
    /// See [`Candidate::credit`].
    pub(super) credit: i64,
    /// Since when it takes connections again, where it had stopped to.
    pub(super) risen: Option<Instant>,
    /// Since when it takes no connections; `None` while it does.
    pub(super) closed: Option<Instant>,
    /// Its connections have been told to end, and no new ones have come since.
    pub(super) ended: bool,
    /// Since when its status is what it is, and why.
    pub(super) since: Instant,
    pub(super) reason: String,
    pub(super) checked: Option<LastCheck>,
}

impl State {
    /// A backup that is up is not enough while another backend may turn out to be.
    pub(super) fn settled(&self) -> bool {
        let serves = |entry: &Entry| self.takes_connections(entry) && !entry.member.backend.backup;
        let is_known = |entry: &Entry| entry.health.status() != Status::Unknown;
        self.entries.iter().any(serves) || self.entries.iter().all(is_known)
    }

    /// The position of the backend for a new connection.
    pub(super) fn choose(&mut self, tried: &[usize], client: IpAddr, now: Instant) -> Result<usize, Refusal> {
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

    pub(super) fn takes_connections(&self, entry: &Entry) -> bool {
        let Backend { name, weight, .. } = &entry.member.backend;
        entry.is_up() && *weight > 0 && !self.drained.contains(name)
    }

    /// Notes and shows who takes connections, and lets turns begin anew. One that was taken out may share its name with
    /// one that takes connections.
    pub(super) fn takers_changed(&mut self) {
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
    pub(super) fn end_the_dead(&mut self) -> Vec<Ended> {
        if !self.entries.iter().any(|entry| self.takes_connections(entry)) {
            return Vec::new();
        }
        let dead = |entry: &&mut Entry| entry.health.status() == Status::Dead && !entry.ended;
        self.entries.iter_mut().filter(dead).map(|entry| entry.end(EndReason::Killed)).collect()
    }

    /// Ends the connections of whoever takes no new ones for too long; also when to look again.
    pub(super) fn end_overdue(&mut self, now: Instant) -> (Vec<Ended>, Option<Instant>) {
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

    pub(super) fn next_id(&mut self) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(super) fn entry(&self, id: usize) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.member.id == id)
    }

    pub(super) fn entry_mut(&mut self, id: usize) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.member.id == id)
    }
}

impl Entry {
    pub(super) fn new(member: Arc<Member>) -> Self {
        Self {
            member,
            health: Health::default(),
            blamed: None,
            active: 0,
            carried: Carried::default(),
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
    pub(super) fn learn(&mut self, changed: bool, event: Event, reason: &dyn Display) {
        let now = Instant::now();
        if changed {
            (self.since, self.reason) = (now, reason.to_string());
        }
        if event != Event::ConnectFailed {
            self.checked = Some(LastCheck { result: reason.to_string(), at: now });
        }
    }

    /// Whether a connect that began then and fails now counts against it.
    pub(super) fn blame(&mut self, began: Instant, now: Instant) -> bool {
        let is_evidence = self.blamed.is_none_or(|blamed| blamed <= began);
        if is_evidence {
            self.blamed = Some(now);
        }
        is_evidence
    }

    pub(super) fn is_for(&self, backend: &Backend) -> bool {
        self.member.backend.name == backend.name && self.member.backend.address == backend.address
    }

    pub(super) fn is_up(&self) -> bool {
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
    pub(super) fn keeping(self, backend: &Backend) -> Self {
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

    pub(super) fn leaving(self) -> Self {
        Self { leaving: true, ..self }
    }

    fn end(&mut self, reason: EndReason) -> Ended {
        self.ended = true;
        self.member.crier.say_ended();
        Ended { member: Arc::clone(&self.member), connections: self.active, reason }
    }
}

/// Connections that were told to end.
pub(super) struct Ended {
    member: Arc<Member>,
    connections: usize,
    reason: EndReason,
}

impl Ended {
    pub(super) fn tell(&self) {
        let Self { member, connections, reason } = self;
        if *connections > 0 {
            member.metrics.ended(*reason).inc_by(*connections as u64);
            let (backend, reason) = (&member.backend.name, reason.label());
            tracing::info!(%backend, connections, reason, "connections ended");
        }
    }
}
