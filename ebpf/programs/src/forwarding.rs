//! Where a connection or a datagram goes, and where an answer seems to come from.

use ebpf_abi::{
    Backend, BackendId, Flow, FlowKey, Origin, OriginKey, Service, ServiceId, ServiceKey, SlotKey,
};

/// What the decisions look up and remember: the kernel's maps, or a test's values.
///
/// The dataplane changes the tables while decisions read them, one entry at a time. Every method answers for one
/// moment only, and with an entry that did exist.
pub trait Tables {
    /// The service at a frontend.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// Who holds a slot.
    fn slot(&self, key: &SlotKey) -> Option<BackendId>;
    /// An endpoint.
    fn backend(&self, id: BackendId) -> Option<Backend>;
    /// Counts one connection to `service` and says how many came before it.
    fn take_turn(&self, service: ServiceId) -> Option<u64>;
    /// The backend that a socket's datagrams went to.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Remembers `flow`. Forgetting it under memory pressure costs an exchange its backend, not its forwarding.
    fn remember_flow(&self, key: &FlowKey, flow: Flow);
    /// The frontend that a socket's peer stands for.
    fn origin(&self, key: &OriginKey) -> Option<Origin>;
    /// Remembers `origin`. Forgetting it under memory pressure shows the application the backend's address.
    fn remember_origin(&self, key: &OriginKey, origin: Origin);
}

/// What becomes of a connection or a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No service of ours: it goes where it was going.
    Pass,
    /// It goes to this backend instead.
    Forward(Backend),
    /// A service without backends: the application is told so at once.
    Refuse,
}

/// How often a choice starts over when the backend it fell on vanished meanwhile. Each time takes a removal between two
/// neighbouring look-ups, so the bound is for the verifier and not for life.
const ATTEMPTS: u32 = 4;

/// A socket connects to `frontend`: it gets the next backend in turn. `cookie` names the socket; it is asked for only
/// when the frontend is ours.
#[inline(always)]
pub fn connect(tables: &impl Tables, cookie: impl Fn() -> u64, frontend: &ServiceKey) -> Verdict {
    let Some(service) = tables.service(frontend) else { return Verdict::Pass };
    match choose(tables, frontend, service) {
        Choice::Backend(_, backend) => forward(tables, cookie(), frontend, backend),
        Choice::Gone => Verdict::Pass,
        Choice::Empty => Verdict::Refuse,
    }
}

/// A socket that is not connected sends a datagram to `frontend`: it goes where the socket's last one went, as long as
/// that backend lives, so that an exchange of several datagrams meets one backend.
#[inline(always)]
pub fn send(tables: &impl Tables, cookie: impl Fn() -> u64, frontend: &ServiceKey) -> Verdict {
    let Some(service) = tables.service(frontend) else { return Verdict::Pass };
    let cookie = cookie();
    let key = FlowKey { cookie, service: service.id, reserved: 0 };
    if let Some(flow) = tables.flow(&key)
        && let Some(backend) = member(tables, service.id, flow.backend)
    {
        return forward(tables, cookie, frontend, backend);
    }
    match choose(tables, frontend, service) {
        Choice::Backend(id, backend) => {
            tables.remember_flow(&key, Flow { backend: id });
            forward(tables, cookie, frontend, backend)
        }
        Choice::Gone => Verdict::Pass,
        Choice::Empty => Verdict::Refuse,
    }
}

/// Which frontend the application named when it came to talk to `peer`; `None` where it named the peer itself.
#[inline(always)]
pub fn origin(tables: &impl Tables, peer: &OriginKey) -> Option<Origin> {
    tables.origin(peer)
}

enum Choice {
    /// The next in turn.
    Backend(BackendId, Backend),
    /// The service has no backends.
    Empty,
    /// The service itself was removed meanwhile.
    Gone,
}

/// The next backend in turn. A service that shrinks meanwhile may have lost the slot that the turn names, or the
/// backend in it; then the same turn is taken among what is left.
#[inline(always)]
fn choose(tables: &impl Tables, frontend: &ServiceKey, found: Service) -> Choice {
    let Some(turn) = tables.take_turn(found.id) else { return Choice::Gone };
    let mut service = found;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if service.slots == 0 {
            return Choice::Empty;
        }
        let slot = slot_of(turn, service.slots);
        if let Some(id) = tables.slot(&SlotKey { service: service.id, slot })
            && let Some(backend) = member(tables, service.id, id)
        {
            return Choice::Backend(id, backend);
        }
        match tables.service(frontend) {
            Some(now) => service = now,
            None => return Choice::Gone,
        }
        attempt += 1;
    }
    Choice::Empty
}

/// The slot that a turn falls on.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder is smaller than its divisor, a u32")]
const fn slot_of(turn: u64, slots: u32) -> u32 {
    (turn % slots as u64) as u32
}

/// A backend that still is one of this service's.
#[inline(always)]
fn member(tables: &impl Tables, service: ServiceId, id: BackendId) -> Option<Backend> {
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
