//! What becomes of a packet: decided from the tables alone.
//!
//! What is not inlined is a stage: the verifier forgets how it got to its end, and so walks the stages one after the
//! other and not every way through all of them.

mod stack;

use ebpf_abi::{
    ANSWERED, Address, Audience, BACKEND_DONE, CLIENT_DONE, Client, Connection, Counter, FragmentKey,
    Interface, Masquerade, NO_SERVICE, Node, Path, Port, Ports, REPLY, RESET, Rules, SECOND, ServiceKey,
    SourceRange, Tallied, Tuple,
};

use super::parse::{FIN, Internet, Packet, Part, RST, TCP};
use crate::Tables;
use crate::forwarding::{Asker, Choice, choose, own};

/// What the decisions look up and remember.
pub trait Conversations {
    /// The services.
    fn services(&self) -> &impl Tables;
    /// What was remembered under a tuple.
    fn connection(&self, key: &Tuple) -> Option<Connection>;
    /// Whether anything was.
    fn knows(&self, key: &Tuple) -> bool;
    /// Remembers `connection` unless there is an entry; true where there was none.
    fn reserve(&self, key: &Tuple, connection: &Connection) -> bool;
    /// Remembers `connection`. Where that fails for want of memory the next packet is translated as a first one.
    fn remember(&self, key: &Tuple, connection: &Connection);
    /// Notes when an entry was last of use, and what was seen; false where there is none.
    fn touch(&self, key: &Tuple, seen: u64, flags: u32) -> bool;
    /// The same, and that all its bytes are told.
    fn settle(&self, key: &Tuple, seen: u64, flags: u32) -> bool;
    /// Notes where the packets of an entry leave, and that all its bytes are told.
    fn lead(&self, key: &Tuple, path: &Path);
    /// The ports of a datagram in fragments.
    fn fragment(&self, key: &FragmentKey) -> Option<Ports>;
    /// Remembers them.
    fn remember_fragment(&self, key: &FragmentKey, ports: Ports);
    /// Where the kernel would forward `packet` if it had this tuple.
    fn route(&self, tuple: &Tuple, packet: &Packet) -> Route;
    /// What an interface is.
    fn interface(&self, index: u32) -> Option<Interface>;
    /// What the node is.
    fn node(&self) -> Option<Node>;
    /// Whether an address is that of a pod.
    fn is_pod(&self, address: Address) -> bool;
    /// Whether a service that is not for everybody is for this client.
    fn admits(&self, source: SourceRange) -> bool;
    /// Whether what is forwarded goes through the node's stack, and so its netfilter.
    fn by_stack(&self) -> bool;
    /// Counts.
    fn count(&self, counter: Counter, by: u64);
}

/// Where a packet leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What kind it is.
    pub kind: RouteKind,
    /// By which interface it leaves.
    pub interface: u32,
    /// To which neighbour.
    pub next: Address,
    /// How long a packet may be there; 0 where the kernel does not say.
    pub mtu: u32,
}

/// What can be said of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// By an interface.
    Forward,
    /// By an interface for which the packet is too long.
    TooBig,
    /// It is for the node itself.
    Local,
    /// There is none.
    Unreachable,
}

/// A packet and what was found out about it.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its IP headers.
    pub headers: [Internet; 2],
    /// The packet.
    pub packet: Packet,
    /// The tuple it leaves with.
    pub becomes: Tuple,
    /// Where it leaves.
    pub route: Route,
    /// What is remembered, or to be remembered, of its conversation.
    pub connection: Connection,
    /// Bytes of packets before it that are to be told of with its own.
    pub untold: u64,
}

/// What becomes of a packet. One word, which is what a function in the kernel can return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// It goes where it was going.
    Pass,
    /// It becomes [`Work::becomes`], and goes where that goes.
    Translate,
    /// Its sender is told that nobody serves here.
    Refuse,
    /// It goes nowhere: see [`Counter::NoLocalBackend`].
    NoLocalBackend,
    /// It goes nowhere: see [`Counter::Unallocated`].
    Unallocated,
    /// It goes nowhere: see [`Counter::SourceRange`].
    SourceRange,
    /// It goes nowhere: see [`Counter::NoPort`].
    NoPort,
    /// It goes nowhere: see [`Counter::NoRoute`].
    NoRoute,
    /// Its sender is told: see [`Counter::TooBig`].
    TooBig,
    /// Its sender is told: see [`Counter::HopLimit`].
    HopLimit,
}

/// How a packet arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// By which interface.
    pub interface: u32,
    /// Whether it is the node's to take: not where its frame was for somebody else, as a switch shows it.
    pub ours: bool,
    /// Whether it was looked up already, and is of no conversation.
    pub stranger: bool,
    /// When.
    pub now: u64,
}

