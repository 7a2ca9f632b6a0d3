use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use ebpf_abi::{
    Affinity, AffinityKey, Backend, BackendId, Cookie, Dial, Flow, FlowKey, MemberKey, Origin, OriginKey,
    Service, ServiceId, SlotKey,
};

use super::super::parse::{ACK, SYN, UDP};
use super::*;

/// A node whose one service has one backend, and whose next random number is known.
#[derive(Default)]
struct Values {
    rules: Rules,
    exclusive: Option<Address>,
    /// One of a single address.
    service_cidr: Option<Address>,
    backend: RefCell<Option<Backend>>,
    connections: RefCell<BTreeMap<Tuple, Connection>>,
    random: Cell<u32>,
    by_stack: bool,
    counted: RefCell<Vec<Counter>>,
    tallied: RefCell<Vec<Tallied>>,
    /// How many conversations the backend has.
    load: Cell<i32>,
}

const SERVICE: Service = Service {
    id: ServiceId(7),
    slots: 1,
    rules: Rules {
        affinity_group: 0,
        affinity_timeout: 0,
        scheduler: ebpf_abi::Scheduler::ROUND_ROBIN,
        masquerade: Masquerade::NEVER,
        flags: 0,
        reserved: 0,
    },
};
const ID: BackendId = BackendId(1);
const INTERFACE: u32 = 2;
const NODE: Node = Node { first_port: 1000, ports: 100 };

impl Tables for Values {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        let ours = key.audience == Audience::EVERYONE && key.address == address(FRONTEND);
        ours.then_some(Service {
            rules: self.rules,
            slots: u32::from(self.backend.borrow().is_some()),
            ..SERVICE
        })
    }
    fn is_exclusive(&self, address: &Address) -> bool {
        self.exclusive == Some(*address)
    }
    fn is_in_service_cidr(&self, address: &Address) -> bool {
        self.service_cidr == Some(*address)
    }
    fn slot(&self, _: &SlotKey) -> Option<BackendId> {
        Some(ID)
    }
    fn backend(&self, _: BackendId) -> Option<Backend> {
        *self.backend.borrow()
    }
    fn member(&self, _: &MemberKey) -> Option<BackendId> {
        None
    }
    fn maglev(&self, _: ServiceId, _: u32) -> Option<BackendId> {
        None
    }
    fn take_turn(&self, _: ServiceId) -> Option<u64> {
        Some(0)
    }
    fn tally(&self, _: ServiceId, what: Tallied) {
        self.tallied.borrow_mut().push(what);
    }
    fn load(&self, _: BackendId) -> u64 {
        0
    }
    fn hold(&self, _: Cookie, _: BackendId) {}
    fn release(&self, _: Cookie) {}
    fn conversation_began(&self, id: BackendId) {
        assert_eq!(id, ID);
        self.load.set(self.load.get() + 1);
    }
    fn conversation_ended(&self, id: BackendId) {
        assert_eq!(id, ID);
        self.load.set(self.load.get() - 1);
    }
    fn remember_dial(&self, _: Cookie, _: Dial) {}
    fn take_dial(&self, _: Cookie) -> Option<Dial> {
        None
    }
    fn note_latency(&self, _: ServiceId, _: u64) {}
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
        self.random.replace(self.random.get() + 1)
    }
    fn now(&self) -> u64 {
        0
    }
}

impl Conversations for Values {
    fn services(&self) -> &impl Tables {
        self
    }
    fn connection(&self, key: &Tuple) -> Option<Connection> {
        self.connections.borrow().get(key).copied()
    }
    fn knows(&self, key: &Tuple) -> bool {
        self.connections.borrow().contains_key(key)
    }
    fn reserve(&self, key: &Tuple, connection: &Connection) -> bool {
        let free = !self.connections.borrow().contains_key(key);
        if free {
            self.remember(key, connection);
        }
        free
    }
    fn remember(&self, key: &Tuple, connection: &Connection) {
        self.connections.borrow_mut().insert(*key, *connection);
    }
    fn touch(&self, key: &Tuple, seen: u64, flags: u32) -> bool {
        let mut connections = self.connections.borrow_mut();
        let found = connections.get_mut(key);
        found.map(|connection| *connection = Connection { seen, flags, ..*connection }).is_some()
    }
    fn settle(&self, key: &Tuple, seen: u64, flags: u32) -> bool {
        if let Some(connection) = self.connections.borrow_mut().get_mut(key) {
            connection.untold = 0;
        }
        self.touch(key, seen, flags)
    }
    fn lead(&self, key: &Tuple, path: &Path) {
        if let Some(connection) = self.connections.borrow_mut().get_mut(key) {
            (connection.path, connection.untold) = (*path, 0);
        }
    }
    fn fragment(&self, _: &FragmentKey) -> Option<Ports> {
        None
    }
    fn remember_fragment(&self, _: &FragmentKey, _: Ports) {}
    fn route(&self, tuple: &Tuple, _: &Packet) -> Route {
        let kind = if tuple.destination == address(HERE) { RouteKind::Local } else { ROUTE.kind };
        Route { kind, ..ROUTE }
    }
    fn interface(&self, _: u32) -> Option<Interface> {
        Some(Interface { ipv4: address(HERE), ipv6: Address::default(), pods: 0 })
    }
    fn node(&self) -> Option<Node> {
        Some(NODE)
    }
    fn is_pod(&self, _: Address) -> bool {
        false
    }
    fn admits(&self, _: SourceRange) -> bool {
        false
    }
    fn by_stack(&self) -> bool {
        self.by_stack
    }
    fn count(&self, counter: Counter, _: u64) {
        self.counted.borrow_mut().push(counter);
    }
}

