//! One service in the maps.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebpf_abi::{BackendId, Service, ServiceId, SlotKey};
use plan::{Backend, Frontend, ObservedBackend, ObservedService, Protocol, Rules, Scheduler};

use crate::ebpf::encode::{self, SourceNetwork};
use crate::ebpf::write::Write;

/// A service and where everything that belongs to it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ebpf) struct Entry {
    frontend: Frontend,
    id: ServiceId,
    rules: Rules,
    /// Who holds each slot.
    slots: Vec<(BackendId, Backend)>,
    /// The slots in the order of their backends, to find one by.
    places: Vec<u32>,
}

impl Entry {
    /// Without backends.
    pub(in crate::ebpf) fn new(frontend: Frontend, id: ServiceId, rules: Rules) -> Self {
        Self { frontend, id, rules, slots: Vec::new(), places: Vec::new() }
    }

    /// A service with these identifiers: its own first, then those of its backends.
    pub(super) fn with(frontend: Frontend, first: u32, service: &plan::Service) -> Self {
        let mut entry = Self::new(frontend, ServiceId(first), service.rules.clone());
        entry.slots.reserve_exact(service.backends.len());
        entry.places.reserve_exact(service.backends.len());
        for (id, backend) in (first + 1..).zip(service.backends.keys()) {
            entry.push(BackendId(id), *backend);
        }
        entry
    }

    pub(in crate::ebpf) fn push(&mut self, id: BackendId, backend: Backend) {
        let place = self.place(backend).unwrap_or_else(|place| place);
        self.places.insert(place, self.count());
        self.slots.push((id, backend));
    }

    pub(in crate::ebpf) fn contains(&self, backend: Backend) -> bool {
        self.place(backend).is_ok()
    }

    /// The last backend takes the place of the one that leaves.
    pub(super) fn remove(&mut self, backend: Backend) {
        let Ok(place) = self.place(backend) else { return };
        let (Some((_, last)), slot) = (self.slots.last(), self.places[place]) else { return };
        if let Ok(moved) = self.place(*last) {
            self.places[moved] = slot;
        }
        self.places.remove(place);
        self.slots.swap_remove(slot as usize);
    }

    /// Where in `places` the slot of `backend` is, or would be.
    fn place(&self, backend: Backend) -> Result<usize, usize> {
        self.places.binary_search_by_key(&Some(backend), |slot| self.backend(*slot))
    }

    fn backend(&self, slot: u32) -> Option<Backend> {
        self.slots.get(slot as usize).map(|(_, backend)| *backend)
    }

    /// Whether its address is to belong to services alone.
    pub(super) const fn is_exclusive(&self) -> bool {
        self.rules.exclusive
    }

    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub(super) fn observed(&self) -> ObservedService {
        let backends = self.slots.iter().map(|(_, backend)| (*backend, ObservedBackend::default()));
        ObservedService { rules: self.rules.clone(), backends: backends.collect() }
    }

    /// Writes everything; the service last, so that it appears with all it has.
    pub(in crate::ebpf) fn put(&self) -> Vec<Write> {
        let mut writes = vec![Write::PutTurn(self.id)];
        for (slot, (id, backend)) in (0..).zip(&self.slots) {
            writes.extend(has_loads(&self.rules).then_some(Write::PutLoad(*id)));
            writes.push(Write::PutBackend(*id, encode::backend(*backend, self.id)));
            writes.push(Write::PutSlot(self.slot(slot), *id));
        }
        writes.extend(self.has_members(&self.rules).then(|| self.members()).into_iter().flatten());
        writes.extend(self.networks(&self.rules).into_iter().map(Write::PutSourceNetwork));
        writes.extend(has_table(&self.rules).then(|| self.table(&self.slots)));
        writes.push(self.service(&self.rules, self.count()));
        writes
    }

    /// Drops everything; the service first: from then on nobody looks for the rest.
    pub(super) fn drop(&self) -> Vec<Write> {
        let mut writes = vec![Write::DropService(encode::service_key(self.frontend))];
        for (slot, (id, _)) in (0..).zip(&self.slots) {
            writes.extend([Write::DropSlot(self.slot(slot)), Write::DropBackend(*id)]);
            writes.extend(has_loads(&self.rules).then_some(Write::DropLoad(*id)));
        }
        if self.has_members(&self.rules) {
            writes.extend(self.members().filter_map(|write| write.taken_back()));
        }
        writes.extend(self.networks(&self.rules).into_iter().map(Write::DropSourceNetwork));
        writes.extend(has_table(&self.rules).then_some(Write::DropMaglev(self.id)));
        writes.push(Write::DropTurn(self.id));
        writes
    }

