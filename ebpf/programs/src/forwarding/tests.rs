use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use ebpf_abi::{Address, Audience, Masquerade, Port};

use super::*;

/// Tables as values. Flows and origins are searched linearly: they are few.
#[derive(Default)]
struct Values {
    service: RefCell<Option<Service>>,
    exclusive: Cell<bool>,
    in_service_cidr: Cell<bool>,
    slots: RefCell<BTreeMap<SlotKey, BackendId>>,
    backends: RefCell<BTreeMap<BackendId, Backend>>,
    maglev: RefCell<Option<BackendId>>,
    turn: RefCell<u64>,
    tallied: RefCell<Vec<Tallied>>,
    held: RefCell<BTreeMap<Cookie, BackendId>>,
    dials: RefCell<BTreeMap<Cookie, Dial>>,
    latencies: RefCell<Vec<u64>>,
    random: Cell<u32>,
    now: Cell<u64>,
    affinities: RefCell<BTreeMap<AffinityKey, Affinity>>,
    flows: RefCell<Vec<(FlowKey, Flow)>>,
    origins: RefCell<Vec<(OriginKey, Origin)>>,
    remembered: RefCell<u32>,
}

const SERVICE: ServiceId = ServiceId(7);
const COOKIE: u64 = 99;
const GROUP: u64 = 5;
/// Seconds.
const TIMEOUT: u32 = 10;

/// A socket of a client, or a packet from one.
#[derive(Clone, Copy)]
struct Somebody {
    cookie: u64,
    client: Client,
    flow_hash: Option<u32>,
}

const CLIENT: Somebody = Somebody { cookie: COOKIE, client: Client::from_namespace(1), flow_hash: None };

impl Asker for Somebody {
    fn client(&self) -> Client {
        self.client
    }

    fn flow_hash(&self) -> Option<u32> {
        self.flow_hash
    }
}

impl Socket for Somebody {
    fn cookie(&self) -> u64 {
        self.cookie
    }
}

impl Values {
    /// A service with backends numbered from 1, in slots from 0.
    fn with_backends(count: u8) -> Self {
        let values = Self::default();
        *values.service.borrow_mut() =
            Some(Service { id: SERVICE, slots: count.into(), rules: Rules::default() });
        for slot in 0..count {
            let id = BackendId(u32::from(slot) + 1);
            values.slots.borrow_mut().insert(SlotKey { service: SERVICE, slot: slot.into() }, id);
            values.backends.borrow_mut().insert(id, backend(slot + 1));
        }
        values
    }

    fn connect(&self) -> Verdict {
        self.connect_of(&CLIENT)
    }

    fn connect_of(&self, socket: &Somebody) -> Verdict {
        connect(self, socket, &frontend())
    }

    fn send(&self) -> Verdict {
        send(self, &CLIENT, &frontend())
    }

    fn rule(&self, rules: Rules) {
        self.service.borrow_mut().as_mut().unwrap().rules = rules;
    }

    fn pass(&self, seconds: u64) {
        self.now.set(self.now.get() + seconds * NANOSECONDS);
    }

    /// Takes the last slot away, backend and all, as the dataplane does.
    fn shrink(&self) {
        let mut service = self.service.borrow_mut();
        let service = service.as_mut().unwrap();
        service.slots -= 1;
        let id = self.slots.borrow_mut().remove(&SlotKey { service: SERVICE, slot: service.slots }).unwrap();
        self.backends.borrow_mut().remove(&id);
    }
}