const FRONTEND: [u8; 4] = [10, 254, 0, 1];
const CLIENT: [u8; 4] = [192, 0, 2, 1];
const HERE: [u8; 4] = [10, 1, 0, 254];
const ROUTE: Route =
    Route { kind: RouteKind::Forward, interface: INTERFACE, next: Address::from_v6_words([0; 4]), mtu: 1500 };

fn address(octets: [u8; 4]) -> Address {
    Address::from_v4_word(u32::from_ne_bytes(octets))
}

fn backend(last: u8) -> Backend {
    Backend {
        address: address([10, 1, 0, last]),
        port: Port::from_number(8080),
        reserved: 0,
        service: SERVICE.id,
    }
}

fn from_client(port: u16, protocol: u8) -> Tuple {
    Tuple {
        source: address(CLIENT),
        destination: address(FRONTEND),
        source_port: Port::from_number(port),
        destination_port: Port::from_number(80),
        protocol,
        reserved: [0; 3],
    }
}

impl Values {
    fn with(masquerade: Masquerade) -> Self {
        let rules = Rules { masquerade, ..SERVICE.rules };
        Self { rules, backend: RefCell::new(Some(backend(1))), ..Self::default() }
    }

    /// What becomes of a packet at this second.
    fn arrive(&self, tuple: Tuple, flags: u8, second: u64) -> (Verdict, Tuple) {
        let (verdict, work) = self.work(tuple, flags, second);
        (verdict, work.becomes)
    }

    fn work(&self, tuple: Tuple, flags: u8, second: u64) -> (Verdict, Work) {
        let packet = Packet { tuple, flags, hops: 64, ..Packet::default() };
        let connection = bytemuck::Zeroable::zeroed();
        let headers = [Internet::default(); 2];
        let mut work =
            Work { headers, packet, becomes: Tuple::default(), route: ROUTE, connection, untold: 0 };
        let arrival = Arrival { interface: INTERFACE, ours: true, stranger: false, now: second * SECOND };
        let verdict = arrive(self, &mut work, arrival);
        (verdict, work)
    }

    /// What a packet that the stack had leaves as, if as something else.
    fn leave(&self, tuple: Tuple, second: u64) -> Option<Tuple> {
        let packet = Packet { tuple, flags: ACK, hops: 64, ..Packet::default() };
        let connection = bytemuck::Zeroable::zeroed();
        let headers = [Internet::default(); 2];
        let mut work =
            Work { headers, packet, becomes: Tuple::default(), route: ROUTE, connection, untold: 0 };
        (leave(self, &mut work, second * SECOND) == Verdict::Translate).then_some(work.becomes)
    }

    /// The same, which must be translated.
    fn translated(&self, tuple: Tuple, flags: u8, second: u64) -> Tuple {
        let (verdict, becomes) = self.arrive(tuple, flags, second);
        assert_eq!(verdict, Verdict::Translate);
        becomes
    }
}

#[test]
fn answers_come_back_as_the_frontends() {
    for (masquerade, source) in
        [(Masquerade::NEVER, CLIENT), (Masquerade::FROM_OUTSIDE_PODS, HERE), (Masquerade::ALWAYS, HERE)]
    {
        let values = Values::with(masquerade);
        let asked = from_client(4000, TCP);
        let sent = values.translated(asked, SYN, 0);
        assert_eq!((sent.source, sent.destination), (address(source), backend(1).address));
        assert_eq!(values.translated(sent.reversed(), SYN | ACK, 0), asked.reversed());
        assert_eq!(values.translated(asked, ACK, 0), sent);
    }
}

