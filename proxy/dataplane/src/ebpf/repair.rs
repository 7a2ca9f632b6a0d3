//! What was found in the maps, and what must be written so that it is whole. Pure.
//!
//! A process may be killed between any two writes of a change. What it leaves is a service that works, with entries
//! beside it that nobody will look for, or with one backend in two slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebpf_abi::{
    Address, Backend, BackendId, MaglevTable, MemberKey, NO_SERVICE, Service, ServiceId, ServiceKey, SlotKey,
    Turn,
};
use ipnet::IpNet;

use super::encode::{self, SourceNetwork};
use super::mirror::{Entry, Identifiers, Mirror};
use super::write::Write;

/// The content of the maps that the dataplane writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) services: BTreeMap<ServiceKey, Service>,
    /// Addresses that belong to services alone.
    pub(super) exclusive: BTreeSet<Address>,
    pub(super) slots: BTreeMap<SlotKey, BackendId>,
    pub(super) backends: BTreeMap<BackendId, Backend>,
    /// Whose connections are counted.
    pub(super) loads: BTreeMap<BackendId, Counted>,
    pub(super) members: BTreeMap<MemberKey, BackendId>,
    pub(super) maglev: BTreeMap<ServiceId, Arc<MaglevTable>>,
    pub(super) networks: BTreeSet<SourceNetwork>,
    pub(super) turns: BTreeMap<ServiceId, Turn>,
}

/// Where the connections of a backend are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) sockets: bool,
    pub(super) packets: bool,
}

impl Counted {
    /// Everywhere.
    const WHOLE: Self = Self { sockets: true, packets: true };
}

/// The services found, and the writes that make the maps hold them and nothing else.
pub(super) fn repair(found: &Found) -> (Mirror, Vec<Write>) {
    let mut services = BTreeMap::new();
    let mut ids = BTreeSet::from([NO_SERVICE]);
    let mut networks = networks(found);
    for (key, service) in &found.services {
        // Otherwise it was not written by us: no frontend has such a key or such rules, no two services share an identifier.
        if let Some(frontend) = encode::frontend(key)
            && let Some(rules) =
                encode::plan_rules(service.rules, networks.remove(&service.id).unwrap_or_default())
            && ids.insert(service.id)
        {
            let mut entry = Entry::new(frontend, service.id, rules);
            adopt_backends(&mut entry, found, *service);
            services.insert(frontend, entry);
        }
    }
    let mirror = Mirror::new(services, Identifiers::from(first_free(found)));
    let mut image = Found::default();
    mirror.image().for_each(|write| image.carry_out(write));
    let writes = difference(found, &image);
    (mirror, writes)
}

impl Found {
    /// What the maps hold after a write.
    pub(super) fn carry_out(&mut self, write: Write) {
        match write {
            Write::Reserve(first_free) => drop(self.turns.insert(NO_SERVICE, Turn(first_free.into()))),
            Write::PutTurn(id) => drop(self.turns.insert(id, Turn::default())),
            Write::DropTurn(id) => drop(self.turns.remove(&id)),
            Write::PutService(key, service) => drop(self.services.insert(key, service)),
            Write::DropService(key) => drop(self.services.remove(&key)),
            Write::PutExclusive(address) => drop(self.exclusive.insert(address)),
            Write::DropExclusive(address) => drop(self.exclusive.remove(&address)),
            Write::PutBackend(id, backend) => drop(self.backends.insert(id, backend)),
            Write::DropBackend(id) => drop(self.backends.remove(&id)),
            Write::PutSlot(key, id) => drop(self.slots.insert(key, id)),
            Write::DropSlot(key) => drop(self.slots.remove(&key)),
            Write::PutLoad(id) => drop(self.loads.insert(id, Counted::WHOLE)),
            Write::DropLoad(id) => drop(self.loads.remove(&id)),
            Write::PutMember(key, id) => drop(self.members.insert(key, id)),
            Write::DropMember(key) => drop(self.members.remove(&key)),
            Write::PutMaglev(id, table) => drop(self.maglev.insert(id, table)),
            Write::DropMaglev(id) => drop(self.maglev.remove(&id)),
            Write::PutSourceNetwork(network) => drop(self.networks.insert(network)),
            Write::DropSourceNetwork(network) => drop(self.networks.remove(&network)),
        }
    }
}

