//! Packets, as the kernel shows them to a program at an interface.
//!
//! ```text
//!   kernel's buffer --parse--> Packet --translate--> Verdict --rewrite--> kernel's buffer, and out by the route
//! ```
//!
//! What is translated skips the node's network stack: it goes straight to the neighbour that the kernel's own routes
//! name. Only what is for the node itself goes up; or everything, where who loads the programs wants it so.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers take sizes of small structures as `int` and return verdicts as `long`"
)]

mod answer;
mod maps;
pub mod parse;
mod rewrite;
pub mod translate;
mod under_way;

use core::ffi::c_void;
use core::mem::{self, offset_of};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    __sk_buff, bpf_fib_lookup as FibLookup, bpf_redir_neigh as Neighbour,
    bpf_redir_neigh__bindgen_ty_1 as NextHop,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_neigh, bpf_skb_load_bytes,
    bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use bytemuck::AnyBitPattern;
use ebpf_abi::{Address, Counter, REPLY, Tuple};

use self::answer::Error;
use self::maps::Kernel;
use self::parse::{Frame, Ipv4Header, Ipv6Header, Packet, TCP};
use self::translate::{Arrival, Conversations, Route, RouteKind, Verdict, Work};
use self::under_way::{OTHERWISE, STRANGER, go_on, is_known};
use crate::maps::Maps;
use crate::options::by_stack;

/// How long the header before the IP header is, on an interface with Ethernet.
pub const ETHERNET: u32 = 14;
/// The same on one without.
pub const BARE: u32 = 0;

/// The next program of the interface has its turn, and then the kernel goes on with the packet.
pub const NEXT: i32 = -1;
/// The packet is no more.
const SHOT: i32 = 2;

/// A packet comes in, with its IP header `NETWORK` bytes after its beginning.
#[inline(always)]
pub fn arrive<const NETWORK: u32>(context: &TcContext) -> i32 {
    const HOST: u32 = 0;
    const OTHER_HOST: u32 = 3;
    let skb = Skb(context);
    let kind = skb.word(offset_of!(__sk_buff, pkt_type));
    if kind != HOST && kind != OTHER_HOST {
        return NEXT;
    }
    let now = now();
    let outcome = match skb.word(offset_of!(__sk_buff, protocol)) {
        _ if by_stack() => OTHERWISE,
        IPV4 => go_on::<Ipv4Header, NETWORK>(skb, now),
        IPV6 => go_on::<Ipv6Header, NETWORK>(skb, now),
        _ => return NEXT,
    };
    if outcome != OTHERWISE && outcome != STRANGER {
        return outcome;
    }
    let Some(work) = read(skb, NETWORK) else { return NEXT };
    let tables = Kernel { skb };
    let (interface, ours, stranger) = (skb.interface(), kind == HOST, outcome == STRANGER);
    let verdict = translate::arrive(&tables, work, Arrival { interface, ours, stranger, now });
    carry_out(&tables, work, verdict, true)
}

/// A packet goes out that the node's stack had. What came in by another interface and did not go through the stack was
/// translated as a whole there.
#[inline(always)]
pub fn leave<const NETWORK: u32>(context: &TcContext) -> i32 {
    let skb = Skb(context);
    if !by_stack() && skb.word(offset_of!(__sk_buff, ingress_ifindex)) != 0 {
        return NEXT;
    }
    let Some(work) = read(skb, NETWORK) else { return NEXT };
    let tables = Kernel { skb };
    let verdict = translate::leave(&tables, work, now());
    carry_out(&tables, work, verdict, false)
}

/// Looks up the conversation of an IPv4 packet and its service, and lets the packet pass where there are both: what of the
/// way of a packet is looking up. Others are dropped.
#[inline(always)]
pub fn look_up<const NETWORK: u32>(context: &TcContext) -> i32 {
    if is_known::<Ipv4Header, NETWORK>(Skb(context)) { NEXT } else { SHOT }
}

