//! The headers of a packet as its translation has them, and checksums to match.
//!
//! Checksums are corrected by what changed and not computed anew, so that a wrong one stays wrong, and by the kernel's
//! helpers, which know what is left to the hardware.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};
use bytemuck::NoUninit;
use ebpf_abi::{Address, Tuple};

use super::Skb;
use super::parse::{Frame, Part, TCP};
use super::translate::Work;

/// The kernel could not change the packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed;

/// A transport checksum, and how the kernel's helper is to treat it.
#[derive(Clone, Copy)]
pub(super) struct Checksum {
    pub(super) offset: u32,
    pub(super) flags: u64,
}

impl Checksum {
    /// To be corrected for addresses, which it covers too.
    #[inline(always)]
    pub(super) fn with_pseudo_header(self) -> Self {
        Self { flags: self.flags | u64::from(BPF_F_PSEUDO_HDR), ..self }
    }
}

/// Where the checksum is in the headers of ICMP, UDP and TCP.
const ICMP_CHECKSUM: u32 = 2;
const UDP_CHECKSUM: u32 = 6;
pub(super) const TCP_CHECKSUM: u32 = 16;
/// Where it is in that of IPv4.
const IPV4_CHECKSUM: u32 = 10;

/// Makes the packet what its work says; one hop further if it is forwarded.
#[inline(always)]
pub(super) fn rewrite(skb: Skb<'_>, work: &Work, forward: bool) -> Result<(), Failed> {
    let packet = &work.packet;
    let hops = if forward { packet.hops.wrapping_sub(1) } else { packet.hops };
    if packet.part == Part::Error { rewrite_error(skb, work, hops) } else { rewrite_packet(skb, work, hops) }
}

#[inline(never)]
fn rewrite_packet(skb: Skb<'_>, work: &Work, hops: u8) -> Result<(), Failed> {
    let packet = &work.packet;
    let difference = internet(skb, packet.network, &packet.tuple, &work.becomes, PSEUDO_HEADER)?;
    self::hops(skb, work, hops)?;
    if packet.part == Part::Later {
        return Ok(());
    }
    let checksum = checksum(packet.tuple.protocol, packet.transport);
    correct(skb, checksum.with_pseudo_header(), difference)?;
    ports(skb, packet.transport, checksum, &packet.tuple, &work.becomes)
}

/// The checksum of a transport header.
#[inline(always)]
pub(super) fn checksum(protocol: u8, transport: u32) -> Checksum {
    if protocol == TCP {
        Checksum { offset: transport + TCP_CHECKSUM, flags: 0 }
    } else {
        // Without a checksum it stays so (RFC 768).
        Checksum { offset: transport + UDP_CHECKSUM, flags: u64::from(BPF_F_MARK_MANGLED_0) }
    }
}

/// An error is translated twice over: for whom it is, and which packet of theirs it is about.
#[inline(never)]
fn rewrite_error(skb: Skb<'_>, work: &Work, hops: u8) -> Result<(), Failed> {
    let packet = &work.packet;
    let v4 = packet.tuple.source.is_v4();
    let checksum = Checksum { offset: packet.transport + ICMP_CHECKSUM, flags: 0 };
    // Whoever found fault, the client hears of it from whom it talks to, as with conntrack.
    let source = if v4 {
        Address::from_v4_word(skb.load(packet.network + 12).ok_or(Failed)?)
    } else {
        Address::from_v6_words(skb.load(packet.network + 8).ok_or(Failed)?)
    };
    let outer = Tuple { source, ..packet.tuple };
    let sent = Tuple { destination: packet.tuple.destination, ..outer };
    let difference = internet(skb, packet.network, &sent, &work.becomes, PSEUDO_HEADER)?;
    self::hops(skb, work, hops)?;
    if !v4 {
        correct(skb, checksum.with_pseudo_header(), difference)?;
    }
    let (about, becomes) = (packet.tuple.reversed(), work.becomes.reversed());
    let difference = internet(skb, packet.inner_network, &about, &becomes, 0)?;
    if !v4 {
        correct(skb, checksum, difference)?;
    }
    ports(skb, packet.inner_transport, checksum, &about, &becomes)
}

/// What is stored is no checksum's business: only the sum of the whole packet, where a card has made one, is told.
pub(super) const WHOLE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// How the addresses of IPv6 are to be written where a pseudo-header has them: the kernel takes the correction of such
/// a checksum for one of IPv4, where the header's own makes up for the addresses, so the sum of the whole packet has to
/// be told of them.
const PSEUDO_HEADER: u64 = WHOLE;

/// Writes the addresses of an IP header, with its checksum if it has one; returns by how much their sum differs.
#[inline(always)]
fn internet(skb: Skb<'_>, network: u32, from: &Tuple, to: &Tuple, ipv6_flags: u64) -> Result<u32, Failed> {
    let difference = between_addresses(from, to);
    if from.source.is_v4() {
        correct_ipv4(skb, network, difference)?;
        store(skb, network + 12, &[to.source.v4_word(), to.destination.v4_word()], 0)?;
    } else {
        store(skb, network + 8, &to.source.v6_words(), ipv6_flags)?;
        store(skb, network + 24, &to.destination.v6_words(), ipv6_flags)?;
    }
    Ok(difference)
}

