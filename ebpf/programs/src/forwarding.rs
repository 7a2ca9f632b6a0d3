//! Where a connection or a datagram goes, and where an answer seems to come from.

use ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, BackendId, Client, Cookie, Dial, Flow, FlowKey, MemberKey,
    NO_BACKEND, Origin, OriginKey, Rules, Scheduler, Service, ServiceId, ServiceKey, SlotKey, Tallied,
};

/// What the decisions look up and remember: the kernel's maps, or a test's values.
///
/// The dataplane changes the tables while decisions read them, one entry at a time. Every method answers for one
/// moment only, and with an entry that did exist.
pub trait Tables {
    /// The service at a frontend.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// Whether an address belongs to services alone.
    fn is_exclusive(&self, address: &Address) -> bool;
    /// Whether an address is one that cluster addresses come from.
    fn is_in_service_cidr(&self, address: &Address) -> bool;
    /// Who holds a slot.
    fn slot(&self, key: &SlotKey) -> Option<BackendId>;
    /// An endpoint.
    fn backend(&self, id: BackendId) -> Option<Backend>;
    /// Which of a service's backends an endpoint is; known of services with affinity.
    fn member(&self, key: &MemberKey) -> Option<BackendId>;
    /// Who gets a flow with this hash; known of services whose scheduler is Maglev.
    fn maglev(&self, service: ServiceId, hash: u32) -> Option<BackendId>;
    /// Counts one connection to `service` and says how many came before it.
    fn take_turn(&self, service: ServiceId) -> Option<u64>;
    /// Notes one more for `service`.
    fn tally(&self, service: ServiceId, what: Tallied);
    /// How many connections a backend has; known of services whose scheduler is least connections.
    fn load(&self, id: BackendId) -> u64;
    /// Compares so many backends, one after the other.
    #[inline(always)]
    fn compare(&self, search: &mut Search, count: u32)
    where
        Self: Sized,
    {
        (0..count).for_each(|after| search.compare(self, after));
    }
    /// Counts a socket as a connection of `id`, and of no other, until it is released. Where there is no room it is
    /// not counted.
    fn hold(&self, socket: Cookie, id: BackendId);
    /// Counts a socket no more.
    fn release(&self, socket: Cookie);
    /// Counts one more connection that is translated packet by packet.
    fn conversation_began(&self, id: BackendId);
    /// Counts one less.
    fn conversation_ended(&self, id: BackendId);
    /// Remembers when a socket began to connect. Forgetting it under memory pressure costs a measurement.
    fn remember_dial(&self, socket: Cookie, dial: Dial);
    /// Forgets it again, and says what it was.
    fn take_dial(&self, socket: Cookie) -> Option<Dial>;
    /// Notes how many nanoseconds a connection to `service` took.
    fn note_latency(&self, service: ServiceId, nanoseconds: u64);
    /// The backend that a client had.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Remembers `affinity`. Forgetting it under memory pressure costs a client its backend, not its forwarding.
    fn remember_affinity(&self, key: &AffinityKey, affinity: Affinity);
    /// The backend that a socket's datagrams went to.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Remembers `flow`. Forgetting it under memory pressure costs an exchange its backend, not its forwarding.
    fn remember_flow(&self, key: &FlowKey, flow: Flow);
    /// The frontend that a socket's peer stands for.
    fn origin(&self, key: &OriginKey) -> Option<Origin>;
    /// Remembers `origin`. Forgetting it under memory pressure shows the application the backend's address.
    fn remember_origin(&self, key: &OriginKey, origin: Origin);
    /// A number that nobody can foretell.
    fn random(&self) -> u32;
    /// Nanoseconds since the machine started, sleep included.
    fn now(&self) -> u64;
}

/// Who asks for a backend. Each answer costs, so that it is asked for only where a service's rules depend on it.
pub trait Asker {
    /// Whom affinity takes it for.
    fn client(&self) -> Client;
    /// The hash of its flow, where all nodes that the flow may cross see it alike; `None` for a socket of this node,
    /// which stays with what it got.
    fn flow_hash(&self) -> Option<u32>;
}

/// A socket of this node.
pub trait Socket: Asker {
    /// The number that names it as long as the kernel runs.
    fn cookie(&self) -> u64;
}

/// What becomes of a connection or a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No service of ours: it goes where it was going.
    Pass,
    /// It goes to this backend instead.
    Forward(Backend),
    /// A service without backends, or none at an address of services: the application is told so at once.
    Refuse,
    /// A service whose backends are all elsewhere, or a cluster address that no service has: nobody answers.
    Drop,
}

/// The number of the protocol (IANA).
pub const TCP: u8 = 6;

/// So many backends are compared for the one with the fewest connections: all of a service that has no more, else those whose
/// turn it is.
const COMPARED: u32 = 16;

/// How often a choice starts over when the backend it fell on vanished meanwhile. Each time takes a removal between two
/// neighbouring look-ups, so the bound is for the verifier and not for life.
const ATTEMPTS: u32 = 4;