/// Who may use each service.
fn networks(found: &Found) -> BTreeMap<ServiceId, BTreeSet<IpNet>> {
    let mut networks: BTreeMap<ServiceId, BTreeSet<IpNet>> = BTreeMap::new();
    for entry in &found.networks {
        if let Some(network) = encode::plan_network(entry) {
            networks.entry(entry.range.service).or_default().insert(network);
        }
    }
    networks
}

/// The backends that a service really has, each once, in the order of their slots.
fn adopt_backends(entry: &mut Entry, found: &Found, service: Service) {
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
}

/// What leads from one content to the other: what a service needs before the service, and what is of no use last. Turns
/// that were taken stay so.
fn difference(found: &Found, wanted: &Found) -> Vec<Write> {
    let turns = wanted.turns.keys().filter(|id| !found.turns.contains_key(id));
    let mut writes: Vec<Write> = turns.map(|id| Write::PutTurn(*id)).collect();
    writes.extend(put(&found.loads, &wanted.loads, |id, _| Write::PutLoad(id)));
    writes.extend(put(&found.backends, &wanted.backends, Write::PutBackend));
    writes.extend(put(&found.slots, &wanted.slots, Write::PutSlot));
    writes.extend(put(&found.members, &wanted.members, Write::PutMember));
    writes.extend(put(&found.maglev, &wanted.maglev, Write::PutMaglev));
    writes.extend(wanted.networks.difference(&found.networks).copied().map(Write::PutSourceNetwork));
    writes.extend(put(&found.services, &wanted.services, Write::PutService));
    writes.extend(wanted.exclusive.difference(&found.exclusive).copied().map(Write::PutExclusive));
    writes.extend(found.exclusive.difference(&wanted.exclusive).copied().map(Write::DropExclusive));
    writes.extend(gone(&found.services, &wanted.services).map(Write::DropService));
    writes.extend(gone(&found.slots, &wanted.slots).map(Write::DropSlot));
    writes.extend(gone(&found.backends, &wanted.backends).map(Write::DropBackend));
    writes.extend(gone(&found.loads, &wanted.loads).map(Write::DropLoad));
    writes.extend(gone(&found.members, &wanted.members).map(Write::DropMember));
    writes.extend(gone(&found.maglev, &wanted.maglev).map(Write::DropMaglev));
    writes.extend(found.networks.difference(&wanted.networks).copied().map(Write::DropSourceNetwork));
    let turns = gone(&found.turns, &wanted.turns).filter(|id| *id != NO_SERVICE);
    writes.extend(turns.map(Write::DropTurn));
    writes
}

/// The entries to put so that a map holds what is wanted.
fn put<K: Ord + Copy, V: PartialEq + Clone>(
    found: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    write: impl Fn(K, V) -> Write,
) -> impl Iterator<Item = Write> {
    let news = wanted.iter().filter(|(key, value)| found.get(key) != Some(value));
    news.map(move |(key, value)| write(*key, value.clone()))
}

/// The keys of the entries to drop so that a map holds nothing else.
fn gone<K: Ord + Copy, V>(found: &BTreeMap<K, V>, wanted: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    found.keys().filter(|key| !wanted.contains_key(key)).copied()
}

/// The first identifier that was never given out.
fn first_free(found: &Found) -> u32 {
    let reserved = found.turns.get(&NO_SERVICE).and_then(|turn| u32::try_from(turn.0).ok());
    let used = found
        .services
        .values()
        .map(|service| service.id.0)
        .chain(found.slots.iter().flat_map(|(key, id)| [key.service.0, id.0]))
        .chain(found.backends.keys().chain(found.loads.keys()).map(|id| id.0))
        .chain(found.turns.keys().chain(found.maglev.keys()).map(|id| id.0))
        .chain(found.members.iter().flat_map(|(key, id)| [key.service.0, id.0]))
        .chain(found.networks.iter().map(|network| network.range.service.0))
        .max();
    reserved.max(used.map(|id| id.saturating_add(1))).unwrap_or(1)
}

#[cfg(test)]
mod tests;
