use std::cell::RefCell;
use std::collections::BTreeMap;

use ebpf_abi::{Address, Port};

use super::*;

/// Tables as values. Flows and origins are searched linearly: they are few.
#[derive(Default)]
struct Values {
    service: RefCell<Option<Service>>,
    slots: RefCell<BTreeMap<SlotKey, BackendId>>,
    backends: RefCell<BTreeMap<BackendId, Backend>>,
    turn: RefCell<u64>,
    flows: RefCell<Vec<(FlowKey, Flow)>>,
    origins: RefCell<Vec<(OriginKey, Origin)>>,
    remembered: RefCell<u32>,
}

const SERVICE: ServiceId = ServiceId(7);
const COOKIE: u64 = 99;

impl Values {
    /// A service with backends numbered from 1, in slots from 0.
    fn with_backends(count: u8) -> Self {
        let values = Self::default();
        *values.service.borrow_mut() = Some(Service { id: SERVICE, slots: count.into() });
        for slot in 0..count {
            let id = BackendId(u32::from(slot) + 1);
            values.slots.borrow_mut().insert(SlotKey { service: SERVICE, slot: slot.into() }, id);
            values.backends.borrow_mut().insert(id, backend(slot + 1));
        }
        values
    }

    fn connect(&self) -> Verdict {
        connect(self, || COOKIE, &frontend())
    }

    fn send(&self) -> Verdict {
        send(self, || COOKIE, &frontend())
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

    fn slot(&self, key: &SlotKey) -> Option<BackendId> {
        self.slots.borrow().get(key).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.backends.borrow().get(&id).copied()
    }

    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        assert_eq!(service, SERVICE);
        let mut turn = self.turn.borrow_mut();
        *turn += 1;
        Some(*turn - 1)
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
    *values.service.borrow_mut() = None;
    assert_eq!((values.connect(), values.send()), (Verdict::Pass, Verdict::Pass));
}

#[test]
fn an_exchange_stays_with_its_backend_until_that_is_gone() {
    let values = Values::with_backends(3);
    let stays = Verdict::Forward(backend(1));
    assert_eq!([values.send(), values.send(), values.send()], [stays; 3]);
    // Another socket gets the next.
    assert_eq!(send(&values, || COOKIE + 1, &frontend()), Verdict::Forward(backend(2)));
    values.backends.borrow_mut().remove(&BackendId(1));
    values.slots.borrow_mut().insert(SlotKey { service: SERVICE, slot: 0 }, BackendId(3));
    values.service.borrow_mut().as_mut().unwrap().slots = 2;
    let moved = values.send();
    assert_ne!(moved, stays);
    assert_eq!([values.send(), values.send()], [moved; 2], "and stays with the next");
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
    let Choice::Backend(_, met) = choose(&values, &frontend(), found) else { panic!("there are two left") };
    assert_eq!(met, backend(1), "turn 2 of two");
    values.shrink();
    values.shrink();
    assert!(matches!(choose(&values, &frontend(), found), Choice::Empty));
    *values.service.borrow_mut() = None;
    assert!(matches!(choose(&values, &frontend(), found), Choice::Gone));
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

fn frontend() -> ServiceKey {
    ServiceKey { address: address([10, 254, 0, 1]), port: Port::from_number(443), protocol: 6 }
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
