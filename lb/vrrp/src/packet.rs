//! Adverts as bytes (RFC 9568 §5): hostile input is rejected with a reason, and never reaches the state machine.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Type  | Virtual Rtr ID|   Priority    |IPvX Addr Count|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Rsvd |  Max Advertise Int    |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         IPv4 addresses                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use crate::settings::{AdvertInterval, Audience, Checksum, Priority, Settings};

/// The IP protocol number of VRRP (RFC 9568 §5.1.1.4).
pub const PROTOCOL: u8 = 112;

/// The group that adverts are sent to (RFC 9568 §5.1.1.2), unless the peers are listed.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// The only TTL of an advert (RFC 9568 §5.1.1.3): whoever sees it shares the link with its sender.
pub const TIME_TO_LIVE: u8 = 255;

/// More bytes than any advert has: the longest IPv4 header, the fixed fields and 255 addresses.
pub const LONGEST: usize = 60 + FIXED + 4 * 255;

const VERSION: u8 = 3;
const ADVERTISEMENT: u8 = 1;
/// Bytes before the first address.
const FIXED: usize = 8;
const IPV4_HEADER: usize = 20;

/// What an advert says about its sender. Router and addresses are the same for all of one virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The sender's priority; `None` (0 on the wire) says that it has stopped being master.
    pub priority: Option<Priority>,
    /// The time until its next advert.
    pub interval: AdvertInterval,
}

/// An advert that passed every check of RFC 9568 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The sender's primary address.
    pub from: Ipv4Addr,
    /// What it says.
    pub advert: Advert,
}

/// Why a packet is no advert for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    /// Another virtual router's: nothing is wrong with it, so it is not worth a log line.
    #[error("it is for another virtual router")]
    RouterId,
    /// No IPv4 packet of protocol 112.
    #[error("it is not an IPv4 packet with VRRP in it")]
    Header,
    /// Addressed to the group instead of us where peers are listed; to one host instead of the group where not.
    #[error("it was sent to {found}: either all routers list their peers, or none does")]
    Destination {
        /// Where it was sent.
        found: Ipv4Addr,
    },
    /// Peers are listed, and the sender is none of them.
    #[error("its sender is not one of the peers")]
    Peer,
    /// Our own address as source: a loop in the network, or another node with the same address.
    #[error("it comes from our own address")]
    OwnAddress,
    /// It has been forwarded.
    #[error("its time to live is {found}, not 255: the sender is not on this link")]
    TimeToLive {
        /// The TTL.
        found: u8,
    },
    /// Not version 3.
    #[error("its version is {found}, not 3")]
    Version {
        /// The version.
        found: u8,
    },
    /// Not an advertisement.
    #[error("its type is {found}, not 1 (advertisement)")]
    Type {
        /// The type.
        found: u8,
    },
    /// Not the fixed fields and as many addresses as it claims.
    #[error("its length does not fit its number of addresses")]
    Length,
    /// Damaged, or the sender computes checksums in the other way.
    #[error("its checksum is wrong{}", if *.other_form_matches { ", but would be right in the other form: change `checksum` here or at the sender" } else { "" })]
    Checksum {
        /// Whether [`Settings::checksum`] is what differs.
        other_form_matches: bool,
    },
    /// An interval of 0 would have us take over at once.
    #[error("its interval is 0")]
    Interval,
    /// The sender is configured with other virtual addresses.
    #[error("its virtual addresses are not ours")]
    Addresses,
}

impl Rejected {
    /// Every value of [`label`](Self::label).
    pub const LABELS: [&str; 12] = [
        "router_id",
        "header",
        "destination",
        "peer",
        "own_address",
        "time_to_live",
        "version",
        "type",
        "length",
        "checksum",
        "interval",
        "addresses",
    ];

    /// A word for a metric, from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RouterId => "router_id",
            Self::Header => "header",
            Self::Destination { .. } => "destination",
            Self::Peer => "peer",
            Self::OwnAddress => "own_address",
            Self::TimeToLive { .. } => "time_to_live",
            Self::Version { .. } => "version",
            Self::Type { .. } => "type",
            Self::Length => "length",
            Self::Checksum { .. } => "checksum",
            Self::Interval => "interval",
            Self::Addresses => "addresses",
        }
    }
}

/// Reads an IPv4 packet, header included, as an advert for the router of `settings` (RFC 9568 §7.1).
///
/// The router identifier is looked at first: packets of other virtual routers on the link, of whatever version, are
/// [`Rejected::RouterId`] and nothing else.
pub fn decode(settings: &Settings, packet: &[u8]) -> Result<Received, Rejected> {
    let (header, message) = split(packet).ok_or(Rejected::Header)?;
    let Some((fixed, addresses)) = message.split_first_chunk::<FIXED>() else {
        return Err(Rejected::Length);
    };
    let [version_and_type, router_id, priority, count, interval_high, interval_low, _, _] = *fixed;
    if router_id != settings.router_id.number() {
        return Err(Rejected::RouterId);
    }
    check_header(settings, header)?;
    check(version_and_type >> 4 == VERSION, Rejected::Version { found: version_and_type >> 4 })?;
    check(version_and_type & 0x0f == ADVERTISEMENT, Rejected::Type { found: version_and_type & 0x0f })?;
    check(count > 0 && addresses.len() == usize::from(count) * 4, Rejected::Length)?;
    check_checksum(settings.checksum, header, message)?;
    let interval = u16::from_be_bytes([interval_high & 0x0f, interval_low]);
    let interval = AdvertInterval::from_centiseconds(interval).ok_or(Rejected::Interval)?;
    check(same_addresses(settings, addresses), Rejected::Addresses)?;
    Ok(Received { from: header.source, advert: Advert { priority: Priority::new(priority), interval } })
}

