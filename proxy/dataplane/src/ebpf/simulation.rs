//! A kernel in memory that runs the programs' own decisions, for tests of what is written when.

use std::cell::RefCell;
use std::collections::VecDeque;

use ebpf_abi::{
    Affinity, AffinityKey, Backend, BackendId, Client, Flow, FlowKey, MemberKey, NO_SERVICE, Origin,
    OriginKey, Service, ServiceId, ServiceKey, SlotKey, Turn,
};
use ebpf_programs::Tables;
use ebpf_programs::forwarding::{Asker, Socket, Verdict, connect};
use plan::{Change, Frontend, Port, Protocol};
use proptest::prelude::*;

use super::encode;
use super::repair::Found;
use super::write::Write;

/// Maps, and writes that happen while a program looks into them.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    found: RefCell<Found>,
    pending: RefCell<VecDeque<Write>>,
    /// How many of the pending writes happen before each look-up to come.
    pauses: RefCell<VecDeque<usize>>,
}

impl Kernel {
    pub(super) fn holding(found: Found) -> Self {
        Self { found: RefCell::new(found), ..Self::default() }
    }

    pub(super) fn found(&self) -> Found {
        self.found.borrow().clone()
    }

    pub(super) fn write(&self, write: Write) {
        let mut found = self.found.borrow_mut();
        match write {
            Write::Reserve(first_free) => drop(found.turns.insert(NO_SERVICE, Turn(first_free.into()))),
            Write::PutTurn(id) => drop(found.turns.insert(id, Turn::default())),
            Write::DropTurn(id) => drop(found.turns.remove(&id)),
            Write::PutService(key, service) => drop(found.services.insert(key, service)),
            Write::DropService(key) => drop(found.services.remove(&key)),
            Write::PutBackend(id, backend) => drop(found.backends.insert(id, backend)),
            Write::DropBackend(id) => drop(found.backends.remove(&id)),
            Write::PutSlot(key, id) => drop(found.slots.insert(key, id)),
            Write::DropSlot(key) => drop(found.slots.remove(&key)),
        }
    }

    pub(super) fn write_all(&self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            self.write(write);
        }
    }

    /// What a socket meets that connects to `frontend`: a backend, `None` if it is refused.
    pub(super) fn connect(&self, frontend: Frontend) -> Option<plan::Backend> {
        match connect(self, &Somebody, &encode::service_key(frontend)) {
            Verdict::Forward(backend) => {
                assert_eq!(Some(backend.service), self.service_id(frontend), "a backend of another service");
                Some(encode::plan_backend(&backend).expect("a backend that could be written"))
            }
            Verdict::Refuse | Verdict::Drop => None,
            Verdict::Pass => panic!("{frontend} is not known"),
        }
    }

    /// The same while `writes` happen: so many of them before each of the program's look-ups.
    pub(super) fn connect_during(
        &self,
        writes: &[Write],
        pauses: &[usize],
        frontend: Frontend,
    ) -> Option<plan::Backend> {
        *self.pending.borrow_mut() = writes.iter().copied().collect();
        *self.pauses.borrow_mut() = pauses.iter().copied().collect();
        let met = self.connect(frontend);
        let rest = std::mem::take(&mut *self.pending.borrow_mut());
        self.write_all(rest);
        met
    }

    fn service_id(&self, frontend: Frontend) -> Option<ServiceId> {
        self.found.borrow().services.get(&encode::service_key(frontend)).map(|service| service.id)
    }

    fn pause(&self) {
        let count = self.pauses.borrow_mut().pop_front().unwrap_or(0);
        for _ in 0..count {
            let write = self.pending.borrow_mut().pop_front();
            self.write_all(write);
        }
    }
}

/// Any socket.
struct Somebody;

impl Asker for Somebody {
    fn client(&self) -> Client {
        Client::from_namespace(1)
    }

    fn flow_hash(&self) -> Option<u32> {
        None
    }
}

impl Socket for Somebody {
    fn cookie(&self) -> u64 {
        1
    }
}

impl Tables for Kernel {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.pause();
        self.found.borrow().services.get(key).copied()
    }

    fn slot(&self, key: &SlotKey) -> Option<BackendId> {
        self.pause();
        self.found.borrow().slots.get(key).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.pause();
        self.found.borrow().backends.get(&id).copied()
    }

    fn member(&self, _: &MemberKey) -> Option<BackendId> {
        None
    }

    fn maglev(&self, _: ServiceId, _: u32) -> Option<BackendId> {
        None
    }

    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        self.pause();
        let mut found = self.found.borrow_mut();
        let turn = found.turns.get_mut(&service)?;
        turn.0 += 1;
        Some(turn.0 - 1)
    }

    fn affinity(&self, _: &AffinityKey) -> Option<Affinity> {
        None
    }

    fn remember_affinity(&self, _: &AffinityKey, _: Affinity) {}

    fn flow(&self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn remember_flow(&self, _: &FlowKey, _: Flow) {}

    fn origin(&self, _: &OriginKey) -> Option<Origin> {
        None
    }

    fn remember_origin(&self, _: &OriginKey, _: Origin) {}

    fn random(&self) -> u32 {
        0
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Steps between two services and five backends, so that they meet often.
pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let backend = || (0..5_u8).prop_map(|last| plan::Backend::new([10, 244, 0, last].into(), port(8443)));
    let change = prop_oneof![
        1 => (frontend(), proptest::collection::btree_set(backend(), 0..3)).prop_map(|(frontend, backends)| {
            Change::AddService { frontend, service: backends.into_iter().collect() }
        }),
        6 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::AddBackend { frontend, backend }),
        4 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::RemoveBackend { frontend, backend }),
        1 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::DrainBackend { frontend, backend }),
        1 => frontend().prop_map(|frontend| Change::RemoveService { frontend }),
    ];
    proptest::collection::vec(change, 0..40)
}

fn frontend() -> impl Strategy<Value = Frontend> {
    (0..2_u8).prop_map(|last| Frontend::new([10, 254, 0, last].into(), port(443), Protocol::Tcp))
}

fn port(number: u16) -> Port {
    Port::new(number).expect("not 0")
}
