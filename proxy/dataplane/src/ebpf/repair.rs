//! What was found in the maps, and what must be written so that it is whole. Pure.
//!
//! A process may be killed between any two writes of a change. What it leaves is a service that works, with entries
//! beside it that nobody will look for, or with one backend in two slots.

use std::collections::{BTreeMap, BTreeSet};

use ebpf_abi::{Backend, BackendId, NO_SERVICE, Service, ServiceId, ServiceKey, SlotKey, Turn};

use super::encode;
use super::mirror::{Entry, Identifiers, Mirror};
use super::write::Write;

/// The content of the maps that the dataplane writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) slots: BTreeMap<SlotKey, BackendId>,
    pub(super) backends: BTreeMap<BackendId, Backend>,
    pub(super) turns: BTreeMap<ServiceId, Turn>,
}

/// The services found, and the writes that make the maps hold them and nothing else.
pub(super) fn repair(found: &Found) -> (Mirror, Vec<Write>) {
    let mut services = BTreeMap::new();
    let mut turns = BTreeSet::from([NO_SERVICE]);
    let mut slots = BTreeSet::new();
    let mut backends = BTreeSet::new();
    let mut writes = Vec::new();
    for (key, service) in &found.services {
        // Not written by us: no frontend has such a key, and no two services share an identifier.
        let Some(frontend) = encode::frontend(key).filter(|_| turns.insert(service.id)) else {
            writes.push(Write::DropService(*key));
            continue;
        };
        let entry = members(found, *service);
        if !found.turns.contains_key(&service.id) {
            writes.push(Write::PutTurn(service.id));
        }
        let moved = entry.holders().filter(|(key, id)| found.slots.get(key) != Some(id));
        writes.extend(moved.map(|(key, id)| Write::PutSlot(key, id)));
        if entry.count() != service.slots {
            writes.push(entry.resize(frontend, entry.count()));
        }
        for (slot, id) in entry.holders() {
            slots.insert(slot);
            backends.insert(id);
        }
        services.insert(frontend, entry);
    }
    writes.extend(found.slots.keys().filter(|key| !slots.contains(key)).map(|key| Write::DropSlot(*key)));
    writes
        .extend(found.backends.keys().filter(|id| !backends.contains(id)).map(|id| Write::DropBackend(*id)));
    writes.extend(found.turns.keys().filter(|id| !turns.contains(id)).map(|id| Write::DropTurn(*id)));
    (Mirror::new(services, Identifiers::from(first_free(found))), writes)
}

/// The backends that a service really has, each once, in the order of their slots.
fn members(found: &Found, service: Service) -> Entry {
    let mut entry = Entry::new(service.id);
    let of_service =
        SlotKey { service: service.id, slot: 0 }..=SlotKey { service: service.id, slot: u32::MAX };
    for (key, id) in found.slots.range(of_service) {
        if key.slot >= service.slots {
            break;
        }
        let Some(backend) = found.backends.get(id).filter(|backend| backend.service == service.id) else {
            continue;
        };
        if let Some(backend) = encode::plan_backend(backend).filter(|backend| !entry.contains(*backend)) {
            entry.push(*id, backend);
        }
    }
    entry
}

/// The first identifier that was never given out.
fn first_free(found: &Found) -> u32 {
    let reserved = found.turns.get(&NO_SERVICE).and_then(|turn| u32::try_from(turn.0).ok());
    let used = found
        .services
        .values()
        .map(|service| service.id.0)
        .chain(found.slots.iter().flat_map(|(key, id)| [key.service.0, id.0]))
        .chain(found.backends.keys().map(|id| id.0))
        .chain(found.turns.keys().map(|id| id.0))
        .max();
    reserved.max(used.map(|id| id.saturating_add(1))).unwrap_or(1)
}

#[cfg(test)]
mod tests;