/// Our advert, without the IPv4 header, to be sent from [`Settings::local`] to `destination`, one of
/// [`Settings::destinations`]. Without `priority` it is a farewell.
pub fn encode(settings: &Settings, priority: Option<Priority>, destination: Ipv4Addr) -> Vec<u8> {
    let addresses = settings.addresses.as_slice();
    let [interval_high, interval_low] = settings.interval.centiseconds().to_be_bytes();
    let mut message = Vec::with_capacity(FIXED + 4 * addresses.len());
    message.extend([
        VERSION << 4 | ADVERTISEMENT,
        settings.router_id.number(),
        priority.map_or(0, Priority::number),
        settings.addresses.count(),
        interval_high,
        interval_low,
        0,
        0,
    ]);
    message.extend(addresses.iter().flat_map(Ipv4Addr::octets));
    let sum = !sum(settings.checksum, settings.local, destination, &message);
    message[6..FIXED].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The parts of an IPv4 header that matter here.
#[derive(Clone, Copy)]
struct Header {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    time_to_live: u8,
}

/// Splits a packet into header and payload. The kernel has checked the header's own checksum; its lengths are checked
/// here all the same.
fn split(packet: &[u8]) -> Option<(Header, &[u8])> {
    let fixed: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    let [version_and_length, _, total_high, total_low, _, _, _, _, time_to_live, protocol, ..] = *fixed;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([total_high, total_low]));
    if version_and_length >> 4 != 4 || header_length < IPV4_HEADER || protocol != PROTOCOL {
        return None;
    }
    let payload = packet.get(header_length..total_length)?;
    let source = Ipv4Addr::new(s0, s1, s2, s3);
    let destination = Ipv4Addr::new(d0, d1, d2, d3);
    Some((Header { source, destination, time_to_live }, payload))
}

fn check(holds: bool, otherwise: Rejected) -> Result<(), Rejected> {
    if holds { Ok(()) } else { Err(otherwise) }
}

fn check_header(settings: &Settings, header: Header) -> Result<(), Rejected> {
    check(header.source != settings.local, Rejected::OwnAddress)?;
    let destination = match &settings.audience {
        Audience::Group => GROUP,
        Audience::Peers(_) => settings.local,
    };
    check(header.destination == destination, Rejected::Destination { found: header.destination })?;
    match &settings.audience {
        Audience::Group => {}
        Audience::Peers(peers) => check(peers.contains(header.source), Rejected::Peer)?,
    }
    check(header.time_to_live == TIME_TO_LIVE, Rejected::TimeToLive { found: header.time_to_live })
}

fn check_checksum(checksum: Checksum, header: Header, message: &[u8]) -> Result<(), Rejected> {
    let matches = |form| sum(form, header.source, header.destination, message) == 0xffff;
    let other_form = match checksum {
        Checksum::PseudoHeader => Checksum::Plain,
        Checksum::Plain => Checksum::PseudoHeader,
    };
    if matches(checksum) {
        return Ok(());
    }
    Err(Rejected::Checksum { other_form_matches: matches(other_form) })
}

/// Whether the encoded `addresses` are those of `settings`, in any order.
fn same_addresses(settings: &Settings, addresses: &[u8]) -> bool {
    let mut found: Vec<Ipv4Addr> = addresses.as_chunks::<4>().0.iter().copied().map(Ipv4Addr::from).collect();
    let mut expected = settings.addresses.as_slice().to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    found == expected
}

/// The ones' complement sum (RFC 1071) over what `checksum` covers: 0xffff if the message carries the right checksum.
fn sum(checksum: Checksum, source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> u16 {
    let mut total = add(0, message);
    match checksum {
        Checksum::Plain => {}
        Checksum::PseudoHeader => {
            total = add(total, &source.octets());
            total = add(total, &destination.octets());
            total += u32::from(PROTOCOL);
            total = add(total, &message.len().to_be_bytes());
        }
    }
    fold(total)
}

/// Adds 16-bit words; the sums of the longest possible IPv4 packet cannot overflow 32 bits.
fn add(total: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum();
    total + words + rest.first().map_or(0, |&byte| u32::from(byte) << 8)
}

fn fold(mut total: u32) -> u16 {
    loop {
        match u16::try_from(total) {
            Ok(folded) => return folded,
            Err(_) => total = (total & 0xffff) + (total >> 16),
        }
    }
}