/// A packet arrives.
#[inline(always)]
pub fn arrive(tables: &impl Conversations, work: &mut Work, arrival: Arrival) -> Verdict {
    let Arrival { interface, ours, stranger, now } = arrival;
    work.untold = 0;
    if !is_complete(tables, &mut work.packet) {
        return Verdict::Pass;
    }
    if !stranger && known(tables, work, now) {
        if tables.by_stack() {
            return stack::arrive(tables, work);
        }
        work.route = tables.route(&work.becomes, &work.packet);
        note_path(tables, work, interface, now);
        return leave_by(work);
    }
    if !ours || work.packet.part == Part::Error {
        return Verdict::Pass;
    }
    let verdict = open(tables, work, interface, now);
    // Not in there, where the kernel's stack has no room for one more call.
    if verdict == Verdict::Translate {
        tables.services().tally(work.connection.service, Tallied::PacketConnection);
    } else if work.connection.service != NO_SERVICE
        && (verdict == Verdict::Refuse || verdict == Verdict::NoLocalBackend)
    {
        tables.services().tally(work.connection.service, Tallied::Refused);
    }
    if verdict != Verdict::Translate {
        // An address of the node's own is the node's, wherever it is from.
        let is_local = verdict == Verdict::Unallocated
            && tables.route(&work.packet.tuple, &work.packet).kind == RouteKind::Local;
        return if is_local { Verdict::Pass } else { verdict };
    }
    if !claim(tables, work) {
        return Verdict::NoPort;
    }
    tables.services().conversation_began(work.connection.backend);
    if tables.by_stack() {
        return if stack::claim(tables, work) { stack::arrive(tables, work) } else { Verdict::NoPort };
    }
    leave_by(work)
}

/// A packet leaves the node that the node's stack had: an answer of a backend that is a process of the node, or any
/// where the stack forwards.
#[inline(always)]
pub fn leave(tables: &impl Conversations, work: &mut Work, now: u64) -> Verdict {
    work.untold = 0;
    if !is_complete(tables, &mut work.packet) {
        return Verdict::Pass;
    }
    if known(tables, work, now) || (tables.by_stack() && stack::masqueraded(tables, work, now)) {
        return Verdict::Translate;
    }
    Verdict::Pass
}

#[inline(always)]
fn leave_by(work: &Work) -> Verdict {
    match work.route.kind {
        RouteKind::Forward if work.packet.hops <= 1 => Verdict::HopLimit,
        RouteKind::Forward | RouteKind::Local => Verdict::Translate,
        RouteKind::TooBig => Verdict::TooBig,
        RouteKind::Unreachable => Verdict::NoRoute,
    }
}

/// Notes where the conversation's packets leave, for those that follow.
#[inline(never)]
fn note_path(tables: &impl Conversations, work: &mut Work, interface: u32, now: u64) {
    let Work { packet, route, connection, .. } = work;
    let known = route.kind == RouteKind::Forward && route.mtu != 0;
    if !known || packet.part != Part::Whole || connection.path.is_fresh(now) {
        return;
    }
    connection.path = Path {
        next: route.next,
        interface: route.interface,
        mtu: route.mtu,
        found: Path::clock(now),
        seal: 0,
    };
    connection.path.seal = connection.seal(&packet.tuple, interface);
    tables.lead(&packet.tuple, &connection.path);
    work.untold = connection.untold;
}

/// Whether a packet that neither opens nor closes a connection becomes and leaves as the entry of its tuple says, and there is
/// nothing to be noted. Of a datagram of a client's the backend is to be looked at yet.
#[inline(always)]
pub fn goes_on(connection: &Connection, key: &Tuple, interface: u32, now: u64) -> bool {
    const ANSWER: u32 = REPLY | ANSWERED;
    let noted = connection.flags & RESET == 0 && connection.flags & ANSWER != REPLY;
    noted
        && now.wrapping_sub(connection.seen) <= SECOND
        && connection.path.is_fresh(now)
        && connection.path.seal == connection.seal(key, interface)
}

/// Gives a fragment its ports; false where the one that had them has not come by.
#[inline(never)]
fn is_complete(tables: &impl Conversations, packet: &mut Packet) -> bool {
    if packet.part == Part::Whole || packet.part == Part::Error {
        return true;
    }
    let key = FragmentKey {
        source: packet.tuple.source,
        destination: packet.tuple.destination,
        identification: packet.identification,
        protocol: packet.tuple.protocol,
        reserved: [0; 3],
    };
    if packet.part == Part::First {
        let ports = Ports { source: packet.tuple.source_port, destination: packet.tuple.destination_port };
        tables.remember_fragment(&key, ports);
        return true;
    }
    let Some(ports) = tables.fragment(&key) else { return false };
    packet.tuple.source_port = ports.source;
    packet.tuple.destination_port = ports.destination;
    true
}