impl Tables for Values {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.service.borrow().filter(|_| *key == frontend())
    }

    fn is_exclusive(&self, address: &Address) -> bool {
        self.exclusive.get() && *address == frontend().address
    }

    fn is_in_service_cidr(&self, _: &Address) -> bool {
        self.in_service_cidr.get()
    }

    fn slot(&self, key: &SlotKey) -> Option<BackendId> {
        self.slots.borrow().get(key).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.backends.borrow().get(&id).copied()
    }

    fn member(&self, key: &MemberKey) -> Option<BackendId> {
        let backends = self.backends.borrow();
        let is_meant = |backend: &Backend| {
            (backend.service, backend.address, backend.port) == (key.service, key.address, key.port)
        };
        backends.iter().find(|(_, backend)| is_meant(backend)).map(|(id, _)| *id)
    }

    fn maglev(&self, service: ServiceId, hash: u32) -> Option<BackendId> {
        assert_eq!((service, hash), (SERVICE, 77));
        *self.maglev.borrow()
    }

    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        assert_eq!(service, SERVICE);
        let mut turn = self.turn.borrow_mut();
        *turn += 1;
        Some(*turn - 1)
    }

    fn tally(&self, _: ServiceId, what: Tallied) {
        self.tallied.borrow_mut().push(what);
    }

    fn load(&self, id: BackendId) -> u64 {
        self.held.borrow().values().filter(|held| **held == id).count() as u64
    }

    fn hold(&self, socket: Cookie, id: BackendId) {
        self.held.borrow_mut().insert(socket, id);
    }

    fn release(&self, socket: Cookie) {
        self.held.borrow_mut().remove(&socket);
    }

    fn conversation_began(&self, _: BackendId) {}

    fn conversation_ended(&self, _: BackendId) {}

    fn remember_dial(&self, socket: Cookie, dial: Dial) {
        self.dials.borrow_mut().insert(socket, dial);
    }

    fn take_dial(&self, socket: Cookie) -> Option<Dial> {
        self.dials.borrow_mut().remove(&socket)
    }

    fn note_latency(&self, service: ServiceId, nanoseconds: u64) {
        assert_eq!(service, SERVICE);
        self.latencies.borrow_mut().push(nanoseconds);
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.borrow().get(key).copied()
    }

    fn remember_affinity(&self, key: &AffinityKey, affinity: Affinity) {
        self.affinities.borrow_mut().insert(*key, affinity);
    }

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.borrow().iter().rev().find(|(found, _)| found == key).map(|(_, flow)| *flow)
    }

    fn remember_flow(&self, key: &FlowKey, flow: Flow) {
        self.flows.borrow_mut().push((*key, flow));
    }

    fn origin(&self, key: &OriginKey) -> Option<Origin> {
        self.origins.borrow().iter().rev().find(|(found, _)| found == key).map(|(_, origin)| *origin)
    }

    fn remember_origin(&self, key: &OriginKey, origin: Origin) {
        *self.remembered.borrow_mut() += 1;
        self.origins.borrow_mut().push((*key, origin));
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn now(&self) -> u64 {
        self.now.get()
    }
}

#[test]
fn connections_take_turns() {
    let values = Values::with_backends(3);
    let met: Vec<Verdict> = (0..6).map(|_| values.connect()).collect();
    let expected: Vec<Verdict> = [1, 2, 3, 1, 2, 3].map(|last| Verdict::Forward(backend(last))).into();
    assert_eq!(met, expected);
}

#[test]
fn what_is_no_service_passes_and_what_has_no_backend_is_refused() {
    let values = Values::with_backends(0);
    assert_eq!((values.connect(), values.send()), (Verdict::Refuse, Verdict::Refuse));
    values.rule(Rules { flags: Rules::DROP_WHEN_EMPTY, ..Rules::default() });
    assert_eq!((values.connect(), values.send()), (Verdict::Drop, Verdict::Drop));
    *values.service.borrow_mut() = None;
    assert_eq!((values.connect(), values.send()), (Verdict::Pass, Verdict::Pass));
}

#[test]
fn a_client_comes_back_to_its_backend_until_it_stays_away_or_the_backend_goes() {
    let values = Values::with_backends(3);
    values.rule(AFFINITY);
    let other = Somebody { client: Client::from_namespace(2), ..CLIENT };
    let [first, second, third] = [1, 2, 3].map(|last| Verdict::Forward(backend(last)));
    assert_eq!([values.connect(), values.connect(), values.connect_of(&other)], [first, first, second]);
    // Every connection starts the time anew.
    for _ in 0..3 {
        values.pass(9);
        assert_eq!(values.connect(), first);
    }
    values.pass(10);
    assert_eq!([values.connect(), values.connect()], [third; 2], "forgotten after ten seconds");
    values.shrink();
    assert_eq!([values.connect(), values.connect()], [second; 2], "and gone with the backend");
}

#[test]
fn affinity_is_shared_by_a_group_and_by_nobody_else() {
    let values = Values::with_backends(3);
    values.rule(AFFINITY);
    let met = values.connect();
    let other_group = Rules { affinity_group: GROUP + 1, ..AFFINITY };
    values.rule(other_group);
    assert_ne!(values.connect(), met);
    values.rule(AFFINITY);
    assert_eq!(values.connect(), met);
    // Another frontend of the group: the same endpoints, as backends of its own.
    for (id, last) in [(11, 1), (12, 2)] {
        let twin = Backend { service: ServiceId(8), ..backend(last) };
        values.backends.borrow_mut().insert(BackendId(id), twin);
    }
    *values.service.borrow_mut() = Some(Service { id: ServiceId(8), slots: 2, rules: AFFINITY });
    let Verdict::Forward(found) = values.connect() else { panic!("it has backends") };
    assert_eq!((found.address, found.service), (backend(1).address, ServiceId(8)));
}

