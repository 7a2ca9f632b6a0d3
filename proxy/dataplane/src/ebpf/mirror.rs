//! What the maps hold, remembered, so that a change costs the same however much they hold. Pure.

use std::collections::BTreeMap;

use ebpf_abi::{BackendId, Service, ServiceId, ServiceKey, SlotKey};
use plan::{Backend, Change, Frontend, Observed, ObservedBackend, ObservedService};

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
        match *change {
            Change::AddService { frontend } => self.add_service(frontend),
            Change::AddBackend { frontend, backend } => self.add_backend(frontend, backend),
            // Connections do not pass through here, so there are none to wait for.
            Change::RemoveBackend { frontend, backend } | Change::DrainBackend { frontend, backend } => {
                Some(self.remove_backend(frontend, backend))
            }
            Change::RemoveService { frontend } => Some(self.remove_service(frontend)),
        }
    }

    /// Remembers that `change` was carried out.
    pub(super) fn advance(&mut self, change: &Change) {
        match *change {
            Change::AddService { frontend } => {
                if !self.services.contains_key(&frontend) {
                    let id = ServiceId(self.identifiers.take());
                    self.services.insert(frontend, Entry::new(id));
                }
            }
            Change::AddBackend { frontend, backend } => {
                if let Some(entry) = self.services.get_mut(&frontend)
                    && !entry.places.contains_key(&backend)
                {
                    entry.push(BackendId(self.identifiers.take()), backend);
                }
            }
            Change::RemoveBackend { frontend, backend } | Change::DrainBackend { frontend, backend } => {
                if let Some(entry) = self.services.get_mut(&frontend) {
                    entry.remove(backend);
                }
            }
            Change::RemoveService { frontend } => {
                self.services.remove(&frontend);
            }
        }
    }

    /// The same in the words of the plan.
    pub(super) fn observed(&self) -> Observed {
        let services = self.services.iter().map(|(frontend, entry)| {
            let backends = entry.places.keys().map(|backend| (*backend, ObservedBackend::default()));
            (*frontend, ObservedService { backends: backends.collect() })
        });
        Observed { services: services.collect() }
    }

    fn add_service(&self, frontend: Frontend) -> Option<Vec<Write>> {
        if self.services.contains_key(&frontend) {
            return Some(Vec::new());
        }
        let (reserve, id) = self.identifiers.peek()?;
        let id = ServiceId(id);
        let service = Service { id, slots: 0 };
        let writes = [Write::PutTurn(id), Write::PutService(encode::service_key(frontend), service)];
        Some(reserve.into_iter().chain(writes).collect())
    }

    fn add_backend(&self, frontend: Frontend, backend: Backend) -> Option<Vec<Write>> {
        let Some(entry) = self.services.get(&frontend) else { return Some(Vec::new()) };
        if entry.places.contains_key(&backend) {
            return Some(Vec::new());
        }
        let (reserve, id) = self.identifiers.peek()?;
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
        Write::PutService(key, Service { id: self.id, slots })
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

    /// The next one, and what must be written before it is used.
    fn peek(self) -> Option<(Option<Write>, u32)> {
        if self.next < self.reserved {
            return Some((None, self.next));
        }
        let reserved = self.next.checked_add(BATCH)?;
        Some((Some(Write::Reserve(reserved)), self.next))
    }

    fn take(&mut self) -> u32 {
        let taken = self.next;
        self.next += 1;
        if self.reserved < self.next {
            self.reserved = taken + BATCH;
        }
        taken
    }
}

impl Default for Identifiers {
    fn default() -> Self {
        Self::from(1)
    }
}

#[cfg(test)]
mod tests;