/// Whether the packet is of a conversation under way, which then goes on as it is.
#[inline(always)]
fn known(tables: &impl Conversations, work: &mut Work, now: u64) -> bool {
    if !find(tables, work, now) {
        return false;
    }
    if work.packet.part != Part::Error {
        let flags = flags_after(&work.connection, &work.packet);
        // Once a second will do: entries are written by all processors.
        if flags != work.connection.flags || now.wrapping_sub(work.connection.seen) > SECOND {
            let went_on = !work.connection.is_closed();
            work.connection.flags = flags;
            if went_on && work.connection.is_closed() {
                tables.services().conversation_ended(work.connection.backend);
            }
            work.connection.seen = now;
            keep(tables, work);
        }
    }
    work.becomes = work.connection.becomes;
    true
}

/// Looks up the packet's conversation; false where there is none that goes on.
#[inline(never)]
fn find(tables: &impl Conversations, work: &mut Work, now: u64) -> bool {
    let packet = &work.packet;
    let Some(connection) = tables.connection(&packet.tuple) else { return false };
    work.connection = connection;
    if packet.part == Part::Error {
        return true;
    }
    let from_client = connection.flags & REPLY == 0;
    let anew = from_client && starts_anew(tables.services(), packet, &connection);
    !anew && !connection.is_over(packet.tuple.protocol, now)
}

/// Whether a client begins again under the ports of a conversation that is over, or waits in vain for a backend that
/// is gone: then it gets another. A TCP connection that was answered keeps its backend whatever becomes of that.
#[inline(always)]
fn starts_anew(tables: &impl Tables, packet: &Packet, connection: &Connection) -> bool {
    let gone = || own(tables, connection.service, connection.backend).is_none();
    if packet.tuple.protocol != TCP {
        return gone();
    }
    packet.is_syn() && (connection.is_closed() || (connection.flags & ANSWERED == 0 && gone()))
}

#[inline(always)]
fn flags_after(connection: &Connection, packet: &Packet) -> u32 {
    let mut flags = connection.flags;
    let is_reply = flags & REPLY != 0;
    if is_reply {
        flags |= ANSWERED;
    }
    if packet.tuple.protocol == TCP && packet.part != Part::Later {
        if packet.flags & FIN != 0 {
            flags |= if is_reply { BACKEND_DONE } else { CLIENT_DONE };
        }
        // Who goes on after a reset was not reset: anybody can forge one.
        flags = if packet.flags & RST != 0 { flags | RESET } else { flags & !RESET };
    }
    flags
}

/// Writes what was seen into both entries, and puts back the one that was pushed out.
#[inline(never)]
fn keep(tables: &impl Conversations, work: &mut Work) {
    let (key, connection) = (&work.packet.tuple, &mut work.connection);
    if tables.settle(key, connection.seen, connection.flags) {
        work.untold = connection.untold;
    }
    work.becomes = connection.becomes.reversed();
    let flags = connection.flags ^ REPLY;
    if !tables.touch(&work.becomes, connection.seen, flags) {
        let restored =
            Connection { becomes: key.reversed(), flags, untold: 0, path: Path::default(), ..*connection };
        if tables.reserve(&work.becomes, &restored) {
            tables.count(Counter::Restored, 1);
        }
    }
}

/// A conversation begins, if the destination is a frontend.
#[inline(never)]
fn open(tables: &impl Conversations, work: &mut Work, interface: u32, now: u64) -> Verdict {
    let tuple = &work.packet.tuple;
    let inside = tables.interface(interface).is_some_and(|interface| interface.pods != 0)
        || tables.is_pod(tuple.source);
    let mut frontend = ServiceKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        audience: if inside { Audience::EVERYONE } else { Audience::OUTSIDE },
    };
    let mut found = tables.services().service(&frontend);
    if found.is_none() && !inside {
        frontend.audience = Audience::EVERYONE;
        found = tables.services().service(&frontend);
    }
    let Some(service) = found else { return unserved(tables, work) };
    let rules = service.rules;
    if rules.has(Rules::SOURCE_RANGES)
        && !tables.admits(SourceRange { service: service.id, address: tuple.source })
    {
        return Verdict::SourceRange;
    }
    let (id, backend) = match choose(tables.services(), &Sender(tuple), &frontend, service) {
        Choice::Backend(id, backend) => (id, backend),
        Choice::Gone => return Verdict::Pass,
        Choice::Empty(rules) => {
            work.connection.service = service.id;
            return if rules.has(Rules::DROP_WHEN_EMPTY) { Verdict::NoLocalBackend } else { Verdict::Refuse };
        }
    };
    work.becomes =
        Tuple { destination: backend.address, destination_port: backend.port, ..work.packet.tuple };
    work.route = tables.route(&work.becomes, &work.packet);
    if work.route.kind == RouteKind::Unreachable {
        return Verdict::NoRoute;
    }
    let masquerade = backend.address == work.packet.tuple.source
        || rules.masquerade == Masquerade::ALWAYS
        || (rules.masquerade == Masquerade::FROM_OUTSIDE_PODS && !inside);
    // What is delivered to the node itself is answered by the node itself.
    if masquerade && work.route.kind != RouteKind::Local && !stand_in(tables, work) {
        return Verdict::NoPort;
    }
    work.connection = Connection {
        becomes: work.packet.tuple.reversed(),
        seen: now,
        service: service.id,
        backend: id,
        flags: REPLY,
        stack_port: 0,
        untold: 0,
        path: Path::default(),
    };
    tables.count(Counter::Opened, 1);
    if work.packet.tuple.protocol == TCP && !work.packet.is_syn() {
        tables.count(Counter::Resumed, 1);
    }
    Verdict::Translate
}