#[test]
fn chance_decides_where_it_is_asked() {
    let values = Values::with_backends(3);
    values.rule(Rules { scheduler: Scheduler::RANDOM, ..Rules::default() });
    for (random, last) in [(5, 3), (5, 3), (9, 1), (u32::MAX, 1)] {
        values.random.set(random);
        assert_eq!(values.connect(), Verdict::Forward(backend(last)));
    }
    assert_eq!(*values.turn.borrow(), 0, "and takes no turns");
}

#[test]
fn the_table_decides_for_a_flow_that_other_nodes_may_see() {
    let values = Values::with_backends(3);
    values.rule(Rules { scheduler: Scheduler::MAGLEV, ..Rules::default() });
    let packet = Somebody { flow_hash: Some(77), ..CLIENT };
    for last in [3, 2] {
        *values.maglev.borrow_mut() = Some(BackendId(last.into()));
        assert_eq!(values.connect_of(&packet), Verdict::Forward(backend(last)));
        assert_eq!(consistent(&values, SERVICE, 77), Some((BackendId(last.into()), backend(last))));
    }
    // A socket of this node, and a table that is a moment behind.
    assert_eq!(values.connect(), Verdict::Forward(backend(1)));
    *values.maglev.borrow_mut() = Some(BackendId(9));
    assert_eq!(values.connect_of(&packet), Verdict::Forward(backend(2)));
    assert_eq!(consistent(&values, SERVICE, 77), None);
}

#[test]
fn an_exchange_stays_with_its_backend_until_that_is_gone() {
    let values = Values::with_backends(3);
    let stays = Verdict::Forward(backend(1));
    assert_eq!([values.send(), values.send(), values.send()], [stays; 3]);
    // Another socket gets the next.
    assert_eq!(
        send(&values, &Somebody { cookie: COOKIE + 1, ..CLIENT }, &frontend()),
        Verdict::Forward(backend(2))
    );
    values.backends.borrow_mut().remove(&BackendId(1));
    values.slots.borrow_mut().insert(SlotKey { service: SERVICE, slot: 0 }, BackendId(3));
    values.service.borrow_mut().as_mut().unwrap().slots = 2;
    let moved = values.send();
    assert_ne!(moved, stays);
    assert_eq!([values.send(), values.send()], [moved; 2], "and stays with the next");
}

#[test]
fn a_connection_and_an_exchange_count_once_and_so_does_whoever_meets_nobody() {
    let values = Values::with_backends(1);
    values.connect();
    values.send();
    values.send();
    values.shrink();
    values.connect();
    let tallied = [Tallied::SocketConnection, Tallied::SocketConnection, Tallied::Refused];
    assert_eq!(*values.tallied.borrow(), tallied);
}

#[test]
fn what_is_no_service_is_refused_where_an_address_is_theirs_alone() {
    let values = Values::with_backends(1);
    let another = ServiceKey { port: Port::from_number(81), ..frontend() };
    let elsewhere = ServiceKey { address: backend(1).address, ..another };
    let ask = |key| [connect(&values, &CLIENT, key), send(&values, &CLIENT, key)];
    assert_eq!(ask(&another), [Verdict::Pass; 2]);
    values.exclusive.set(true);
    assert_eq!(ask(&another), [Verdict::Refuse; 2]);
    assert_eq!(ask(&elsewhere), [Verdict::Pass; 2]);
    values.in_service_cidr.set(true);
    assert_eq!(ask(&elsewhere), [Verdict::Drop; 2]);
    assert_eq!(ask(&another), [Verdict::Refuse; 2]);
    assert_eq!(*values.tallied.borrow(), [], "no service has refused anybody");
}

#[test]
fn a_backend_of_another_service_is_no_member() {
    let values = Values::with_backends(2);
    values.backends.borrow_mut().insert(BackendId(1), Backend { service: ServiceId(8), ..backend(1) });
    values.flows.borrow_mut().push((flow_key(), Flow { backend: BackendId(1) }));
    // Turn 0 names slot 0, whose backend is not the service's; it never becomes so, and the bound holds.
    assert_eq!(values.send(), Verdict::Refuse);
    assert_eq!(values.send(), Verdict::Forward(backend(2)));
}

#[test]
fn a_turn_beyond_a_shrunken_service_is_taken_among_what_is_left() {
    let values = Values::with_backends(3);
    *values.turn.borrow_mut() = 2;
    let found = values.service(&frontend()).unwrap();
    values.shrink();
    let Choice::Backend(_, met) = choose(&values, &CLIENT, &frontend(), found) else {
        panic!("there are two left")
    };
    assert_eq!(met, backend(1), "turn 2 of two");
    values.shrink();
    values.shrink();
    assert!(matches!(choose(&values, &CLIENT, &frontend(), found), Choice::Empty(_)));
    *values.service.borrow_mut() = None;
    assert!(matches!(choose(&values, &CLIENT, &frontend(), found), Choice::Gone));
}

