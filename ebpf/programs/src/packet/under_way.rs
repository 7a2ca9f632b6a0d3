//! Packets of conversations under way, which nearly all are: one look at the conversation's entry, headers read and
//! written in place, and the path that the entry remembers.
//!
//! What this leaves alone goes the general way, which knows every case and makes the same of each of these packets. And of those
//! that it lets pass: packets that are neither of a conversation nor for a service.

use core::mem::offset_of;

use aya_ebpf::bindings::__sk_buff;
use bytemuck::AnyBitPattern;
use ebpf_abi::{Address, Audience, Connection, Counter, REPLY, ServiceKey, Tuple};

use super::maps::{Entry, Kernel};
use super::parse::{FIN, Frame, Ipv4Header, Ipv6Header, RST, SYN, TCP, TcpHeader, UDP, UdpHeader};
use super::rewrite::{self, Failed, correct, correct_sum, fold, sum};
use super::translate::{Conversations, Route, RouteKind, goes_on};
use super::{NEXT, SHOT, Skb};
use crate::forwarding::{Tables, own};

/// The general way says what becomes of the packet.
pub(super) const OTHERWISE: i32 = i32::MIN;
/// So it does, and knows that the packet is of no conversation.
pub(super) const STRANGER: i32 = i32::MIN + 1;

/// Sends a packet on its way that came in with its IP header `NETWORK` bytes after its beginning.
#[inline(never)]
pub(super) fn go_on<H: Header, const NETWORK: u32>(skb: Skb<'_>, now: u64) -> i32 {
    let Some(packet) = read::<H, NETWORK>(skb) else { return OTHERWISE };
    let tables = Kernel { skb };
    let Some(entry) = Entry::of(&packet.tuple) else {
        return if is_for_nobody(tables.services(), &packet.tuple) { NEXT } else { STRANGER };
    };
    let connection = entry.glimpse();
    if !goes_on(&connection, &packet.tuple, skb.interface(), now) || !passes(skb, &packet, &connection) {
        return OTHERWISE;
    }
    if packet.tuple.protocol == UDP
        && connection.flags & REPLY == 0
        && own(tables.services(), connection.service, connection.backend).is_none()
    {
        return OTHERWISE;
    }
    let length = u64::from(skb.length());
    tables.count(Counter::Packets, 1);
    tables.count(Counter::Bytes, length);
    entry.note_bytes(length);
    if write::<H, NETWORK>(skb, &packet, &connection.becomes).is_err() {
        tables.count(Counter::Failed, 1);
        return SHOT;
    }
    let (interface, next, mtu) = (connection.path.interface, connection.path.next, connection.path.mtu);
    skb.send(&Route { kind: RouteKind::Forward, interface, next, mtu })
}

/// Whether a packet is of a conversation under way whose service still has the backend.
#[inline(always)]
pub(super) fn is_known<H: Header, const NETWORK: u32>(skb: Skb<'_>) -> bool {
    let Some(packet) = read::<H, NETWORK>(skb) else { return false };
    let Some(entry) = Entry::of(&packet.tuple) else { return false };
    let connection = entry.glimpse();
    connection.path.seal == connection.seal(&packet.tuple, skb.interface())
        && own(Kernel { skb }.services(), connection.service, connection.backend).is_some()
}

/// Whether a packet of no conversation is for no service either, whoever may use it. Most of what a node forwards is such.
#[inline(always)]
fn is_for_nobody(services: &impl Tables, tuple: &Tuple) -> bool {
    let Tuple { destination: address, destination_port: port, protocol, .. } = *tuple;
    let serves = |audience| services.service(&ServiceKey { address, port, protocol, audience }).is_some();
    !serves(Audience::EVERYONE)
        && !serves(Audience::OUTSIDE)
        && !services.is_exclusive(&address)
        && !services.is_in_service_cidr(&address)
}

/// Whether nobody is to be told that it may not leave by the path.
#[inline(always)]
fn passes(skb: Skb<'_>, packet: &Packet, connection: &Connection) -> bool {
    packet.hops > 1
        && packet.wire_length <= connection.path.mtu
        && skb.word(offset_of!(__sk_buff, vlan_present)) == 0
}

/// What a packet's headers say.
struct Packet {
    tuple: Tuple,
    hops: u8,
    /// Of the transport header, as it is there.
    checksum: u16,
    /// How long it is on a wire, IP header included: of what the kernel has merged or will cut, one piece.
    wire_length: u32,
}

/// An IP header without options or extensions, and ports.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
struct Start<H> {
    internet: H,
    ports: u32,
}

/// Reads a whole segment that neither opens nor closes a connection, or a whole datagram, if its lengths are possible.
#[inline(always)]
fn read<H: Header, const NETWORK: u32>(skb: Skb<'_>) -> Option<Packet> {
    let header = size_of::<H>() as u32;
    let Start::<H> { internet, ports } = skb.peek(NETWORK)?;
    let (protocol, end) = internet.plain()?;
    let (least, length, checksum) = match protocol {
        TCP => {
            let segment: TcpHeader = skb.peek(NETWORK + header)?;
            let [length, flags] = segment.length_and_flags;
            if flags & (SYN | FIN | RST) != 0 {
                return None;
            }
            (20, u32::from(length >> 4) * 4, segment.checksum)
        }
        UDP => {
            let datagram: UdpHeader = skb.peek(NETWORK + header)?;
            (8, u32::from(u16::from_be(datagram.length)), datagram.checksum)
        }
        _ => return None,
    };
    if length < least || header + length > end || NETWORK + end > skb.length() {
        return None;
    }
    let piece = skb.word(offset_of!(__sk_buff, gso_size));
    let transport = if protocol == TCP { length } else { least };
    let wire_length = if piece == 0 { end } else { header + transport + piece };
    let (source, destination) = internet.addresses();
    let tuple = Tuple::from_headers(source, destination, ports, protocol);
    Some(Packet { tuple, hops: internet.hops(), checksum, wire_length })
}

