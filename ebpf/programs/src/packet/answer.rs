//! What a sender is told whose packet goes nowhere: a packet turns into the answer to itself.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::{bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes};
use bytemuck::NoUninit;

use super::Skb;
use super::parse::{ACK, FIN, Frame, ICMP, ICMPV6, Packet, Part, RST, SYN, TCP};
use super::rewrite::{Checksum, Failed, TCP_CHECKSUM, WHOLE, correct, correct_ipv4, fold, store, sum};

/// Why a packet went nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) enum Error {
    /// Nobody serves there.
    PortUnreachable,
    /// The next link does not take so many bytes.
    TooBig,
    /// It has passed too many routers.
    HopLimit,
}

/// How many routers an answer may pass.
const HOPS: u8 = 64;

/// Turns a segment into the RST that answers it (RFC 9293 section 3.5.2). Its options and its data stay: nobody reads
/// them, and so the checksum needs to be told of little.
#[inline(never)]
pub(super) fn reset(skb: Skb<'_>, packet: &Packet) -> Result<(), Failed> {
    let gso_segments = skb.word(offset_of!(aya_ebpf::bindings::__sk_buff, gso_segs));
    if packet.part != Part::Whole || packet.flags & RST != 0 || gso_segments > 1 {
        return Err(Failed);
    }
    let offset = packet.transport + 4;
    let before: [u32; 3] = skb.load(offset).ok_or(Failed)?;
    let [sequence, acknowledgement, _] = before.map(u32::from_be);
    let [header_length, _, window @ ..] = before[2].to_ne_bytes();
    let length = packet.end - packet.transport - u32::from(header_length >> 4) * 4;
    let (sequence, acknowledgement, flags) = if packet.flags & ACK != 0 {
        (acknowledgement, 0, RST)
    } else {
        let taken = length + u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
        (0, sequence.wrapping_add(taken), RST | ACK)
    };
    let after = [
        sequence.to_be(),
        acknowledgement.to_be(),
        u32::from_ne_bytes([header_length & 0xf0, flags, window[0], window[1]]),
    ];
    let taken_away = sum(sum(!before[0], !before[1]), !before[2]);
    let added = sum(sum(after[0], after[1]), after[2]);
    let checksum = Checksum { offset: packet.transport + TCP_CHECKSUM, flags: 0 };
    correct(skb, checksum, sum(taken_away, added))?;
    store(skb, offset, &after, 0)?;
    // Sums do not mind who is named first.
    let tuple = &packet.tuple;
    store(skb, packet.transport, &[tuple.destination_port.wire(), tuple.source_port.wire()], 0)?;
    if tuple.source.is_v4() {
        store(skb, packet.network + 12, &[tuple.destination.v4_word(), tuple.source.v4_word()], 0)?;
        let word = |hops: u8| u32::from(u16::from_ne_bytes([hops, 0]));
        correct_ipv4(skb, packet.network, sum(!word(packet.hops), word(HOPS)))?;
        store(skb, packet.network + 8, &HOPS, 0)
    } else {
        store(skb, packet.network + 8, &tuple.destination.v6_words(), 0)?;
        store(skb, packet.network + 24, &tuple.source.v6_words(), 0)?;
        store(skb, packet.network + 7, &HOPS, WHOLE)
    }
}