#[test]
fn the_application_sees_what_it_named() {
    let values = Values::with_backends(1);
    let peer =
        |cookie| OriginKey { cookie, address: backend(1).address, port: backend(1).port, reserved: [0; 3] };
    assert_eq!(origin(&values, &peer(COOKIE)), None);
    values.connect();
    let named = Origin { address: frontend().address, port: frontend().port, reserved: 0 };
    assert_eq!(origin(&values, &peer(COOKIE)), Some(named));
    assert_eq!(
        origin(&values, &peer(COOKIE + 1)),
        None,
        "other sockets may know the backend by its own address"
    );
}

#[test]
fn what_is_known_is_not_written_again() {
    let values = Values::with_backends(1);
    for _ in 0..5 {
        values.send();
    }
    assert_eq!((values.flows.borrow().len(), *values.remembered.borrow()), (1, 1));
}

#[test]
fn turns_wrap_with_the_slots_and_not_with_32_bits() {
    assert_eq!(slot_of(u64::from(u32::MAX) + 1, 3), 1);
    assert_eq!(slot_of(u64::MAX, u32::MAX), 0);
}

const AFFINITY: Rules = Rules {
    affinity_group: GROUP,
    affinity_timeout: TIMEOUT,
    scheduler: Scheduler::ROUND_ROBIN,
    masquerade: Masquerade::NEVER,
    flags: Rules::AFFINITY,
    reserved: 0,
};

fn frontend() -> ServiceKey {
    ServiceKey {
        address: address([10, 254, 0, 1]),
        port: Port::from_number(443),
        protocol: 6,
        audience: Audience::EVERYONE,
    }
}

fn flow_key() -> FlowKey {
    FlowKey { cookie: COOKIE, service: SERVICE, reserved: 0 }
}

fn backend(last: u8) -> Backend {
    Backend {
        address: address([10, 244, 0, last]),
        port: Port::from_number(8443),
        reserved: 0,
        service: SERVICE,
    }
}

fn address(octets: [u8; 4]) -> Address {
    Address::from_v4_word(u32::from_ne_bytes(octets))
}

fn socket(cookie: u64) -> Somebody {
    Somebody { cookie, ..CLIENT }
}

#[test]
fn the_backend_with_the_fewest_connections_is_next_and_among_equals_they_take_turns() {
    let values = Values::with_backends(3);
    values.rule(Rules { scheduler: Scheduler::LEAST_CONNECTIONS, ..Rules::default() });
    let met = |cookie| values.connect_of(&socket(cookie));
    assert_eq!([1, 2, 3].map(met), [1, 2, 3].map(|last| Verdict::Forward(backend(last))));
    closed(&values, Cookie(2));
    assert_eq!(met(4), Verdict::Forward(backend(2)), "whose turn it is not");
    for cookie in [1, 4] {
        closed(&values, Cookie(cookie));
    }
    // One and two have none, three has one: two more go to those.
    let next: Vec<Verdict> = [5, 6].map(met).into();
    assert!(!next.contains(&Verdict::Forward(backend(3))), "{next:?}");
    assert_ne!(next[0], next[1]);
}

#[test]
fn a_socket_counts_once_however_often_it_connects() {
    let values = Values::with_backends(2);
    values.rule(Rules { scheduler: Scheduler::LEAST_CONNECTIONS, ..Rules::default() });
    for _ in 0..5 {
        values.connect_of(&socket(1));
    }
    assert_eq!(values.held.borrow().len(), 1);
    values.rule(Rules::default());
    values.connect_of(&socket(2));
    assert_eq!(values.held.borrow().len(), 1, "where nobody compares nobody counts");
}

#[test]
fn of_many_backends_sixteen_are_compared() {
    let values = Values::with_backends(40);
    values.rule(Rules { scheduler: Scheduler::LEAST_CONNECTIONS, ..Rules::default() });
    let met: Vec<Verdict> = (0..40).map(|cookie| values.connect_of(&socket(cookie))).collect();
    let all: Vec<Verdict> = (1..=40).map(|last| Verdict::Forward(backend(last))).collect();
    assert_eq!(met, all, "each has one before any has two");
    closed(&values, Cookie(15));
    assert_eq!(values.connect_of(&socket(100)), Verdict::Forward(backend(16)), "the last of those compared");
}

#[test]
fn a_handshake_is_timed_from_connect_on_and_once() {
    let values = Values::with_backends(1);
    values.connect();
    values.pass(1);
    established(&values, Cookie(COOKIE));
    established(&values, Cookie(COOKIE));
    assert_eq!(*values.latencies.borrow(), [NANOSECONDS]);
}
