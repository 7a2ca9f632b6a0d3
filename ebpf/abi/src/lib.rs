//! The keys and values of the maps that the eBPF programs read and the dataplane writes.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | [`SERVICES`] | hash | [`ServiceKey`] | [`Service`] | dataplane |
//! | [`EXCLUSIVE`] | hash | [`Address`] | [`u32`], always 1 | dataplane |
//! | [`SERVICE_CIDRS`] | longest-prefix match | [`Address`] | [`u32`], always 1 | dataplane |
//! | [`SLOTS`] | hash | [`SlotKey`] | [`BackendId`] | dataplane |
//! | [`BACKENDS`] | hash | [`BackendId`] | [`Backend`] | dataplane |
//! | [`MEMBERS`] | hash | [`MemberKey`] | [`BackendId`] | dataplane |
//! | [`MAGLEV`] | hash | [`ServiceId`] | [`MaglevTable`] | dataplane |
//! | [`SOURCE_RANGES`] | longest-prefix match | [`SourceRange`] | [`u32`], always 1 | dataplane |
//! | [`TURNS`] | hash | [`ServiceId`] | [`Turn`] | dataplane creates, programs count |
//! | [`TALLIES`] | LRU hash per CPU | [`ServiceId`] | [`Tally`] | programs |
//! | [`SOCKET_LOADS`] | hash | [`BackendId`] | [`Load`] | dataplane creates, programs count |
//! | [`PACKET_LOADS`] | hash | [`BackendId`] | [`Load`] | dataplane creates and counts anew, programs count |
//! | [`HELD`] | hash | [`Cookie`] | [`Held`] | programs |
//! | [`DIALS`] | LRU hash | [`Cookie`] | [`Dial`] | programs |
//! | [`LATENCIES`] | LRU hash | [`ServiceId`] | [`Latency`] | programs |
//! | [`AFFINITY`] | LRU hash | [`AffinityKey`] | [`Affinity`] | programs |
//! | [`FLOWS`] | LRU hash | [`FlowKey`] | [`Flow`] | programs |
//! | [`ORIGINS`] | LRU hash | [`OriginKey`] | [`Origin`] | programs |
//! | [`CONNECTIONS`] | LRU hash | [`Tuple`] | [`Connection`] | programs |
//! | [`FRAGMENTS`] | LRU hash | [`FragmentKey`] | [`Ports`] | programs |
//! | [`INTERFACES`] | hash | interface index | [`Interface`] | dataplane |
//! | [`PODS`] | LPM trie | [`Address`] | 1 | dataplane |
//! | [`NODE`] | array | 0 | [`Node`] | dataplane |
//! | [`COUNTERS`] | array per CPU | [`Counter`] | a number | programs |
//!
//! A connection to a service is one look-up in `SERVICES`, one count in `TURNS` and the look-ups of the slot that the
//! count names and of the backend in it; rules that ask for more cost more. Identifiers are given out once and never again while the maps live, so that
//! what a program remembers of a backend that is gone can be told from its successor.
//!
//! Byte order is a matter of type: [`Address`] and [`Port`] hold what is on the wire, every other number is the host's.
//! No type has padding; a change of size is a change of [`VERSION`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod affinity;
mod backend;
mod connection;
mod flow;
mod load;
mod service;
mod tally;

pub use address::{Address, Port};
pub use affinity::{Affinity, AffinityKey, Client, MemberKey};
pub use backend::{Backend, BackendId, MaglevTable, NO_BACKEND, SlotKey};
pub use connection::{
    ANSWERED, BACKEND_DONE, CLIENT_DONE, Connection, Counter, FragmentKey, Interface, Node, Path, Ports,
    REPLY, RESET, SECOND, Tuple,
};
pub use flow::{Flow, FlowKey, Origin, OriginKey};
pub use load::{Cookie, Dial, Held, Latency, Load};
pub use service::{
    Audience, Masquerade, NO_SERVICE, Rules, Scheduler, Service, ServiceId, ServiceKey, SourceRange, Turn,
};
pub use tally::{Tallied, Tally};

/// Version of everything in this crate. State pinned by another version is not read.
pub const VERSION: u32 = 4;

/// A map: what the kernel calls it and how many entries it holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The map's name, at most 15 bytes, which is all the kernel keeps.
    pub name: &'static str,
    /// Its capacity.
    pub capacity: u32,
}

