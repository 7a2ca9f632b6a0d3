//! What the packet programs remember of conversations that they translate.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, BackendId, Port, ServiceId};

/// Both ends of a conversation, as the headers of a packet name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C, align(8))]
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
    /// From what headers hold; the ports as they are beside each other on the wire.
    #[inline]
    pub fn from_headers(source: Address, destination: Address, ports: u32, protocol: u8) -> Self {
        let ([first, second, third, fourth], destination) = (source.v6_words(), destination.v6_words());
        let [fifth, sixth, seventh, eighth] = destination;
        let protocol = u32::from_ne_bytes([protocol, 0, 0, 0]);
        bytemuck::cast([first, second, third, fourth, fifth, sixth, seventh, eighth, ports, protocol])
    }

    /// The ports as they are beside each other on the wire.
    #[inline]
    pub fn ports(&self) -> u32 {
        bytemuck::cast([self.source_port.wire(), self.destination_port.wire()])
    }

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
    /// Bytes of those that were translated by one look at this entry and are not in the [`crate::Tally`] of the service yet.
    pub untold: u64,
    /// Where they leave.
    pub path: Path,
}

/// Where the packets of one direction leave, so that the kernel's routes are asked now and then and not for each. All
/// zero: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C, align(8))]
pub struct Path {
    /// To which neighbour.
    pub next: Address,
    /// By which interface.
    pub interface: u32,
    /// How long a packet may be there.
    pub mtu: u32,
    /// When the kernel said so, in [`Path::TICK`]s.
    pub found: u32,
    /// [`Connection::seal`], or the entry is half another's.
    pub seal: u32,
}

impl Path {
    /// A unit of the kernel's monotonic clock, in nanoseconds: about a millisecond.
    pub const TICK: u64 = 1 << 20;
    /// After so many of them routes are asked again: a tenth of a second.
    const LIFETIME: u32 = 96;

    /// The clock of [`Path::found`].
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "it goes round, and only differences are looked at")]
    pub const fn clock(now: u64) -> u32 {
        (now / Self::TICK) as u32
    }

    /// Whether it is to be believed yet.
    #[inline]
    pub const fn is_fresh(&self, now: u64) -> bool {
        self.interface != 0 && Self::clock(now).wrapping_sub(self.found) < Self::LIFETIME
    }
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

    /// What a packet that came in by `interface` with the tuple `key` would have to find in [`Path::seal`] to be translated
    /// by one look at this entry. The kernel may give the entry's memory to another conversation, or somebody may be writing
    /// the path, while it is read: then it does not fit.
    #[inline]
    pub fn seal(&self, key: &Tuple, interface: u32) -> u32 {
        let path = Path { seal: interface, ..self.path };
        let words: [u64; 14] = bytemuck::cast(Sealed { key: *key, becomes: self.becomes, path });
        let mut total = 0_u64;
        let mut position = 0;
        while position < words.len() {
            total = total.wrapping_add(words[position].wrapping_mul(FACTORS[position]));
            position += 1;
        }
        (total >> 32) as u32
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

/// What a seal is over.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Sealed {
    key: Tuple,
    becomes: Tuple,
    path: Path,
}

/// Odd numbers without a pattern, by which the words of a seal are multiplied: the output of `SplitMix64` (Steele, Lea and
/// Flood, 2014).
const FACTORS: [u64; 14] = {
    let mut factors = [0; 14];
    let mut state = 0_u64;
    let mut position = 0;
    while position < factors.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        factors[position] = (mixed ^ (mixed >> 31)) | 1;
        position += 1;
    }
    factors
};

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
    /// Dropped: no service has the address, and it is one that cluster addresses come from.
    Unallocated,
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
        Self::Unallocated,
        Self::SourceRange,
        Self::NoPort,
        Self::NoRoute,
        Self::TooBig,
        Self::HopLimit,
        Self::Failed,
    ];
}

const _: () = assert!(size_of::<Tuple>() == 40);
const _: () = assert!(size_of::<Path>() == 32);
const _: () = assert!(size_of::<Connection>() == 104);
const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<Ports>() == 4);
const _: () = assert!(size_of::<Interface>() == 36);
const _: () = assert!(size_of::<Node>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_broken_by_whatever_is_another_conversations() {
        let address = |last| Address::from_octets([10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let key = Tuple { source: address(1), destination: address(2), protocol: 6, ..Tuple::default() };
        let becomes = Tuple { destination: address(3), ..key };
        let path = Path { next: address(4), interface: 2, mtu: 1500, found: 77, seal: 0 };
        let (service, backend) = (ServiceId(1), BackendId(1));
        let connection =
            Connection { becomes, seen: 0, service, backend, flags: 0, stack_port: 0, untold: 0, path };
        let seal = connection.seal(&key, 9);
        assert_ne!(connection.seal(&key, 8), seal, "by another interface");
        let bits = |size: usize| (0..size * 8).map(|bit| (bit / 8, 1_u8 << (bit % 8)));
        for (byte, bit) in bits(size_of::<Tuple>()) {
            let other = |tuple: Tuple| {
                let mut bytes: [u8; size_of::<Tuple>()] = bytemuck::cast(tuple);
                bytes[byte] ^= bit;
                bytemuck::cast(bytes)
            };
            assert_ne!(connection.seal(&other(key), 9), seal, "key, byte {byte}");
            let connection = Connection { becomes: other(becomes), ..connection };
            assert_ne!(connection.seal(&key, 9), seal, "becomes, byte {byte}");
        }
        // All but the seal itself.
        for (byte, bit) in bits(size_of::<Path>() - size_of::<u32>()) {
            let mut bytes: [u8; size_of::<Path>()] = bytemuck::cast(path);
            bytes[byte] ^= bit;
            let connection = Connection { path: bytemuck::cast(bytes), ..connection };
            assert_ne!(connection.seal(&key, 9), seal, "path, byte {byte}");
        }
    }

    #[test]
    fn a_path_is_believed_for_a_tenth_of_a_second() {
        let found = Path::clock(40 * SECOND);
        let path = Path { interface: 2, found, ..Path::default() };
        assert!(path.is_fresh(40 * SECOND) && path.is_fresh(40 * SECOND + SECOND / 20));
        assert!(!path.is_fresh(40 * SECOND + SECOND / 9));
        assert!(!Path { interface: 0, ..path }.is_fresh(40 * SECOND));
        // The clock goes round after 52 days.
        let last = Path { found: u32::MAX, ..path };
        assert!(last.is_fresh((1_u64 << 52) + Path::TICK) && !last.is_fresh(1 << 50));
    }
}