/// What becomes of a packet to what is no service.
#[inline(always)]
fn unserved(tables: &impl Conversations, work: &mut Work) -> Verdict {
    let destination = &work.packet.tuple.destination;
    if tables.services().is_exclusive(destination) {
        // It is no service's refusal.
        work.connection.service = NO_SERVICE;
        return Verdict::Refuse;
    }
    if tables.services().is_in_service_cidr(destination) { Verdict::Unallocated } else { Verdict::Pass }
}

/// Whoever sends a packet. Every node sees the same of it.
struct Sender<'packet>(&'packet Tuple);

impl Asker for Sender<'_> {
    #[inline(always)]
    fn client(&self) -> Client {
        Client::from_address(self.0.source)
    }

    #[inline(always)]
    fn flow_hash(&self) -> Option<u32> {
        let ports = u32::from(self.0.source_port.wire()) << 16 | u32::from(self.0.destination_port.wire());
        let hash = mixed(u32::from(self.0.protocol), [ports]);
        let hash = mixed(hash, self.0.source.v6_words());
        Some(mixed(hash, self.0.destination.v6_words()))
    }
}

/// Mixes words into a hash as `MurmurHash3` does (Appleby, public domain): each bit of a word turns half of the result's.
#[inline(always)]
fn mixed<const N: usize>(hash: u32, words: [u32; N]) -> u32 {
    let step = |hash: u32, word: u32| {
        let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
        (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    };
    let hash = words.into_iter().fold(hash, step);
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// So many ports are tried for a client before its packet is dropped. Each try is a random one: with half of them
/// taken one packet in 65,536 is dropped, and sent again by a client that means it.
const ATTEMPTS: u32 = 16;

/// Remembers the conversation under its answers' tuple, which nobody else may have, and then under the client's.
#[inline(never)]
fn claim(tables: &impl Conversations, work: &mut Work) -> bool {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if is_free(tables, &work.becomes.reversed(), &work.connection) {
            work.connection.becomes = work.becomes;
            work.connection.flags = 0;
            tables.remember(&work.packet.tuple, &work.connection);
            return true;
        }
        let Some(node) = tables.node() else { return false };
        work.becomes.source_port = random_port(tables, node);
        attempt += 1;
    }
    false
}

/// Whether the entry is this conversation's now: there was none, or a stale one.
#[inline(always)]
fn is_free(tables: &impl Conversations, key: &Tuple, answers: &Connection) -> bool {
    if tables.reserve(key, answers) {
        return true;
    }
    let free = match tables.connection(key) {
        Some(taken) => taken.becomes == answers.becomes || taken.is_over(key.protocol, answers.seen),
        None => true,
    };
    if free {
        tables.remember(key, answers);
    }
    free
}

/// The node takes the client's place; false where it has no address to do so.
#[inline(always)]
fn stand_in(tables: &impl Conversations, work: &mut Work) -> bool {
    let (Some(node), Some(address)) = (tables.node(), address_of(tables, work)) else { return false };
    work.becomes.source = address;
    work.becomes.source_port = random_port(tables, node);
    true
}

/// The node's own address on the way to the backend.
#[inline(always)]
fn address_of(tables: &impl Conversations, work: &Work) -> Option<Address> {
    let interface = tables.interface(work.route.interface)?;
    let address = if work.becomes.destination.is_v4() { interface.ipv4 } else { interface.ipv6 };
    (address != Address::from_v6_words([0; 4])).then_some(address)
}

#[inline(always)]
fn random_port(tables: &impl Conversations, node: Node) -> Port {
    let span = if node.ports == 0 { 1 } else { node.ports };
    Port::from_number((node.first_port + tables.services().random() % span) as u16)
}

#[cfg(test)]
mod tests;
