//! The connections that could be ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Connection, Load, Plan, plan};
use crate::config::Rebalance;

/// Connections in the order of their beginning; none while rebalancing is off, so that they cost nothing.
#[derive(Debug)]
pub struct Register {
    settings: watch::Sender<Rebalance>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    list: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    backend: usize,
    signs: Arc<Signs>,
    /// The bytes that it had carried when it was last looked at.
    carried: u64,
    /// When they were found to have become more.
    stirred: Instant,
}

/// What a connection and the register tell each other.
#[derive(Debug, Default)]
struct Signs {
    carried: AtomicU64,
    end: AtomicBool,
}

/// One connection's place in the register, left when it is dropped.
#[derive(Debug)]
pub struct Seat {
    register: Arc<Register>,
    id: u64,
    signs: Arc<Signs>,
}

impl Seat {
    /// Where the connection counts the bytes that it carries.
    pub fn carried(&self) -> &AtomicU64 {
        &self.signs.carried
    }

    /// Whether the connection is to end.
    pub fn has_to_end(&self) -> bool {
        self.signs.end.load(Ordering::Acquire)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.register.entries().list.remove(&self.id);
    }
}

impl Register {
    pub(crate) fn new() -> Self {
        Self { settings: watch::Sender::new(Rebalance::OFF), entries: Mutex::default() }
    }

    /// From now on it is done so. Connections that began while it was off are left alone.
    pub fn configure(&self, settings: Rebalance) {
        self.settings.send_if_modified(|former| std::mem::replace(former, settings) != settings);
    }

    pub(super) fn settings(&self) -> watch::Receiver<Rebalance> {
        self.settings.subscribe()
    }

    /// Takes in a connection that begins; `None` while rebalancing is off.
    pub fn enter(self: &Arc<Self>, backend: usize) -> Option<Seat> {
        self.settings.borrow().per_minute?;
        let signs = Arc::<Signs>::default();
        let entry = Entry { backend, signs: Arc::clone(&signs), carried: 0, stirred: Instant::now() };
        let mut entries = self.entries();
        let id = entries.next;
        entries.next += 1;
        entries.list.insert(id, entry);
        drop(entries);
        Some(Seat { register: Arc::clone(self), id, signs })
    }

    pub(super) fn plan(&self, loads: &[Load], idle: Duration, now: Instant) -> Plan {
        let mut entries = self.entries();
        for entry in entries.list.values_mut() {
            let carried = entry.signs.carried.load(Ordering::Relaxed);
            if carried != entry.carried {
                (entry.carried, entry.stirred) = (carried, now);
            }
        }
        let connections = entries.list.iter().map(|(&id, entry)| Connection {
            id,
            backend: entry.backend,
            idle: now.saturating_duration_since(entry.stirred),
        });
        plan(loads, connections, idle)
    }

    /// Tells a connection to end; false where it has ended already.
    pub(crate) fn end(&self, id: u64) -> bool {
        let entries = self.entries();
        let entry = entries.list.get(&id);
        entry.inspect(|entry| entry.signs.end.store(true, Ordering::Release)).is_some()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // No code that holds the lock leaves them half-changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const IDLE: Duration = Duration::from_secs(5);
    const ON: Rebalance = Rebalance { per_minute: NonZeroU32::new(60), dry_run: false, idle: IDLE };

    /// Whom it would end of the first backend, which has ten connections while the other has none.
    fn chosen(register: &Register, now: Instant) -> Option<u64> {
        let loads = [(0, 10), (1, 0)];
        let loads = loads.map(|(backend, connections)| Load { backend, weight: 1, connections, well: true });
        match register.plan(&loads, IDLE, now) {
            Plan::Skewed { end, .. } => end,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connections_are_idle_once_they_have_carried_nothing_for_a_while() {
        let register = Arc::new(Register::new());
        assert!(register.enter(0).is_none(), "off");
        register.configure(ON);
        let start = Instant::now();
        let seats = [0, 1, 0].map(|backend| register.enter(backend).unwrap());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(chosen(&register, later(4)), None, "too young");
        seats[0].carried().fetch_add(1, Ordering::Relaxed);
        assert_eq!(chosen(&register, later(6)), Some(2), "the first has just been busy");
        assert_eq!(chosen(&register, later(12)), Some(0), "it is older");
        let [first, _, third] = seats;
        drop(first);
        assert_eq!(chosen(&register, later(12)), Some(2));
        drop(third);
        assert_eq!(chosen(&register, later(12)), None);
        assert!(!register.end(0), "it has gone");
    }

    #[test]
    fn only_who_is_told_to_end_has_to() {
        let register = Arc::new(Register::new());
        register.configure(ON);
        let seats = [0, 0].map(|backend| register.enter(backend).unwrap());
        assert!(register.end(0));
        assert_eq!(seats.map(|seat| seat.has_to_end()), [true, false]);
    }
}
