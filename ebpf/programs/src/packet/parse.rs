//! What a packet's headers say, as far as translation needs it. Every byte is an attacker's: what is cut off, of an
//! impossible length or of another kind is no [`Packet`], and goes where it was going.
//!
//! What is found is written where the caller says and not returned: there the kernel's verifier forgets it, and does not
//! walk all that follows once for each way to get there.

use bytemuck::AnyBitPattern;
use ebpf_abi::{Address, Port, Tuple};

pub use crate::forwarding::TCP;

/// The bytes of a packet: the kernel's buffer, or a test's slice.
pub trait Frame {
    /// A header at `offset`; `None` where the frame ends before it does.
    fn load<H: AnyBitPattern>(&self, offset: u32) -> Option<H>;
    /// How long the frame is.
    fn length(&self) -> u32;
}

/// As [`TCP`]: the other protocol that is translated.
pub const UDP: u8 = 17;
/// As [`TCP`]: what brings news of these two.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

/// Flags of TCP (RFC 9293 section 3.1).
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// A packet that may be of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Whose conversation. Of an error: the tuple that an answer to the packet in question would have. Of a fragment
    /// other than the first the ports are 0 until they are looked up.
    pub tuple: Tuple,
    /// What part it is.
    pub part: Part,
    /// Where the IP header starts.
    pub network: u32,
    /// Where the header of TCP, UDP or ICMP starts.
    pub transport: u32,
    /// Where it ends.
    pub end: u32,
    /// Where the IP header in an error starts.
    pub inner_network: u32,
    /// Where the transport header in an error starts.
    pub inner_transport: u32,
    /// What fragments have in common.
    pub identification: u32,
    /// Flags of TCP.
    pub flags: u8,
    /// How many routers it may pass yet.
    pub hops: u8,
}

/// What a packet is of its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// Another fragment, which has none.
    Later,
    /// It is an ICMP error about another packet.
    Error,
}