/// Reads the packet into this processor's place for it.
#[inline(always)]
fn read(skb: Skb<'_>, network: u32) -> Option<&'static mut Work> {
    let version = match skb.word(offset_of!(__sk_buff, protocol)) {
        IPV4 => 4,
        IPV6 => 6,
        _ => return None,
    };
    // A frame of another network: the interface of that network sees it without its tag.
    if skb.word(offset_of!(__sk_buff, vlan_present)) != 0
        && skb.word(offset_of!(__sk_buff, vlan_tci)) & VLAN_IDENTIFIER != 0
    {
        return None;
    }
    let work = maps::work()?;
    parse::parse(&skb, network, version, &mut work.headers, &mut work.packet).then_some(work)
}

/// As the kernel shows the protocol of a frame.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
const VLAN_IDENTIFIER: u32 = 0xfff;

#[inline(always)]
fn carry_out(tables: &Kernel<'_>, work: &Work, verdict: Verdict, incoming: bool) -> i32 {
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Translate => {
            let forward = incoming && !by_stack() && work.route.kind == RouteKind::Forward;
            let length = tables.skb.length();
            if rewrite::rewrite(tables.skb, work, forward).is_err() {
                return drop(tables, Counter::Failed);
            }
            // One that is translated in two halves is one packet.
            if !by_stack() || incoming == (work.connection.flags & REPLY == 0) {
                tables.count(Counter::Packets, 1);
                tables.count(Counter::Bytes, u64::from(length));
                Maps.tally_bytes(work.connection.service, work.untold + u64::from(length));
            }
            if forward { tables.skb.send(&work.route) } else { NEXT }
        }
        Verdict::Refuse => answer(*tables, work, Counter::Refused, Error::PortUnreachable),
        Verdict::TooBig => answer(*tables, work, Counter::TooBig, Error::TooBig),
        Verdict::HopLimit => answer(*tables, work, Counter::HopLimit, Error::HopLimit),
        Verdict::NoLocalBackend => drop(tables, Counter::NoLocalBackend),
        Verdict::Unallocated => drop(tables, Counter::Unallocated),
        Verdict::SourceRange => drop(tables, Counter::SourceRange),
        Verdict::NoPort => drop(tables, Counter::NoPort),
        Verdict::NoRoute => drop(tables, Counter::NoRoute),
    }
}

#[inline(always)]
fn drop(tables: &Kernel<'_>, counter: Counter) -> i32 {
    tables.count(counter, 1);
    SHOT
}

/// Tells the sender; where that cannot be done the packet is dropped without a word. A stage of its own: Linux 6.1 leaves the
/// program itself little stack.
#[inline(never)]
fn answer(tables: Kernel<'_>, work: &Work, counter: Counter, error: Error) -> i32 {
    let skb = tables.skb;
    tables.count(counter, 1);
    let made = match (error, work.packet.tuple.protocol) {
        (Error::PortUnreachable, TCP) => answer::reset(skb, &work.packet),
        _ => answer::error(skb, &work.packet, error, work.route.mtu),
    };
    if made.is_ok() { skb.send_back(&work.packet) } else { SHOT }
}

/// The kernel's packet.
#[derive(Clone, Copy)]
struct Skb<'context>(&'context TcContext);