#[test]
fn what_is_no_service_is_refused_where_an_address_is_theirs_alone() {
    let elsewhere = Tuple { destination: address(HERE), ..from_client(4000, TCP) };
    let mut values = Values::with(Masquerade::NEVER);
    assert_eq!(values.arrive(elsewhere, SYN, 0).0, Verdict::Pass);
    values.exclusive = Some(elsewhere.destination);
    assert_eq!(values.arrive(elsewhere, SYN, 0).0, Verdict::Refuse);
    assert_eq!(*values.tallied.borrow(), [], "no service has refused anybody");
}

#[test]
fn what_no_service_has_of_the_addresses_that_are_theirs_goes_nowhere() {
    let mut values = Values::with(Masquerade::NEVER);
    let mut arrives = |destination| {
        let tuple = Tuple { destination: address(destination), ..from_client(4000, TCP) };
        values.service_cidr = Some(tuple.destination);
        values.arrive(tuple, SYN, 0).0
    };
    assert_eq!(arrives([10, 254, 7, 7]), Verdict::Unallocated);
    assert_eq!(arrives(HERE), Verdict::Pass, "it is the node's own");
    assert_eq!(arrives(FRONTEND), Verdict::Translate, "a service has it");
}

#[test]
fn a_frame_for_somebody_else_opens_nothing() {
    let values = Values::with(Masquerade::NEVER);
    let packet = Packet { tuple: from_client(4000, TCP), flags: SYN, hops: 64, ..Packet::default() };
    let connection = bytemuck::Zeroable::zeroed();
    let headers = [Internet::default(); 2];
    let mut work = Work { headers, packet, becomes: Tuple::default(), route: ROUTE, connection, untold: 0 };
    let arrival = Arrival { interface: INTERFACE, ours: false, stranger: false, now: 0 };
    assert_eq!(arrive(&values, &mut work, arrival), Verdict::Pass);
    assert!(values.connections.borrow().is_empty());
}

#[test]
fn clients_that_the_node_stands_in_for_get_ports_of_their_own() {
    let values = Values::with(Masquerade::ALWAYS);
    let first = values.translated(from_client(4000, TCP), SYN, 0);
    // The next client's first port is the same one, and taken.
    values.random.set(0);
    let second = values.translated(from_client(4001, TCP), SYN, 0);
    assert_eq!((first.source_port.number(), second.source_port.number()), (1000, 1001));
    // Nobody answered the first for a minute: its port is free.
    values.random.set(0);
    let third = values.translated(from_client(4002, TCP), SYN, 61);
    assert_eq!(third.source_port.number(), 1000);
}

#[test]
fn with_every_port_taken_a_client_is_dropped_and_nobody_else() {
    let values = Values::with(Masquerade::ALWAYS);
    let held = values.translated(from_client(4000, TCP), SYN, 0);
    for port in 0..100 {
        let taken = Tuple { source_port: Port::from_number(1000 + port), ..held };
        values.reserve(&taken.reversed(), &values.connection(&held.reversed()).unwrap());
    }
    assert_eq!(values.arrive(from_client(4001, TCP), SYN, 0).0, Verdict::NoPort);
    assert_eq!(values.translated(from_client(4000, TCP), SYN, 0), held);
}

#[test]
fn an_entry_that_was_pushed_out_is_put_back_by_the_other() {
    let values = Values::with(Masquerade::ALWAYS);
    let asked = from_client(4000, TCP);
    let sent = values.translated(asked, SYN, 0);
    values.translated(sent.reversed(), SYN | ACK, 0);
    for (lost, seen) in [(asked, sent.reversed()), (sent.reversed(), asked)] {
        values.connections.borrow_mut().remove(&lost);
        values.translated(seen, ACK, 100);
        let restored = values.connection(&lost).unwrap();
        assert_eq!(restored.becomes, seen.reversed());
        assert_eq!(values.counted.borrow_mut().pop(), Some(Counter::Restored));
        values.connections.borrow_mut().values_mut().for_each(|connection| connection.seen = 0);
    }
}