/// A socket connects to `frontend`: it gets a backend by the rules of the service.
#[inline(always)]
pub fn connect(tables: &impl Tables, socket: &impl Socket, frontend: &ServiceKey) -> Verdict {
    let Some(service) = tables.service(frontend) else { return unserved(tables, frontend) };
    match choose(tables, socket, frontend, service) {
        Choice::Backend(id, backend) => {
            let cookie = Cookie(socket.cookie());
            hold(tables, cookie, service, id);
            tables.tally(service.id, Tallied::SocketConnection);
            if frontend.protocol == TCP {
                tables.remember_dial(cookie, Dial { service: service.id, reserved: 0, begun: tables.now() });
            }
            forward(tables, socket.cookie(), frontend, backend)
        }
        Choice::Empty(rules) => unanswered(tables, service.id, rules),
        Choice::Gone => Verdict::Pass,
    }
}

/// A socket that is not connected sends a datagram to `frontend`: it goes where the socket's last one went, as long as
/// that backend lives, so that an exchange of several datagrams meets one backend.
#[inline(always)]
pub fn send(tables: &impl Tables, socket: &impl Socket, frontend: &ServiceKey) -> Verdict {
    let Some(service) = tables.service(frontend) else { return unserved(tables, frontend) };
    let cookie = socket.cookie();
    let key = FlowKey { cookie, service: service.id, reserved: 0 };
    if let Some(flow) = tables.flow(&key)
        && let Some(backend) = own(tables, service.id, flow.backend)
    {
        return forward(tables, cookie, frontend, backend);
    }
    match choose(tables, socket, frontend, service) {
        Choice::Backend(id, backend) => {
            tables.remember_flow(&key, Flow { backend: id });
            hold(tables, Cookie(cookie), service, id);
            tables.tally(service.id, Tallied::SocketConnection);
            forward(tables, cookie, frontend, backend)
        }
        Choice::Empty(rules) => unanswered(tables, service.id, rules),
        Choice::Gone => Verdict::Pass,
    }
}

/// The handshake of a socket's connection is done.
#[inline(always)]
pub fn established(tables: &impl Tables, socket: Cookie) {
    if let Some(Dial { service, begun, .. }) = tables.take_dial(socket) {
        tables.note_latency(service, tables.now().saturating_sub(begun));
    }
}

/// A socket's last owner closes it.
#[inline(always)]
pub fn closed(tables: &impl Tables, socket: Cookie) {
    tables.release(socket);
}

/// Which frontend the application named when it came to talk to `peer`; `None` where it named the peer itself.
#[inline(always)]
pub fn origin(tables: &impl Tables, peer: &OriginKey) -> Option<Origin> {
    tables.origin(peer)
}

/// What a service has for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Backend(BackendId, Backend),
    /// No backend; the rules say what the client is told.
    Empty(Rules),
    /// The service itself was removed meanwhile.
    Gone,
}

/// The backend for a new connection: the one that the client had, where the service's rules and its backends allow, or
/// else the scheduler's.
#[inline(always)]
pub fn choose(tables: &impl Tables, asker: &impl Asker, frontend: &ServiceKey, found: Service) -> Choice {
    let rules = found.rules;
    if !rules.has(Rules::AFFINITY) {
        return schedule(tables, asker, frontend, found);
    }
    let key = AffinityKey { group: rules.affinity_group, client: asker.client() };
    let now = tables.now();
    if let Some((id, backend)) = had(tables, &key, found, now) {
        remember(tables, &key, backend, now);
        return Choice::Backend(id, backend);
    }
    let choice = schedule(tables, asker, frontend, found);
    if let Choice::Backend(_, backend) = choice {
        remember(tables, &key, backend, now);
    }
    choice
}

/// The backend that all nodes with equal endpoints give to a flow with this hash; `None` for a service that is not
/// scheduled so, or has no backend.
#[inline(always)]
pub fn consistent(tables: &impl Tables, service: ServiceId, flow_hash: u32) -> Option<(BackendId, Backend)> {
    let id = tables.maglev(service, flow_hash)?;
    Some((id, own(tables, service, id)?))
}

/// The backend that a client had, while it is remembered and one of this service's.
#[inline(always)]
fn had(tables: &impl Tables, key: &AffinityKey, service: Service, now: u64) -> Option<(BackendId, Backend)> {
    let Affinity { address, port, seen, .. } = tables.affinity(key)?;
    if now.saturating_sub(seen) >= u64::from(service.rules.affinity_timeout) * NANOSECONDS {
        return None;
    }
    let id = tables.member(&MemberKey { service: service.id, address, port, reserved: 0 })?;
    let backend = own(tables, service.id, id)?;
    if backend.address == address && backend.port == port { Some((id, backend)) } else { None }
}

