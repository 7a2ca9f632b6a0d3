//! What the maps hold, remembered, so that a change costs the same however much they hold. Pure.

mod entry;

use std::collections::{BTreeMap, BTreeSet};

use ebpf_abi::BackendId;
use plan::{Backend, Change, Frontend, Observed};

pub(super) use self::entry::Entry;
use super::encode;
use super::write::Write;

/// The services in the maps and the identifiers that are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirror {
    services: BTreeMap<Frontend, Entry>,
    identifiers: Identifiers,
}

/// Identifiers of services and backends: one sequence for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identifiers {
    /// The next to give out; never 0.
    next: u32,
    /// The first one that the kernel does not know to be taken.
    reserved: u32,
}

/// So many identifiers are reserved by one write.
const BATCH: u32 = 1024;

impl Mirror {
    pub(super) fn new(services: BTreeMap<Frontend, Entry>, identifiers: Identifiers) -> Self {
        Self { services, identifiers }
    }

    /// The writes that carry out `change`, in an order that leaves every service with a backend at any moment if it has
    /// one before and after. What is there already takes none. `None` when no identifier is left.
    pub(super) fn writes(&self, change: &Change) -> Option<Vec<Write>> {
        match change {
            Change::AddService { frontend, service } => self.add_service(*frontend, service),
            Change::SetRules { frontend, rules } => {
                let mut writes = self.of(*frontend, |entry| entry.change_rules(rules));
                match (self.services.get(frontend).map(Entry::is_exclusive), rules.exclusive) {
                    (Some(false), true) => writes.extend(self.keep_address(*frontend)),
                    (Some(true), false) => writes.extend(self.release_address(*frontend)),
                    (Some(false), false) | (Some(true), true) | (None, _) => {}
                }
                Some(writes)
            }
            Change::AddBackend { frontend, backend, .. } => self.add_backend(*frontend, *backend),
            // Connections do not pass through here, so there are none to wait for.
            Change::RemoveBackend { frontend, backend } | Change::DrainBackend { frontend, backend } => {
                Some(self.of(*frontend, |entry| entry.drop_backend(*backend)))
            }
            Change::RemoveService { frontend } => {
                let is_exclusive = self.services.get(frontend).is_some_and(Entry::is_exclusive);
                let released = is_exclusive.then(|| self.release_address(*frontend)).flatten();
                Some(released.into_iter().chain(self.of(*frontend, Entry::drop)).collect())
            }
        }
    }

    /// Remembers that `change` was carried out.
    pub(super) fn advance(&mut self, change: &Change) {
        match change {
            Change::AddService { frontend, service } => {
                if !self.services.contains_key(frontend) {
                    let id = self.identifiers.take(identifiers_of(service));
                    self.services.insert(*frontend, Entry::with(*frontend, id, service));
                }
            }
            Change::SetRules { frontend, rules } => {
                if let Some(entry) = self.services.get_mut(frontend) {
                    entry.set_rules(rules.clone());
                }
            }
            Change::AddBackend { frontend, backend, .. } => {
                if let Some(entry) = self.services.get_mut(frontend)
                    && !entry.contains(*backend)
                {
                    entry.push(BackendId(self.identifiers.take(1)), *backend);
                }
            }
            Change::RemoveBackend { frontend, backend } | Change::DrainBackend { frontend, backend } => {
                if let Some(entry) = self.services.get_mut(frontend) {
                    entry.remove(*backend);
                }
            }
            Change::RemoveService { frontend } => {
                self.services.remove(frontend);
            }
        }
    }

    /// The same in the words of the plan.
    pub(super) fn observed(&self) -> Observed {
        let services = self.services.iter().map(|(frontend, entry)| (*frontend, entry.observed()));
        Observed { services: services.collect() }
    }

    /// What writes all of it into empty maps.
    pub(super) fn image(&self) -> impl Iterator<Item = Write> {
        let exclusive = self.services.iter().filter(|(_, entry)| entry.is_exclusive());
        let addresses: BTreeSet<_> = exclusive.map(|(frontend, _)| frontend.address()).collect();
        let kept = addresses.into_iter().map(|address| Write::PutExclusive(encode::address(address)));
        self.services.values().flat_map(Entry::put).chain(kept)
    }

    fn add_service(&self, frontend: Frontend, service: &plan::Service) -> Option<Vec<Write>> {
        if self.services.contains_key(&frontend) {
            return Some(Vec::new());
        }
        let (reserve, id) = self.identifiers.peek(identifiers_of(service))?;
        let mut writes: Vec<Write> =
            reserve.into_iter().chain(Entry::with(frontend, id, service).put()).collect();
        writes.extend(service.rules.exclusive.then(|| self.keep_address(frontend)).flatten());
        Some(writes)
    }

    /// Keeps the address to services alone, unless another of its services does so already.
    fn keep_address(&self, frontend: Frontend) -> Option<Write> {
        let address = encode::address(frontend.address());
        (!self.is_kept_by_another(frontend)).then_some(Write::PutExclusive(address))
    }

    fn release_address(&self, frontend: Frontend) -> Option<Write> {
        self.keep_address(frontend)?.taken_back()
    }

    fn is_kept_by_another(&self, frontend: Frontend) -> bool {
        let mut others = self.services.range(Frontend::all_at(frontend.address()));
        others.any(|(other, entry)| *other != frontend && entry.is_exclusive())
    }

    fn add_backend(&self, frontend: Frontend, backend: Backend) -> Option<Vec<Write>> {
        let Some(entry) = self.services.get(&frontend).filter(|entry| !entry.contains(backend)) else {
            return Some(Vec::new());
        };
        let (reserve, id) = self.identifiers.peek(1)?;
        Some(reserve.into_iter().chain(entry.put_backend(BackendId(id), backend)).collect())
    }

    fn of(&self, frontend: Frontend, writes: impl FnOnce(&Entry) -> Vec<Write>) -> Vec<Write> {
        self.services.get(&frontend).map(writes).unwrap_or_default()
    }
}

impl Identifiers {
    /// Continues from `next`, of which the kernel does not know yet.
    pub(super) const fn from(next: u32) -> Self {
        Self { next, reserved: next }
    }

    /// The first of the next `count`, and what must be written before they are used.
    fn peek(self, count: u32) -> Option<(Option<Write>, u32)> {
        if self.next.checked_add(count)? <= self.reserved {
            return Some((None, self.next));
        }
        let reserved = self.next.checked_add(count.max(BATCH))?;
        Some((Some(Write::Reserve(reserved)), self.next))
    }

    fn take(&mut self, count: u32) -> u32 {
        let taken = self.next;
        self.next += count;
        if self.reserved < self.next {
            self.reserved = taken + count.max(BATCH);
        }
        taken
    }
}

/// How many identifiers a new service takes. Far from overflow: the maps hold fewer.
#[expect(clippy::cast_possible_truncation, reason = "a map holds at most u32::MAX entries")]
fn identifiers_of(service: &plan::Service) -> u32 {
    service.backends.len() as u32 + 1
}

impl Default for Identifiers {
    fn default() -> Self {
        Self::from(1)
    }
}

#[cfg(test)]
mod tests;