#[test]
fn a_connection_keeps_its_backend_and_a_datagram_finds_a_live_one() {
    let values = Values::with(Masquerade::NEVER);
    let (tcp, udp) = (from_client(4000, TCP), from_client(4000, UDP));
    let sent = values.translated(tcp, SYN, 0);
    values.translated(sent.reversed(), SYN | ACK, 0);
    values.translated(udp, 0, 0);
    let waiting = from_client(4001, TCP);
    values.translated(waiting, SYN, 0);
    // Identifiers are not given out again: with the same one it would be the same backend.
    *values.backend.borrow_mut() = None;
    assert_eq!(values.translated(tcp, ACK, 1), sent, "established");
    assert_eq!(values.arrive(udp, 0, 1).0, Verdict::Refuse);
    assert_eq!(values.arrive(waiting, SYN, 1).0, Verdict::Refuse, "nobody has answered it");
}

#[test]
fn a_client_begins_anew_once_it_is_done_and_not_while_it_is_not() {
    let values = Values::with(Masquerade::NEVER);
    let asked = from_client(4000, TCP);
    let sent = values.translated(asked, SYN, 0);
    values.translated(sent.reversed(), SYN | ACK, 0);
    *values.backend.borrow_mut() = Some(backend(2));
    assert_eq!(values.translated(asked, SYN, 1), sent, "an established connection is the client's to reset");
    values.translated(asked, FIN | ACK, 1);
    assert_eq!(values.translated(asked, SYN, 1), sent, "half of it goes on");
    values.translated(sent.reversed(), FIN | ACK, 1);
    assert_eq!(values.translated(asked, SYN, 1).destination, backend(2).address);
}

#[test]
fn a_conversation_counts_for_its_backend_until_it_is_closed() {
    let values = Values::with(Masquerade::NEVER);
    let (first, second) = (from_client(4000, TCP), from_client(4001, TCP));
    let sent = values.translated(first, SYN, 0);
    values.translated(second, SYN, 0);
    values.translated(sent.reversed(), SYN | ACK, 0);
    assert_eq!(values.load.get(), 2);
    values.translated(first, FIN | ACK, 1);
    assert_eq!(values.load.get(), 2, "one side goes on");
    values.translated(sent.reversed(), FIN | ACK, 1);
    values.translated(first, ACK, 3);
    assert_eq!(values.load.get(), 1);
    values.translated(second, RST, 4);
    values.translated(second, RST, 6);
    assert_eq!(values.load.get(), 0);
}

#[test]
fn who_goes_on_after_a_reset_was_not_reset() {
    let values = Values::with(Masquerade::NEVER);
    let asked = from_client(4000, TCP);
    let sent = values.translated(asked, SYN, 0);
    values.translated(sent.reversed(), SYN | ACK, 0);
    values.translated(asked, RST, 1);
    values.translated(asked, ACK, 1);
    *values.backend.borrow_mut() = Some(backend(2));
    assert_eq!(values.translated(asked, ACK, 4000), sent);
    // One that does not is over after a minute.
    values.translated(asked, RST, 4000);
    assert_eq!(values.translated(asked, ACK, 4061).destination, backend(2).address);
    assert_eq!(values.counted.borrow().last(), Some(&Counter::Resumed));
}

#[test]
fn what_goes_on_is_known_by_its_entry_alone() {
    let values = Values::with(Masquerade::ALWAYS);
    let asked = from_client(4000, TCP);
    let sent = values.translated(asked, SYN, 10);
    let noted = |key: &Tuple, interface, now| goes_on(&values.connections.borrow()[key], key, interface, now);
    assert!(!noted(&asked, INTERFACE, 10 * SECOND), "nobody has asked where it leaves");
    values.translated(sent.reversed(), SYN | ACK, 10);
    values.translated(asked, ACK, 10);
    for (entry, other) in [(asked, sent.reversed()), (sent.reversed(), asked)] {
        assert!(noted(&entry, INTERFACE, 10 * SECOND));
        assert!(!noted(&entry, INTERFACE + 1, 10 * SECOND), "routes may depend on where it came in");
        assert!(!noted(&entry, INTERFACE, 10 * SECOND + SECOND / 5), "routes change");
        let misplaced = values.connections.borrow()[&entry];
        assert!(!goes_on(&misplaced, &other, INTERFACE, 10 * SECOND), "another conversation's");
    }
    // Once reset, it is not any more when one of them goes on, and that is to be noted.
    values.translated(asked, RST, 10);
    assert!(!noted(&asked, INTERFACE, 10 * SECOND) && !noted(&sent.reversed(), INTERFACE, 10 * SECOND));
    values.translated(asked, ACK, 10);
    assert!(noted(&asked, INTERFACE, 10 * SECOND));
    // Somebody has to note once a second that it lives.
    let connection = Connection { seen: 8 * SECOND, ..values.connections.borrow()[&asked] };
    assert!(!goes_on(&connection, &asked, INTERFACE, 10 * SECOND));
}