impl Packet {
    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tuple.protocol == TCP && self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Internet {
    source: Address,
    destination: Address,
    transport: u32,
    /// Where the packet ends by its own account; past the end of a frame that was cut short.
    end: u32,
    /// What the fragments of a datagram have in common.
    identification: u32,
    /// In units of 8 bytes.
    fragment_offset: u16,
    more_fragments: bool,
    protocol: u8,
    hops: u8,
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Ipv4Header {
    pub(super) version_and_length: u8,
    pub(super) service: u8,
    pub(super) length: u16,
    pub(super) identification: u16,
    pub(super) fragment: u16,
    pub(super) hops: u8,
    pub(super) protocol: u8,
    pub(super) checksum: u16,
    pub(super) source: u32,
    pub(super) destination: u32,
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Ipv6Header {
    pub(super) version_and_flow: u32,
    pub(super) length: u16,
    pub(super) next: u8,
    pub(super) hops: u8,
    pub(super) source: [u32; 4],
    pub(super) destination: [u32; 4],
}

/// What all extension headers of IPv6 begin with, and all that the fragment header has (RFC 8200 section 4).
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
struct Extension {
    next: u8,
    length: u8,
    fragment: u16,
    identification: u32,
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct TcpHeader {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) length_and_flags: [u8; 2],
    pub(super) window: u16,
    pub(super) checksum: u16,
    pub(super) urgent: u16,
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct UdpHeader {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) length: u16,
    pub(super) checksum: u16,
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

/// Reads the packet whose IP header, of version 4 or 6, starts at `network`; false where it is none of ours. `headers`
/// have room for the packet's own and for one that it quotes.
#[inline(never)]
pub fn parse(
    frame: &impl Frame,
    network: u32,
    version: u8,
    headers: &mut [Internet; 2],
    packet: &mut Packet,
) -> bool {
    let [outer, inner] = headers;
    if !internet(frame, network, version, outer) || outer.end > frame.length() {
        return false;
    }
    *packet = Packet {
        tuple: tuple(outer, [0, 0]),
        part: Part::Whole,
        network,
        transport: outer.transport,
        end: outer.end,
        inner_network: 0,
        inner_transport: 0,
        identification: outer.identification,
        flags: 0,
        hops: outer.hops,
    };
    if outer.fragment_offset != 0 {
        packet.part = Part::Later;
        return outer.protocol == TCP || outer.protocol == UDP;
    }
    if outer.more_fragments {
        packet.part = Part::First;
    }
    match (outer.protocol, version) {
        (TCP, _) => segment(frame, packet),
        (UDP, _) => datagram(frame, packet),
        (ICMP, 4) | (ICMPV6, 6) => packet.part == Part::Whole && error(frame, version, outer, inner, packet),
        _ => false,
    }
}

#[inline(always)]
fn segment(frame: &impl Frame, packet: &mut Packet) -> bool {
    let Some(header) = frame.load::<TcpHeader>(packet.transport) else { return false };
    packet.flags = header.length_and_flags[1];
    packet.tuple.source_port = Port::from_wire(header.source);
    packet.tuple.destination_port = Port::from_wire(header.destination);
    fits(packet, u32::from(header.length_and_flags[0] >> 4) * 4, 20)
}

#[inline(always)]
fn datagram(frame: &impl Frame, packet: &mut Packet) -> bool {
    let Some(header) = frame.load::<UdpHeader>(packet.transport) else { return false };
    packet.tuple.source_port = Port::from_wire(header.source);
    packet.tuple.destination_port = Port::from_wire(header.destination);
    fits(packet, u32::from(u16::from_be(header.length)), 8)
}

/// Whether a length that a transport header states is possible. The first fragment states that of the whole.
#[inline(always)]
fn fits(packet: &Packet, length: u32, least: u32) -> bool {
    length >= least && (packet.part == Part::First || packet.transport + length <= packet.end)
}

/// An error quotes the packet it is about, which was sent by whom the error is sent to; anything else is forged, or
/// none of our business.
#[inline(always)]
fn error(
    frame: &impl Frame,
    version: u8,
    outer: &Internet,
    inner: &mut Internet,
    packet: &mut Packet,
) -> bool {
    let Some(header) = frame.load::<IcmpHeader>(outer.transport) else { return false };
    packet.inner_network = outer.transport + 8;
    if !is_error(version, header.kind) || !internet(frame, packet.inner_network, version, inner) {
        return false;
    }
    if inner.fragment_offset != 0
        || (inner.protocol != TCP && inner.protocol != UDP)
        || inner.source != outer.destination
        || inner.transport + 8 > outer.end
    {
        return false;
    }
    let Some(ports) = frame.load::<[u16; 2]>(inner.transport) else { return false };
    packet.tuple = tuple(inner, ports).reversed();
    packet.part = Part::Error;
    packet.inner_transport = inner.transport;
    true
}

/// Unreachable, too big, time exceeded, parameter problem (RFC 792; RFC 4443, whose errors are those below 128).
const fn is_error(version: u8, kind: u8) -> bool {
    if version == 4 { matches!(kind, 3 | 11 | 12) } else { kind < 128 }
}

#[inline(always)]
fn tuple(internet: &Internet, [source, destination]: [u16; 2]) -> Tuple {
    Tuple {
        source: internet.source,
        destination: internet.destination,
        source_port: Port::from_wire(source),
        destination_port: Port::from_wire(destination),
        protocol: internet.protocol,
        reserved: [0; 3],
    }
}

#[inline(always)]
fn internet(frame: &impl Frame, network: u32, version: u8, into: &mut Internet) -> bool {
    if version == 4 { internet_v4(frame, network, into) } else { internet_v6(frame, network, into) }
}

#[inline(never)]
fn internet_v4(frame: &impl Frame, network: u32, into: &mut Internet) -> bool {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let Some(header) = frame.load::<Ipv4Header>(network) else { return false };
    let header_length = u32::from(header.version_and_length & 0xf) * 4;
    let length = u32::from(u16::from_be(header.length));
    let fragment = u16::from_be(header.fragment);
    *into = Internet {
        source: Address::from_v4_word(header.source),
        destination: Address::from_v4_word(header.destination),
        protocol: header.protocol,
        hops: header.hops,
        transport: network + header_length,
        end: network + length,
        fragment_offset: fragment & OFFSET,
        more_fragments: fragment & MORE != 0,
        identification: u32::from(header.identification),
    };
    header.version_and_length >> 4 == 4 && header_length >= 20 && length >= header_length
}

/// So many extension headers are walked; who sends more does not mean to be served.
const EXTENSIONS: u32 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[inline(never)]
fn internet_v6(frame: &impl Frame, network: u32, into: &mut Internet) -> bool {
    let Some(header) = frame.load::<Ipv6Header>(network) else { return false };
    *into = Internet {
        source: Address::from_v6_words(header.source),
        destination: Address::from_v6_words(header.destination),
        protocol: header.next,
        hops: header.hops,
        transport: network + 40,
        end: network + 40 + u32::from(u16::from_be(header.length)),
        fragment_offset: 0,
        more_fragments: false,
        identification: 0,
    };
    let mut walked = 0;
    while walked < EXTENSIONS && extension(frame, into) {
        walked += 1;
    }
    // Mapped addresses are how IPv4 is written here: on a wire they are nobody's (RFC 4291 section 2.5.5.2).
    u32::from_be(header.version_and_flow) >> 28 == 6
        && !into.source.is_v4()
        && !into.destination.is_v4()
        && into.transport <= into.end
}

/// Steps over an extension header; false where there is none, or where the rest is a fragment's.
#[inline(always)]
fn extension(frame: &impl Frame, into: &mut Internet) -> bool {
    if into.fragment_offset != 0 || !matches!(into.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        return false;
    }
    // Cut off, what is there is the header of no transport.
    let Some(header) = frame.load::<Extension>(into.transport) else { return false };
    if into.protocol == FRAGMENT {
        let field = u16::from_be(header.fragment);
        into.fragment_offset = field >> 3;
        into.more_fragments = field & 1 != 0;
        into.identification = header.identification;
        into.transport += 8;
    } else {
        into.transport += (u32::from(header.length) + 1) * 8;
    }
    into.protocol = header.next;
    true
}

#[cfg(test)]
mod tests;
