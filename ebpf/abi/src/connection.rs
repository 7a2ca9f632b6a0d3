//! What the packet programs remember of conversations that they translate.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, BackendId, Port, ServiceId};

/// Both ends of a conversation, as the headers of a packet name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Tuple {
    /// Who sends.
    pub source: Address,
    /// To whom.
    pub destination: Address,
    /// The sender's port.
    pub source_port: Port,
    /// The receiver's port.
    pub destination_port: Port,
    /// The IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

impl Tuple {
    /// The tuple of an answer.
    #[inline]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

/// What becomes of the packets of one direction of a conversation; the key is the [`Tuple`] they arrive with. The entry
/// of the other direction follows from this one: its key is `becomes` reversed, and its packets become the key reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Connection {
    /// The tuple they leave with.
    pub becomes: Tuple,
    /// When one was last seen, in nanoseconds of the kernel's monotonic clock.
    pub seen: u64,
    /// The service that was asked for.
    pub service: ServiceId,
    /// The backend that it chose.
    pub backend: BackendId,
    /// What was seen: [`REPLY`], [`ANSWERED`], [`CLIENT_DONE`], [`BACKEND_DONE`], [`RESET`].
    pub flags: u32,
    /// The client's port while the node's stack has the packet, where it is not the client's own; else 0.
    pub stack_port: u32,
}

/// So many nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

impl Connection {
    /// Whether it has been silent for longer than one like it can be, of this IP protocol. From then on it is nobody's.
    #[inline]
    pub const fn is_over(&self, protocol: u8, now: u64) -> bool {
        now.saturating_sub(self.seen) > self.lifetime(protocol)
    }

    /// Whether both ends are done with it, or one has reset it.
    #[inline]
    pub const fn is_closed(&self) -> bool {
        const BOTH: u32 = CLIENT_DONE | BACKEND_DONE;
        self.flags & RESET != 0 || self.flags & BOTH == BOTH
    }

    /// How long it may be silent, in nanoseconds: what kube-proxy sets for conntrack, and conntrack's own where it sets none.
    #[inline]
    const fn lifetime(&self, protocol: u8) -> u64 {
        const TCP: u8 = 6;
        let answered = self.flags & ANSWERED != 0;
        let seconds = if protocol != TCP {
            if answered { 180 } else { 30 }
        } else if self.is_closed() || !answered {
            60
        } else if self.flags & (CLIENT_DONE | BACKEND_DONE) != 0 {
            3600
        } else {
            24 * 3600
        };
        seconds * SECOND
    }
}

/// These packets come from the backend.
pub const REPLY: u32 = 1;
/// The backend has answered.
pub const ANSWERED: u32 = 1 << 1;
/// The client has sent FIN.
pub const CLIENT_DONE: u32 = 1 << 2;
/// The backend has sent FIN.
pub const BACKEND_DONE: u32 = 1 << 3;
/// One of them has sent RST.
pub const RESET: u32 = 1 << 4;

/// A datagram in fragments, of which only the first says the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct FragmentKey {
    /// Who sends.
    pub source: Address,
    /// To whom.
    pub destination: Address,
    /// The IP identification, as on the wire.
    pub identification: u32,
    /// The IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// The ports of a datagram in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Ports {
    /// The sender's port.
    pub source: Port,
    /// The receiver's port.
    pub destination: Port,
}

/// What a network interface is to the packet programs; the key is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Interface {
    /// The IPv4 address that stands for clients behind it (mapped form); all zero where there is none.
    pub ipv4: Address,
    /// The IPv6 address that does; all zero where there is none.
    pub ipv6: Address,
    /// Not 0 where the packets that come in by it are those of pods of this node.
    pub pods: u32,
}

/// What the packet programs are told of the node; the only entry of its map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Node {
    /// The first port that stands for a client's, in host order.
    pub first_port: u32,
    /// How many there are.
    pub ports: u32,
}

/// What the packet programs count, each in its place of the map of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// Packets that were translated.
    Packets,
    /// Their bytes.
    Bytes,
    /// Conversations that began.
    Opened,
    /// Of these, TCP connections found under way: their entry was lost, or another node had it.
    Resumed,
    /// Entries of conversations under way that had been pushed out of the full table and were put back.
    Restored,
    /// Refused: the service has no backends.
    Refused,
    /// Dropped: the service has backends, but none that its traffic policy lets this client have.
    NoLocalBackend,
    /// Dropped: the client is outside of the service's source ranges.
    SourceRange,
    /// Dropped: no port was free, or no address there, to stand for the client.
    NoPort,
    /// Dropped: the kernel has no route to where it should go, or does not forward.
    NoRoute,
    /// Dropped: it does not fit into the next link.
    TooBig,
    /// Dropped: it has passed too many routers.
    HopLimit,
    /// Dropped: the kernel could not change it.
    Failed,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = Self::Failed as u32 + 1;

    /// All of them, in the order of the map.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Packets,
        Self::Bytes,
        Self::Opened,
        Self::Resumed,
        Self::Restored,
        Self::Refused,
        Self::NoLocalBackend,
        Self::SourceRange,
        Self::NoPort,
        Self::NoRoute,
        Self::TooBig,
        Self::HopLimit,
        Self::Failed,
    ];
}

const _: () = assert!(size_of::<Tuple>() == 40);
const _: () = assert!(size_of::<Connection>() == 64);
const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<Ports>() == 4);
const _: () = assert!(size_of::<Interface>() == 36);
const _: () = assert!(size_of::<Node>() == 8);