#[inline(always)]
fn remember(tables: &impl Tables, key: &AffinityKey, backend: Backend, seen: u64) {
    let Backend { address, port, .. } = backend;
    tables.remember_affinity(key, Affinity { address, port, reserved: [0; 3], seen });
}

const NANOSECONDS: u64 = 1_000_000_000;

/// The backend that is due. A service that shrinks meanwhile may have lost the slot that a turn names, or the backend in
/// it; then the same turn is taken among what is left.
#[inline(always)]
fn schedule(tables: &impl Tables, asker: &impl Asker, frontend: &ServiceKey, found: Service) -> Choice {
    if found.rules.scheduler == Scheduler::MAGLEV
        && let Some(hash) = asker.flow_hash()
        && let Some((id, backend)) = consistent(tables, found.id, hash)
    {
        return Choice::Backend(id, backend);
    }
    let turn = if found.rules.scheduler == Scheduler::RANDOM {
        u64::from(tables.random())
    } else {
        match tables.take_turn(found.id) {
            Some(turn) => turn,
            None => return Choice::Gone,
        }
    };
    if found.rules.scheduler == Scheduler::LEAST_CONNECTIONS
        && let Some((id, backend)) = least_loaded(tables, found, turn)
    {
        return Choice::Backend(id, backend);
    }
    let mut service = found;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if service.slots == 0 {
            return Choice::Empty(service.rules);
        }
        let slot = slot_of(turn, service.slots);
        if let Some(id) = tables.slot(&SlotKey { service: service.id, slot })
            && let Some(backend) = own(tables, service.id, id)
        {
            return Choice::Backend(id, backend);
        }
        match tables.service(frontend) {
            Some(now) => service = now,
            None => return Choice::Gone,
        }
        attempt += 1;
    }
    Choice::Empty(service.rules)
}

/// The search for the backend of a service that has the fewest connections; among equals they take turns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Search {
    fewest: u64,
    turn: u64,
    service: ServiceId,
    slots: u32,
    least: BackendId,
}

impl Search {
    /// Compares the one that is so many slots after that whose turn it is.
    #[inline(always)]
    pub fn compare(&mut self, tables: &impl Tables, after: u32) {
        if self.slots == 0 {
            return;
        }
        let slot = slot_of(self.turn.wrapping_add(after.into()), self.slots);
        if let Some(id) = tables.slot(&SlotKey { service: self.service, slot }) {
            let load = tables.load(id);
            if load < self.fewest {
                (self.least, self.fewest) = (id, load);
            }
        }
    }
}

#[inline(always)]
fn least_loaded(tables: &impl Tables, service: Service, turn: u64) -> Option<(BackendId, Backend)> {
    let Service { id: service, slots, .. } = service;
    let mut search = Search { fewest: u64::MAX, turn, service, slots, least: NO_BACKEND };
    tables.compare(&mut search, if slots < COMPARED { slots } else { COMPARED });
    Some((search.least, own(tables, service, search.least)?))
}

#[inline(always)]
fn hold(tables: &impl Tables, socket: Cookie, service: Service, id: BackendId) {
    if service.rules.scheduler == Scheduler::LEAST_CONNECTIONS {
        tables.hold(socket, id);
    }
}

/// What the client of what is no service is told.
#[inline(always)]
fn unserved(tables: &impl Tables, frontend: &ServiceKey) -> Verdict {
    if tables.is_exclusive(&frontend.address) {
        Verdict::Refuse
    } else if tables.is_in_service_cidr(&frontend.address) {
        Verdict::Drop
    } else {
        Verdict::Pass
    }
}

/// What the client of a service without backends is told.
#[inline(always)]
fn unanswered(tables: &impl Tables, service: ServiceId, rules: Rules) -> Verdict {
    tables.tally(service, Tallied::Refused);
    if rules.has(Rules::DROP_WHEN_EMPTY) { Verdict::Drop } else { Verdict::Refuse }
}

/// The slot that a turn falls on.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder is smaller than its divisor, a u32")]
const fn slot_of(turn: u64, slots: u32) -> u32 {
    (turn % slots as u64) as u32
}

/// A backend that still is one of this service's.
#[inline(always)]
pub(crate) fn own(tables: &impl Tables, service: ServiceId, id: BackendId) -> Option<Backend> {
    let backend = tables.backend(id)?;
    if backend.service.0 == service.0 { Some(backend) } else { None }
}

#[inline(always)]
fn forward(tables: &impl Tables, cookie: u64, frontend: &ServiceKey, backend: Backend) -> Verdict {
    let peer = OriginKey { cookie, address: backend.address, port: backend.port, reserved: [0; 3] };
    let named = Origin { address: frontend.address, port: frontend.port, reserved: 0 };
    // Written only when it is news: every datagram of an exchange comes through here.
    if tables.origin(&peer) != Some(named) {
        tables.remember_origin(&peer, named);
    }
    Verdict::Forward(backend)
}

#[cfg(test)]
mod tests;