/// Writes how many routers the packet may pass yet.
#[inline(always)]
fn hops(skb: Skb<'_>, work: &Work, hops: u8) -> Result<(), Failed> {
    let network = work.packet.network;
    if hops == work.packet.hops {
        return Ok(());
    }
    if work.packet.tuple.source.is_v4() {
        let word = |hops: u8| u32::from(u16::from_ne_bytes([hops, 0]));
        correct_ipv4(skb, network, sum(!word(work.packet.hops), word(hops)))?;
        store(skb, network + 8, &hops, 0)
    } else {
        store(skb, network + 7, &hops, WHOLE)
    }
}

/// Writes the ports of a transport header, with the checksum that covers them.
#[inline(always)]
fn ports(skb: Skb<'_>, transport: u32, checksum: Checksum, from: &Tuple, to: &Tuple) -> Result<(), Failed> {
    correct(skb, checksum, between_ports(from, to))?;
    store(skb, transport, &[to.source_port.wire(), to.destination_port.wire()], 0)
}

/// By how much the sum of addresses differs.
#[inline(always)]
fn between_addresses(from: &Tuple, to: &Tuple) -> u32 {
    if from.source.is_v4() { between_ipv4(from, to) } else { between_ipv6(from, to) }
}

/// By how much that of IPv4 addresses does.
#[inline(always)]
pub(super) fn between_ipv4(from: &Tuple, to: &Tuple) -> u32 {
    let words = |tuple: &Tuple| [tuple.source.v4_word(), tuple.destination.v4_word()];
    between(words(from), words(to))
}

/// By how much that of IPv6 addresses does.
#[inline(always)]
pub(super) fn between_ipv6(from: &Tuple, to: &Tuple) -> u32 {
    let words = |tuple: &Tuple| -> [u32; 8] {
        bytemuck::cast([tuple.source.v6_words(), tuple.destination.v6_words()])
    };
    between(words(from), words(to))
}

/// By how much that of ports does.
#[inline(always)]
pub(super) fn between_ports(from: &Tuple, to: &Tuple) -> u32 {
    let words =
        |tuple: &Tuple| [u32::from(tuple.source_port.wire()), u32::from(tuple.destination_port.wire())];
    between(words(from), words(to))
}

/// By how much the sum of words differs, in one's complement (RFC 1071).
#[inline(always)]
fn between<const N: usize>(from: [u32; N], to: [u32; N]) -> u32 {
    let mut total = 0_u64;
    let mut position = 0;
    while position < N {
        total += u64::from(!from[position]) + u64::from(to[position]);
        position += 1;
    }
    let total = (total & 0xffff_ffff) + (total >> 32);
    (total + (total >> 32)) as u32
}

#[inline(always)]
pub(super) fn sum(left: u32, right: u32) -> u32 {
    let sum = u64::from(left) + u64::from(right);
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The checksum of that sum (RFC 1071).
#[inline(always)]
pub(super) fn fold(total: u32) -> u16 {
    let half = (total >> 16) + (total & 0xffff);
    !((half + (half >> 16)) as u16)
}

/// Where a card has made a sum of the whole packet, has it differ by so much.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
pub(super) fn correct_sum(skb: Skb<'_>, difference: u32) {
    if difference != 0 {
        // SAFETY: the helper takes the context the kernel passed, and does nothing to a packet without such a sum.
        unsafe { bpf_csum_update(skb.0.skb.skb, difference) };
    }
}

#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
pub(super) fn correct_ipv4(skb: Skb<'_>, network: u32, difference: u32) -> Result<(), Failed> {
    // SAFETY: the helper checks the offset against the packet.
    let failed =
        unsafe { bpf_l3_csum_replace(skb.0.skb.skb, network + IPV4_CHECKSUM, 0, u64::from(difference), 0) };
    if failed == 0 { Ok(()) } else { Err(Failed) }
}

#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
pub(super) fn correct(skb: Skb<'_>, checksum: Checksum, difference: u32) -> Result<(), Failed> {
    let Checksum { offset, flags } = checksum;
    // SAFETY: as above.
    let failed = unsafe { bpf_l4_csum_replace(skb.0.skb.skb, offset, 0, u64::from(difference), flags) };
    if failed == 0 { Ok(()) } else { Err(Failed) }
}

#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
pub(super) fn store<V: NoUninit>(skb: Skb<'_>, offset: u32, value: &V, flags: u64) -> Result<(), Failed> {
    // SAFETY: as above; the helper reads as many bytes as it is told, and `V` has no byte that is not initialised.
    let failed = unsafe {
        bpf_skb_store_bytes(
            skb.0.skb.skb,
            offset,
            core::ptr::from_ref(value).cast(),
            size_of::<V>() as u32,
            flags,
        )
    };
    if failed == 0 { Ok(()) } else { Err(Failed) }
}