/// What is quoted of the transport header of a datagram (RFC 792, RFC 4443) and of a segment.
const DATAGRAM: u32 = 8;
/// All of the fixed header, in which the kernel may have left a checksum to be filled in.
const SEGMENT: u32 = 20;
/// The longest quotation: the headers of IPv6 and TCP.
const WORDS: usize = 15;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Ipv4Answer {
    version_and_length: u8,
    service: u8,
    length: u16,
    identification: u16,
    fragment: u16,
    hops: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    icmp: Icmp,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Ipv6Answer {
    version_and_flow: u32,
    length: u16,
    next: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
    icmp: Icmp,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

/// Turns a packet into the ICMP error about it, in the name of whom it was for; `mtu` is what the next link takes. Of packets with options or extension
/// headers there is none.
#[inline(never)]
pub(super) fn error(skb: Skb<'_>, packet: &Packet, error: Error, mtu: u32) -> Result<(), Failed> {
    let v4 = packet.tuple.source.is_v4();
    let header = if v4 { 20 } else { 40 };
    let quoted = header + if packet.tuple.protocol == TCP { SEGMENT } else { DATAGRAM };
    if !matches!(packet.part, Part::Whole | Part::First) || packet.transport != packet.network + header {
        return Err(Failed);
    }
    let quotation = quotation(skb, packet.network, quoted)?;
    let room = if v4 { size_of::<Ipv4Answer>() } else { size_of::<Ipv6Answer>() } as u32;
    make_room(skb, packet.network + quoted, room)?;
    if v4 {
        store(skb, packet.network, &ipv4_answer(packet, (error, mtu), &quotation, quoted), 0)
    } else {
        store(skb, packet.network, &ipv6_answer(packet, (error, mtu), &quotation, quoted), 0)
    }
}

#[inline(always)]
fn ipv4_answer(
    packet: &Packet,
    (error, mtu): (Error, u32),
    quotation: &[u32; WORDS],
    quoted: u32,
) -> Ipv4Answer {
    const UNREACHABLE: u8 = 3;
    const TIME_EXCEEDED: u8 = 11;
    let (kind, code, rest) = match error {
        Error::PortUnreachable => (UNREACHABLE, 3, 0),
        Error::TooBig => (UNREACHABLE, 4, (mtu & 0xffff).to_be()),
        Error::HopLimit => (TIME_EXCEEDED, 0, 0),
    };
    let mut icmp = Icmp { kind, code, checksum: 0, rest };
    icmp.checksum = fold(sum(bytemuck::cast::<Icmp, [u32; 2]>(icmp)[0], sum(rest, words(quotation))));
    let mut answer = Ipv4Answer {
        version_and_length: 0x45,
        service: 0,
        length: ((size_of::<Ipv4Answer>() as u32 + quoted) as u16).to_be(),
        identification: 0,
        fragment: 0,
        hops: HOPS,
        protocol: ICMP,
        checksum: 0,
        source: packet.tuple.destination.v4_word(),
        destination: packet.tuple.source.v4_word(),
        icmp,
    };
    let header: [u32; 7] = bytemuck::cast(answer);
    answer.checksum = fold(words(&[header[0], header[1], header[2], header[3], header[4]]));
    answer
}

#[inline(always)]
fn ipv6_answer(
    packet: &Packet,
    (error, mtu): (Error, u32),
    quotation: &[u32; WORDS],
    quoted: u32,
) -> Ipv6Answer {
    const UNREACHABLE: u8 = 1;
    const TOO_BIG: u8 = 2;
    const TIME_EXCEEDED: u8 = 3;
    let (kind, code, rest) = match error {
        Error::PortUnreachable => (UNREACHABLE, 4, 0),
        Error::TooBig => (TOO_BIG, 0, mtu.to_be()),
        Error::HopLimit => (TIME_EXCEEDED, 0, 0),
    };
    let length = size_of::<Icmp>() as u32 + quoted;
    let pseudo = sum(
        sum(words(&packet.tuple.destination.v6_words()), words(&packet.tuple.source.v6_words())),
        sum(length.to_be(), u32::from(ICMPV6).to_be()),
    );
    let mut icmp = Icmp { kind, code, checksum: 0, rest };
    let header = bytemuck::cast::<Icmp, [u32; 2]>(icmp)[0];
    icmp.checksum = fold(sum(pseudo, sum(header, sum(rest, words(quotation)))));
    Ipv6Answer {
        version_and_flow: (6_u32 << 28).to_be(),
        length: (length as u16).to_be(),
        next: ICMPV6,
        hops: HOPS,
        source: packet.tuple.destination.v6_words(),
        destination: packet.tuple.source.v6_words(),
        icmp,
    }
}

/// The beginning of the packet in question.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
fn quotation(skb: Skb<'_>, network: u32, length: u32) -> Result<[u32; WORDS], Failed> {
    let mut quotation = [0; WORDS];
    let length = length.min(size_of_val(&quotation) as u32);
    // SAFETY: the helper writes as many bytes as it is told, which the array has, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.0.skb.skb.cast::<c_void>(),
            network,
            quotation.as_mut_ptr().cast::<c_void>(),
            length,
        )
    };
    if failed == 0 { Ok(quotation) } else { Err(Failed) }
}

/// Cuts the packet off after `length` bytes and makes room before its IP header.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
fn make_room(skb: Skb<'_>, length: u32, room: u32) -> Result<(), Failed> {
    // SAFETY: the helpers take the context the kernel passed, and fail where the packet does not allow what is asked.
    let failed = unsafe {
        bpf_skb_change_tail(skb.0.skb.skb, length, 0) != 0
            || bpf_skb_adjust_room(skb.0.skb.skb, room.cast_signed(), BPF_ADJ_ROOM_MAC, 0) != 0
    };
    if failed { Err(Failed) } else { Ok(()) }
}

/// The sum of words in one's complement.
#[inline(always)]
fn words<const N: usize>(words: &[u32; N]) -> u32 {
    let mut total = 0;
    let mut position = 0;
    while position < N {
        total = sum(total, words[position]);
        position += 1;
    }
    total
}