#[test]
fn bytes_are_told_once_where_something_else_is_to_be_noted() {
    let values = Values::with(Masquerade::NEVER);
    let asked = from_client(4000, TCP);
    values.translated(asked, SYN, 10);
    let told = |flags, second| {
        values.connections.borrow_mut().get_mut(&asked).unwrap().untold += 100;
        values.work(asked, flags, second).1.untold
    };
    assert_eq!(told(ACK, 10), 100, "where it leaves");
    assert_eq!(told(ACK, 10), 0);
    assert_eq!(told(FIN, 10), 200, "that the client is done");
    assert_eq!(told(ACK, 12), 100, "that it lives");
    let answered = values.connections.borrow()[&asked].becomes.reversed();
    values.connections.borrow_mut().get_mut(&answered).unwrap().untold = 7;
    assert_eq!(told(RST, 12), 100, "that it is over");
    let untold = |key| values.connections.borrow()[&key].untold;
    assert_eq!((untold(asked), untold(answered)), (0, 7), "each direction tells its own");
}

#[test]
fn the_stack_sees_the_client_and_its_backend() {
    for masquerade in [Masquerade::NEVER, Masquerade::ALWAYS] {
        let values = Values { by_stack: true, ..Values::with(masquerade) };
        let asked = from_client(4000, TCP);
        for flags in [SYN, ACK] {
            let inside = values.translated(asked, flags, 0);
            assert_eq!((inside.source, inside.destination), (asked.source, backend(1).address));
            let sent = if masquerade == Masquerade::NEVER {
                assert_eq!(values.leave(inside, 0), None, "it goes out as it is");
                inside
            } else {
                values.leave(inside, 0).unwrap()
            };
            let is_masqueraded = sent.source == address(HERE);
            assert_eq!(is_masqueraded, masquerade == Masquerade::ALWAYS);
            let (verdict, answer) = values.arrive(sent.reversed(), SYN | ACK, 0);
            assert_eq!(verdict == Verdict::Translate, is_masqueraded);
            assert_eq!(answer, inside.reversed(), "the stack sees an answer to what it saw");
            assert_eq!(values.leave(answer, 0), Some(asked.reversed()));
        }
    }
}

#[test]
fn no_two_conversations_are_one_to_the_stack() {
    let values = Values { by_stack: true, ..Values::with(Masquerade::ALWAYS) };
    let first = from_client(4000, TCP);
    // The same client by the same port, at another port of the service with the same backend.
    let second = Tuple { destination_port: Port::from_number(81), ..first };
    let inside = [first, second].map(|asked| values.translated(asked, SYN, 0));
    assert_ne!(inside[0], inside[1]);
    let sent = inside.map(|inside| values.leave(inside, 0).unwrap());
    assert_ne!(sent[0], sent[1]);
    for ((asked, inside), sent) in [first, second].into_iter().zip(inside).zip(sent) {
        let answer = values.translated(sent.reversed(), SYN | ACK, 0);
        assert_eq!(answer, inside.reversed());
        assert_eq!(values.leave(answer, 0), Some(asked.reversed()));
    }
}

#[test]
fn what_was_pushed_out_is_put_back_before_the_stack() {
    let values = Values { by_stack: true, ..Values::with(Masquerade::ALWAYS) };
    let asked = from_client(4000, TCP);
    let inside = values.translated(asked, SYN, 0);
    let sent = values.leave(inside, 0).unwrap();
    values.connections.borrow_mut().remove(&inside.reversed());
    let answer = values.translated(sent.reversed(), SYN | ACK, 0);
    assert_eq!(values.leave(answer, 0), Some(asked.reversed()));
    values.connections.borrow_mut().remove(&inside.reversed());
    assert_eq!(values.leave(values.translated(asked, ACK, 0), 0), Some(sent));
}

#[test]
fn every_node_hashes_a_flow_alike() {
    // Written down once: a change would part flows from their backends wherever nodes of two versions work together.
    let tcp = from_client(4000, TCP);
    assert_eq!(Sender(&tcp).flow_hash(), Some(HASH));
    assert_ne!(Sender(&from_client(4001, TCP)).flow_hash(), Some(HASH));
    assert_ne!(Sender(&from_client(4000, UDP)).flow_hash(), Some(HASH));
}

const HASH: u32 = 0xc5c4_4ec7;