/// Frontends.
pub const SERVICES: Table = Table { name: "SERVICES", capacity: 65_536 };
/// Addresses that belong to services alone: what none of them serves is refused.
pub const EXCLUSIVE: Table = Table { name: "EXCLUSIVE", capacity: SERVICES.capacity };
/// The networks that cluster addresses come from: what is for no service there goes nowhere.
pub const SERVICE_CIDRS: Table = Table { name: "SERVICE_CIDRS", capacity: 1024 };
/// The backends of each service, numbered from 0 without gaps.
pub const SLOTS: Table = Table { name: "SLOTS", capacity: 262_144 };
/// Backends.
pub const BACKENDS: Table = Table { name: "BACKENDS", capacity: 262_144 };
/// Which backend of a service an endpoint is: of services with affinity, and of those over UDP, whose sockets are looked
/// after when a backend goes.
pub const MEMBERS: Table = Table { name: "MEMBERS", capacity: BACKENDS.capacity };
/// The tables of the services whose scheduler is [`Scheduler::MAGLEV`].
pub const MAGLEV: Table = Table { name: "MAGLEV", capacity: 16_384 };
/// Who may use the services with [`Rules::SOURCE_RANGES`].
pub const SOURCE_RANGES: Table = Table { name: "SOURCE_RANGES", capacity: 131_072 };
/// The round robin counter of each service. Under [`NO_SERVICE`] it keeps the first identifier that is not reserved
/// yet, so that a dataplane that starts over what it finds gives out none again. There is room for one more, so that it is
/// [`SERVICES`] that is found full.
pub const TURNS: Table = Table { name: "TURNS", capacity: SERVICES.capacity + 2 };
/// What was counted of the services that were asked for of late. A service that was not for long may be counted anew.
pub const TALLIES: Table = Table { name: "TALLIES", capacity: 16_384 };
/// How many sockets of the node have a backend, of the services whose scheduler is [`Scheduler::LEAST_CONNECTIONS`].
pub const SOCKET_LOADS: Table = Table { name: "SOCKET_LOADS", capacity: BACKENDS.capacity };
/// How many conversations that are translated packet by packet have it.
pub const PACKET_LOADS: Table = Table { name: "PACKET_LOADS", capacity: BACKENDS.capacity };
/// Which backend a socket counts for in [`SOCKET_LOADS`]. Where there is no room it counts for none.
pub const HELD: Table = Table { name: "HELD", capacity: 262_144 };
/// The sockets whose handshake is under way.
pub const DIALS: Table = Table { name: "DIALS", capacity: 16_384 };
/// How long connections took, of the services that were asked for of late.
pub const LATENCIES: Table = Table { name: "LATENCIES", capacity: TALLIES.capacity };
/// Which backend a client had, for services with [`Rules::AFFINITY`].
pub const AFFINITY: Table = Table { name: "AFFINITY", capacity: 65_536 };
/// Which backend an unconnected UDP socket talks to.
pub const FLOWS: Table = Table { name: "FLOWS", capacity: 131_072 };
/// Which service a translated peer stands for.
pub const ORIGINS: Table = Table { name: "ORIGINS", capacity: 131_072 };
/// Conversations that are translated packet by packet, both directions of each.
pub const CONNECTIONS: Table = Table { name: "CONNECTIONS", capacity: 262_144 };
/// The ports of datagrams that come in fragments.
pub const FRAGMENTS: Table = Table { name: "FRAGMENTS", capacity: 16_384 };
/// The interfaces of the node.
pub const INTERFACES: Table = Table { name: "INTERFACES", capacity: 16_384 };
/// Where the pods are whose packets count as the cluster's own.
pub const PODS: Table = Table { name: "PODS", capacity: 1024 };
/// What the packet programs are told of the node.
pub const NODE: Table = Table { name: "NODE", capacity: 1 };
/// What they count.
pub const COUNTERS: Table = Table { name: "COUNTERS", capacity: Counter::COUNT };

/// The maps of the packet programs alone; they read those of the services too.
pub const PACKET_TABLES: [Table; 6] = [CONNECTIONS, FRAGMENTS, INTERFACES, PODS, NODE, COUNTERS];

/// Every map of the programs at the socket.
pub const TABLES: [Table; 18] = [
    SERVICES,
    EXCLUSIVE,
    SERVICE_CIDRS,
    SLOTS,
    BACKENDS,
    MEMBERS,
    MAGLEV,
    SOURCE_RANGES,
    TURNS,
    TALLIES,
    SOCKET_LOADS,
    PACKET_LOADS,
    HELD,
    DIALS,
    LATENCIES,
    AFFINITY,
    FLOWS,
    ORIGINS,
];