/// Makes the packet another, one hop further.
#[inline(always)]
fn write<H: Header, const NETWORK: u32>(
    skb: Skb<'_>,
    packet: &Packet,
    becomes: &Tuple,
) -> Result<(), Failed> {
    let addresses = H::between(&packet.tuple, becomes);
    let checksum = rewrite::checksum(packet.tuple.protocol, NETWORK + size_of::<H>() as u32);
    correct(skb, checksum.with_pseudo_header(), addresses)?;
    let ports = rewrite::between_ports(&packet.tuple, becomes);
    let corrected = |before: u16, difference| match fold(sum(!u32::from(before), difference)) {
        0 if packet.tuple.protocol == UDP => 0xffff,
        after => after,
    };
    let of_addresses = corrected(packet.checksum, addresses);
    if of_addresses == packet.checksum {
        correct(skb, checksum, ports)?;
    } else if skb.peek::<u16>(checksum.offset).ok_or(Failed)? == of_addresses {
        // One that was left to the hardware is the sum of the addresses alone, and was corrected the other way.
        skb.poke(checksum.offset, corrected(of_addresses, ports)).ok_or(Failed)?;
    }
    let Start::<H> { internet, .. } = skb.peek(NETWORK).ok_or(Failed)?;
    let (internet, difference) = internet.changed(becomes, addresses);
    correct_sum(skb, difference);
    skb.poke(NETWORK, Start { internet, ports: becomes.ports() }).ok_or(Failed)
}

/// An IP header of either version.
pub(super) trait Header: AnyBitPattern {
    /// The protocol of what follows, and how long the packet is; `None` of a fragment, or where anything else comes before
    /// what follows.
    fn plain(&self) -> Option<(u8, u32)>;
    /// Source and destination.
    fn addresses(&self) -> (Address, Address);
    /// How many routers the packet may pass yet.
    fn hops(&self) -> u8;
    /// By how much the sum of two packets' addresses differs.
    fn between(from: &Tuple, to: &Tuple) -> u32;
    /// The header with other addresses, whose sum differs by `addresses`, one hop further; and by how much the sum of the whole
    /// packet then differs, as long as a checksum behind the header makes up for the addresses where it covers them.
    fn changed(self, becomes: &Tuple, addresses: u32) -> (Self, u32);
}

impl Header for Ipv4Header {
    #[inline(always)]
    fn between(from: &Tuple, to: &Tuple) -> u32 {
        rewrite::between_ipv4(from, to)
    }

    #[inline(always)]
    fn plain(&self) -> Option<(u8, u32)> {
        const DO_NOT_FRAGMENT_AND_RESERVED: u16 = 0xc000_u16.to_be();
        let whole = self.fragment & !DO_NOT_FRAGMENT_AND_RESERVED == 0;
        (self.version_and_length == 0x45 && whole)
            .then(|| (self.protocol, u32::from(u16::from_be(self.length))))
    }

    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        (Address::from_v4_word(self.source), Address::from_v4_word(self.destination))
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hops
    }

    #[inline(always)]
    fn changed(self, becomes: &Tuple, addresses: u32) -> (Self, u32) {
        let word = |hops: u8| u32::from(u16::from_ne_bytes([hops, 0]));
        let hops = self.hops.wrapping_sub(1);
        let difference = sum(addresses, sum(!word(self.hops), word(hops)));
        let changed = Self {
            hops,
            checksum: fold(sum(!u32::from(self.checksum), difference)),
            source: becomes.source.v4_word(),
            destination: becomes.destination.v4_word(),
            ..self
        };
        // The header's own checksum makes up for all of it.
        (changed, 0)
    }
}

impl Header for Ipv6Header {
    #[inline(always)]
    fn between(from: &Tuple, to: &Tuple) -> u32 {
        rewrite::between_ipv6(from, to)
    }

    #[inline(always)]
    fn plain(&self) -> Option<(u8, u32)> {
        // Mapped addresses are how IPv4 is written here: on a wire they are nobody's.
        let mapped = |words| Address::from_v6_words(words).is_v4();
        let plain = u32::from_be(self.version_and_flow) >> 28 == 6
            && !mapped(self.source)
            && !mapped(self.destination);
        plain.then(|| (self.next, size_of::<Self>() as u32 + u32::from(u16::from_be(self.length))))
    }

    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        (Address::from_v6_words(self.source), Address::from_v6_words(self.destination))
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hops
    }

    #[inline(always)]
    fn changed(self, becomes: &Tuple, addresses: u32) -> (Self, u32) {
        let word = |hops: u8| u32::from(u16::from_ne_bytes([0, hops]));
        let hops = self.hops.wrapping_sub(1);
        let difference = sum(addresses, sum(!word(self.hops), word(hops)));
        let (source, destination) = (becomes.source.v6_words(), becomes.destination.v6_words());
        (Self { hops, source, destination, ..self }, difference)
    }
}
