//! A kernel in memory that runs the programs' own decisions, for tests of what is written when.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, BackendId, Client, Cookie, Dial, Flow, FlowKey, MaglevTable,
    MemberKey, Origin, OriginKey, Service, ServiceId, ServiceKey, SlotKey, Tallied,
};
use ebpf_programs::Tables;
use ebpf_programs::forwarding::{Asker, Socket, Verdict, connect};
use plan::{AffinityGroup, Change, Frontend, Port, Protocol, Rules, Scheduler, Weight};
use proptest::prelude::*;

use super::encode;
use super::repair::Found;
use super::write::Write;

/// Maps, and writes that happen while a program looks into them.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    found: RefCell<Found>,
    pending: RefCell<VecDeque<Write>>,
    affinities: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// How many of the pending writes happen before each look-up to come.
    pauses: RefCell<VecDeque<usize>>,
    count: Cell<u32>,
}

impl Kernel {
    pub(super) fn holding(found: Found) -> Self {
        Self { found: RefCell::new(found), ..Self::default() }
    }

    pub(super) fn found(&self) -> Found {
        self.found.borrow().clone()
    }

    pub(super) fn write(&self, write: Write) {
        self.found.borrow_mut().carry_out(write);
    }

    pub(super) fn write_all(&self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            self.write(write);
        }
    }

    /// What somebody meets who connects to `frontend`, from a socket of the node or by a packet that other nodes may see: a
    /// backend, `None` if there is none.
    pub(super) fn connect(&self, frontend: Frontend) -> Option<plan::Backend> {
        let somebody = Somebody { flow_hash: Some(self.random()).filter(|hash| hash % 2 == 0) };
        match connect(self, &somebody, &encode::service_key(frontend)) {
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
        *self.pending.borrow_mut() = writes.iter().cloned().collect();
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

/// One client.
struct Somebody {
    flow_hash: Option<u32>,
}

impl Asker for Somebody {
    fn client(&self) -> Client {
        Client::from_namespace(1)
    }

    fn flow_hash(&self) -> Option<u32> {
        self.flow_hash
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

    fn is_exclusive(&self, address: &Address) -> bool {
        self.pause();
        self.found.borrow().exclusive.contains(address)
    }

    fn is_in_service_cidr(&self, _: &Address) -> bool {
        false
    }

    fn slot(&self, key: &SlotKey) -> Option<BackendId> {
        self.pause();
        self.found.borrow().slots.get(key).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.pause();
        self.found.borrow().backends.get(&id).copied()
    }

    fn member(&self, key: &MemberKey) -> Option<BackendId> {
        self.pause();
        self.found.borrow().members.get(key).copied()
    }

    fn maglev(&self, service: ServiceId, hash: u32) -> Option<BackendId> {
        self.pause();
        let found = self.found.borrow();
        Some(found.maglev.get(&service)?.0[MaglevTable::position(hash) as usize])
    }

    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        self.pause();
        let mut found = self.found.borrow_mut();
        let turn = found.turns.get_mut(&service)?;
        turn.0 += 1;
        Some(turn.0 - 1)
    }

    fn tally(&self, _: ServiceId, _: Tallied) {}

    /// Any, for what matters here is who is met at all.
    fn load(&self, id: BackendId) -> u64 {
        self.pause();
        if self.found.borrow().loads.contains_key(&id) { u64::from(self.random() % 3) } else { 0 }
    }

    fn hold(&self, _: Cookie, _: BackendId) {}

    fn release(&self, _: Cookie) {}

    fn conversation_began(&self, _: BackendId) {}

    fn conversation_ended(&self, _: BackendId) {}

    fn remember_dial(&self, _: Cookie, _: Dial) {}

    fn take_dial(&self, _: Cookie) -> Option<Dial> {
        None
    }

    fn note_latency(&self, _: ServiceId, _: u64) {}

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.borrow().get(key).copied()
    }

    fn remember_affinity(&self, key: &AffinityKey, affinity: Affinity) {
        self.affinities.borrow_mut().insert(*key, affinity);
    }

    fn flow(&self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn remember_flow(&self, _: &FlowKey, _: Flow) {}

    fn origin(&self, _: &OriginKey) -> Option<Origin> {
        None
    }

    fn remember_origin(&self, _: &OriginKey, _: Origin) {}

    /// Every hash comes in its turn.
    fn random(&self) -> u32 {
        let count = self.count.get();
        self.count.set(count + 1);
        count.wrapping_mul(0x9e37_79b9)
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Steps between a few services and five backends, so that they meet often.
pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let backend = || (0..5_u8).prop_map(|last| plan::Backend::new([10, 244, 0, last].into(), port(8443)));
    let backends = proptest::collection::btree_set(backend(), 0..3);
    let change = prop_oneof![
        1 => (frontend(), rules(), backends).prop_map(|(frontend, rules, backends)| {
            let service = plan::Service { rules, ..backends.into_iter().collect() };
            Change::AddService { frontend, service }
        }),
        2 => (frontend(), rules()).prop_map(|(frontend, rules)| Change::SetRules { frontend, rules }),
        6 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::AddBackend { frontend, backend, weight: Weight::ONE }),
        4 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::RemoveBackend { frontend, backend }),
        1 => (frontend(), backend()).prop_map(|(frontend, backend)| Change::DrainBackend { frontend, backend }),
        1 => frontend().prop_map(|frontend| Change::RemoveService { frontend }),
    ];
    proptest::collection::vec(change, 0..40)
}

fn frontend() -> impl Strategy<Value = Frontend> {
    prop_oneof![
        Just(Frontend::new([10, 254, 0, 0].into(), port(443), Protocol::Tcp)),
        Just(Frontend::new([10, 254, 0, 0].into(), port(443), Protocol::Udp)),
    ]
}

/// Those that need more than the service itself.
fn rules() -> impl Strategy<Value = Rules> {
    let scheduler = proptest::sample::select(vec![
        Scheduler::RoundRobin,
        Scheduler::Random,
        Scheduler::LeastConnections,
        Scheduler::Maglev,
    ]);
    let affinity = plan::Affinity { group: AffinityGroup(1), timeout: Duration::from_secs(10) };
    let networks = ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"].map(|text| text.parse().expect("a network"));
    let ranges = proptest::collection::btree_set(proptest::sample::select(networks.to_vec()), 0..3);
    (scheduler, any::<bool>(), any::<bool>(), proptest::option::of(ranges)).prop_map(
        move |(scheduler, sticky, exclusive, source_ranges)| Rules {
            scheduler,
            exclusive,
            affinity: sticky.then_some(affinity),
            source_ranges,
            ..Rules::default()
        },
    )
}

fn port(number: u16) -> Port {
    Port::new(number).expect("not 0")
}