impl Skb<'_> {
    /// Reads a word of the context.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the kernel hands its context to a program as a pointer")]
    fn word(self, offset: usize) -> u32 {
        // SAFETY: the kernel passes a `__sk_buff`, and every `offset` is that of one of its words. Volatile, so that
        // the compiler keeps the access as the verifier wants it: one aligned word.
        unsafe { self.0.skb.skb.byte_add(offset).cast::<u32>().read_volatile() }
    }

    /// The index of the interface that the program runs at.
    #[inline(always)]
    fn interface(self) -> u32 {
        self.word(offset_of!(__sk_buff, ifindex))
    }

    /// Reads a header in place; `None` where the kernel has less of the packet in one piece.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the kernel shows a packet as a pointer")]
    fn peek<H: AnyBitPattern>(self, offset: u32) -> Option<H> {
        // SAFETY: the place is within the packet, and any bytes are a value of `H`.
        self.place::<H>(offset).map(|place| unsafe { place.read() })
    }

    /// Writes a header in place.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the kernel shows a packet as a pointer")]
    fn poke<H: AnyBitPattern>(self, offset: u32, header: H) -> Option<()> {
        // SAFETY: the place is within the packet, which is this program's alone while it runs.
        self.place::<H>(offset).map(|place| unsafe { place.write(header) })
    }

    /// Where a header is. It may be at an odd number of words: the machine does not mind, nor does the verifier.
    #[inline(always)]
    fn place<H>(self, offset: u32) -> Option<*mut H> {
        let start = self.word(offset_of!(__sk_buff, data)) as usize + offset as usize;
        let end = self.word(offset_of!(__sk_buff, data_end)) as usize;
        (start + size_of::<H>() <= end).then_some(start as *mut H)
    }

    /// How long the packet is on a wire, IP header included: of what the kernel has merged or will cut, one piece.
    #[inline(always)]
    fn wire_length(self, packet: &Packet) -> u16 {
        let piece = self.word(offset_of!(__sk_buff, gso_size));
        if piece == 0 {
            return (packet.end - packet.network) as u16;
        }
        let header = match self.load::<u8>(packet.transport + 12) {
            Some(length) if packet.tuple.protocol == TCP => u32::from(length >> 4) * 4,
            _ => 8,
        };
        (packet.transport - packet.network + header + piece) as u16
    }

    /// Where the kernel would forward a packet with these addresses that came in here.
    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn route(self, tuple: &Tuple, packet: &Packet) -> Route {
        const FRAGMENTATION_NEEDED: i64 = 8;
        const NO_NEIGHBOUR: i64 = 7;
        const NOT_FORWARDED: i64 = 4;
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        // SAFETY: a C structure of integers, for which zeros are a value.
        let mut lookup: FibLookup = unsafe { mem::zeroed() };
        lookup.l4_protocol = tuple.protocol;
        lookup.ifindex = self.interface();
        // Told the length, the kernel looks at the route's MTU, and before it looks for the neighbour.
        lookup.__bindgen_anon_1.tot_len = self.wire_length(packet);
        if tuple.destination.is_v4() {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = tuple.source.v4_word();
            lookup.__bindgen_anon_4.ipv4_dst = tuple.destination.v4_word();
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = tuple.source.v6_words();
            lookup.__bindgen_anon_4.ipv6_dst = tuple.destination.v6_words();
        }
        // SAFETY: the helper takes the context the kernel passed and a structure of the size it is told.
        let answer =
            unsafe { bpf_fib_lookup(self.0.as_ptr(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        let kind = match answer {
            0 | NO_NEIGHBOUR => RouteKind::Forward,
            FRAGMENTATION_NEEDED => RouteKind::TooBig,
            NOT_FORWARDED => RouteKind::Local,
            _ => RouteKind::Unreachable,
        };
        // SAFETY: the family, which the kernel may have changed, says which of the two it has written; both are integers.
        let next = unsafe {
            if lookup.family == AF_INET {
                Address::from_v4_word(lookup.__bindgen_anon_4.ipv4_dst)
            } else {
                Address::from_v6_words(lookup.__bindgen_anon_4.ipv6_dst)
            }
        };
        let mtu = match answer {
            // SAFETY: the kernel has put the one integer in the place of the other.
            0 | FRAGMENTATION_NEEDED => u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result }),
            _ => 0,
        };
        Route { kind, interface: lookup.ifindex, next, mtu }
    }

    /// Has the kernel send the packet back to whom it came from.
    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn send_back(self, packet: &Packet) -> i32 {
        if packet.network == ETHERNET {
            let Some([first, second, third, fourth, fifth, sixth]) = self.load::<[u16; 6]>(0) else {
                return SHOT;
            };
            if rewrite::store(self, 0, &[fourth, fifth, sixth, first, second, third], 0).is_err() {
                return SHOT;
            }
        }
        // SAFETY: the helper takes two numbers.
        unsafe { bpf_redirect(self.interface(), 0) as i32 }
    }

    /// Has the kernel send the packet to a neighbour, whose link address it finds out if it must.
    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn send(self, route: &Route) -> i32 {
        const AF_INET: u32 = 2;
        const AF_INET6: u32 = 10;
        if self.word(offset_of!(__sk_buff, vlan_present)) != 0 {
            // A tag of priority alone, which is of no use on another link.
            // SAFETY: the helper takes the context the kernel passed; without the tag or with it, the packet is whole.
            unsafe { bpf_skb_vlan_pop(self.0.skb.skb) };
        }
        let mut neighbour = if route.next.is_v4() {
            let next = NextHop { ipv6_nh: [route.next.v4_word(), 0, 0, 0] };
            Neighbour { nh_family: AF_INET, __bindgen_anon_1: next }
        } else {
            Neighbour { nh_family: AF_INET6, __bindgen_anon_1: NextHop { ipv6_nh: route.next.v6_words() } }
        };
        // SAFETY: the helper takes a structure of the size it is told.
        let verdict = unsafe {
            bpf_redirect_neigh(route.interface, &raw mut neighbour, size_of::<Neighbour>() as i32, 0)
        };
        verdict as i32
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn load<H: AnyBitPattern>(&self, offset: u32) -> Option<H> {
        let mut header = mem::MaybeUninit::<H>::uninit();
        // SAFETY: the helper writes as many bytes as it is told, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast::<c_void>(),
                offset,
                header.as_mut_ptr().cast::<c_void>(),
                size_of::<H>() as u32,
            )
        };
        // SAFETY: all of it was written, and any bytes are a value of `H`.
        (failed == 0).then(|| unsafe { header.assume_init() })
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.word(offset_of!(__sk_buff, len))
    }
}

/// The kernel's monotonic clock, to a few milliseconds.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
fn now() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}