    /// Adds a backend with this identifier. It is written before whatever names it.
    pub(super) fn put_backend(&self, id: BackendId, backend: Backend) -> Vec<Write> {
        let mut writes = Vec::from_iter(has_loads(&self.rules).then_some(Write::PutLoad(id)));
        writes.push(Write::PutBackend(id, encode::backend(backend, self.id)));
        writes.push(Write::PutSlot(self.slot(self.count()), id));
        if self.has_members(&self.rules) {
            writes.push(self.member(id, backend));
        }
        if has_table(&self.rules) {
            writes.push(self.table(&[&self.slots[..], &[(id, backend)]].concat()));
        }
        writes.push(self.service(&self.rules, self.count() + 1));
        writes
    }

    /// Removes a backend, after whatever names it. The last backend takes its place, so that the slots stay without gaps:
    /// every slot below the count holds a backend that lives, at any moment.
    pub(super) fn drop_backend(&self, backend: Backend) -> Vec<Write> {
        let slot = self.place(backend).ok().and_then(|place| self.places.get(place)).copied();
        let (Some(slot), Some(&(last, _))) = (slot, self.slots.last()) else { return Vec::new() };
        let Some(&(id, _)) = self.slots.get(slot as usize) else { return Vec::new() };
        let last_slot = self.count() - 1;
        let mut writes = Vec::new();
        if has_table(&self.rules) {
            let left: Vec<_> = self.slots.iter().filter(|(other, _)| *other != id).copied().collect();
            writes.push(self.table(&left));
        }
        if self.has_members(&self.rules) {
            writes.push(Write::DropMember(encode::member_key(backend, self.id)));
        }
        if slot != last_slot {
            writes.push(Write::PutSlot(self.slot(slot), last));
        }
        writes.push(self.service(&self.rules, last_slot));
        writes.extend([Write::DropSlot(self.slot(last_slot)), Write::DropBackend(id)]);
        writes.extend(has_loads(&self.rules).then_some(Write::DropLoad(id)));
        writes
    }

    /// Other rules for the same backends. What they need is there before they are, what only the old ones needed goes
    /// after.
    pub(super) fn change_rules(&self, rules: &Rules) -> Vec<Write> {
        if self.rules == *rules {
            return Vec::new();
        }
        let (old, new) = (self.networks(&self.rules), self.networks(rules));
        let mut writes: Vec<Write> = new.difference(&old).copied().map(Write::PutSourceNetwork).collect();
        if self.has_members(rules) && !self.has_members(&self.rules) {
            writes.extend(self.members());
        }
        if has_loads(rules) && !has_loads(&self.rules) {
            writes.extend(self.slots.iter().map(|(id, _)| Write::PutLoad(*id)));
        }
        if has_table(rules) && !has_table(&self.rules) {
            writes.push(self.table(&self.slots));
        }
        writes.push(self.service(rules, self.count()));
        if self.has_members(&self.rules) && !self.has_members(rules) {
            writes.extend(self.members().filter_map(|write| write.taken_back()));
        }
        if has_loads(&self.rules) && !has_loads(rules) {
            writes.extend(self.slots.iter().map(|(id, _)| Write::DropLoad(*id)));
        }
        if has_table(&self.rules) && !has_table(rules) {
            writes.push(Write::DropMaglev(self.id));
        }
        writes.extend(old.difference(&new).copied().map(Write::DropSourceNetwork));
        writes
    }

    /// How many backends there are. Far from overflow: the maps hold fewer.
    #[expect(clippy::cast_possible_truncation, reason = "a map holds at most u32::MAX entries")]
    fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    fn slot(&self, slot: u32) -> SlotKey {
        SlotKey { service: self.id, slot }
    }

    fn service(&self, rules: &Rules, slots: u32) -> Write {
        let service = Service { id: self.id, slots, rules: encode::rules(rules) };
        Write::PutService(encode::service_key(self.frontend), service)
    }

    /// Whether its backends must be found by their address: where clients come back, and where sockets are looked after
    /// when their backend goes.
    fn has_members(&self, rules: &Rules) -> bool {
        rules.affinity.is_some() || self.frontend.protocol() == Protocol::Udp
    }

    fn members(&self) -> impl Iterator<Item = Write> {
        self.slots.iter().map(|(id, backend)| self.member(*id, *backend))
    }

    fn member(&self, id: BackendId, backend: Backend) -> Write {
        Write::PutMember(encode::member_key(backend, self.id), id)
    }

    fn networks(&self, rules: &Rules) -> BTreeSet<SourceNetwork> {
        let ranges = rules.source_ranges.iter().flatten();
        ranges.map(|network| encode::source_network(*network, self.id)).collect()
    }

    fn table(&self, backends: &[(BackendId, Backend)]) -> Write {
        Write::PutMaglev(self.id, Arc::new(encode::maglev_table(backends)))
    }
}

/// Whether the connections of its backends are counted.
fn has_loads(rules: &Rules) -> bool {
    rules.scheduler == Scheduler::LeastConnections
}

fn has_table(rules: &Rules) -> bool {
    rules.scheduler == Scheduler::Maglev
}
