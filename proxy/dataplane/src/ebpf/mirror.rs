//! What the maps hold, remembered, so that a change costs the same however much they hold. Pure.

use std::collections::BTreeMap;

use ebpf_abi::{BackendId, Service, ServiceId, ServiceKey, SlotKey};
use plan::{Backend, Change, Frontend, Observed, ObservedBackend, ObservedService, Rules};

use super::encode;
use super::write::Write;

/// The services in the maps and the identifiers that are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirror {
    services: BTreeMap<Frontend, Entry>,
    identifiers: Identifiers,
}

/// One service in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    id: ServiceId,
    /// Who holds each slot.
    slots: Vec<(BackendId, Backend)>,
    /// In which slot a backend is.
    places: BTreeMap<Backend, u32>,
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
            // The rules that are supported are kept nowhere.
            Change::SetRules { .. } => Some(Vec::new()),
            Change::AddBackend { frontend, backend } => self.add_backend(*frontend, *backend),
            // Connections do not pass through here, so there are none to wait for.
            Change::RemoveBackend { frontend, backend } | Change::DrainBackend { frontend, backend } => {
                Some(self.remove_backend(*frontend, *backend))
            }
            Change::RemoveService { frontend } => Some(self.remove_service(*frontend)),
        }
    }

    /// Remembers that `change` was carried out.
    pub(super) fn advance(&mut self, change: &Change) {
        match change {
            Change::AddService { frontend, service } => {
                if !self.services.contains_key(frontend) {
                    let id = self.identifiers.take(identifiers_of(service));
                    self.services.insert(*frontend, Entry::with(id, service));
                }
            }
            Change::SetRules { .. } => {}
            Change::AddBackend { frontend, backend } => {
                if let Some(entry) = self.services.get_mut(frontend)
                    && !entry.places.contains_key(backend)
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
        let services = self.services.iter().map(|(frontend, entry)| {
            let backends = entry.places.keys().map(|backend| (*backend, ObservedBackend::default()));
            (*frontend, ObservedService { rules: Rules::default(), backends: backends.collect() })
        });
        Observed { services: services.collect() }
    }

    /// The service last: it appears with all it has.
    fn add_service(&self, frontend: Frontend, service: &plan::Service) -> Option<Vec<Write>> {
        if self.services.contains_key(&frontend) {
            return Some(Vec::new());
        }
        let (reserve, id) = self.identifiers.peek(identifiers_of(service))?;
        let entry = Entry::with(id, service);
        let mut writes = Vec::from_iter(reserve);
        writes.push(Write::PutTurn(entry.id));
        for ((slot, id), (_, backend)) in entry.holders().zip(&entry.slots) {
            writes.push(Write::PutBackend(id, encode::backend(*backend, entry.id)));
            writes.push(Write::PutSlot(slot, id));
        }
        writes.push(entry.resize(frontend, entry.count()));
        Some(writes)
    }

    fn add_backend(&self, frontend: Frontend, backend: Backend) -> Option<Vec<Write>> {
        let Some(entry) = self.services.get(&frontend) else { return Some(Vec::new()) };
        if entry.places.contains_key(&backend) {
            return Some(Vec::new());
        }
        let (reserve, id) = self.identifiers.peek(1)?;
        let (id, slots) = (BackendId(id), entry.count());
        let writes = [
            Write::PutBackend(id, encode::backend(backend, entry.id)),
            Write::PutSlot(SlotKey { service: entry.id, slot: slots }, id),
            entry.resize(frontend, slots + 1),
        ];
        Some(reserve.into_iter().chain(writes).collect())
    }

    /// The last backend takes the place of the one that leaves, so that the slots stay without gaps. Every slot below
    /// the count holds a backend that lives, at any moment.
    fn remove_backend(&self, frontend: Frontend, backend: Backend) -> Vec<Write> {
        let Some(entry) = self.services.get(&frontend) else { return Vec::new() };
        let (Some(&slot), Some(&(last, _))) = (entry.places.get(&backend), entry.slots.last()) else {
            return Vec::new();
        };
        let Some(&(id, _)) = entry.slots.get(slot as usize) else { return Vec::new() };
        let last_slot = entry.count() - 1;
        let moved = (slot != last_slot).then_some(Write::PutSlot(SlotKey { service: entry.id, slot }, last));
        let writes = [
            entry.resize(frontend, last_slot),
            Write::DropSlot(SlotKey { service: entry.id, slot: last_slot }),
            Write::DropBackend(id),
        ];
        moved.into_iter().chain(writes).collect()
    }

    /// The service first: from then on nobody looks for the rest.
    fn remove_service(&self, frontend: Frontend) -> Vec<Write> {
        let Some(entry) = self.services.get(&frontend) else { return Vec::new() };
        let slots = (0..).zip(&entry.slots).flat_map(|(slot, (id, _))| {
            [Write::DropSlot(SlotKey { service: entry.id, slot }), Write::DropBackend(*id)]
        });
        std::iter::once(Write::DropService(encode::service_key(frontend)))
            .chain(slots)
            .chain([Write::DropTurn(entry.id)])
            .collect()
    }
}

impl Entry {
    pub(super) fn new(id: ServiceId) -> Self {
        Self { id, slots: Vec::new(), places: BTreeMap::new() }
    }

    /// A service with these identifiers: its own first, then those of its backends.
    fn with(first: u32, service: &plan::Service) -> Self {
        let mut entry = Self::new(ServiceId(first));
        for (id, backend) in (first + 1..).zip(&service.backends) {
            entry.push(BackendId(id), *backend);
        }
        entry
    }

    /// How many backends there are. Far from overflow: the maps hold fewer.
    #[expect(clippy::cast_possible_truncation, reason = "a map holds at most u32::MAX entries")]
    pub(super) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn push(&mut self, id: BackendId, backend: Backend) {
        self.places.insert(backend, self.count());
        self.slots.push((id, backend));
    }

    pub(super) fn contains(&self, backend: Backend) -> bool {
        self.places.contains_key(&backend)
    }

    /// Who holds each slot, by slot.
    pub(super) fn holders(&self) -> impl Iterator<Item = (SlotKey, BackendId)> {
        (0..).zip(&self.slots).map(|(slot, (id, _))| (SlotKey { service: self.id, slot }, *id))
    }

    /// Makes the service `slots` wide.
    pub(super) fn resize(&self, frontend: Frontend, slots: u32) -> Write {
        let key: ServiceKey = encode::service_key(frontend);
        Write::PutService(key, Service { id: self.id, slots, rules: ebpf_abi::Rules::default() })
    }

    fn remove(&mut self, backend: Backend) {
        if let Some(slot) = self.places.remove(&backend) {
            self.slots.swap_remove(slot as usize);
            if let Some((_, moved)) = self.slots.get(slot as usize) {
                self.places.insert(*moved, slot);
            }
        }
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
