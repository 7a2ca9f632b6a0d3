//! Adverts as bytes (RFC 9568 §5, RFC 3768 §5): hostile input is rejected with a reason, and never reaches the state machine.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Type  | Virtual Rtr ID|   Priority    |IPvX Addr Count|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Rsvd |  Max Advertise Int    |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     IPv4 or IPv6 addresses                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Version 2 has the type of authentication and the interval in seconds where version 3 has its interval, and eight bytes
//! for a password after the addresses. Its checksum covers all of that and no pseudo-header.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::addresses::{Audience, Family};
use crate::rejected::Rejected;
use crate::settings::{AdvertInterval, Checksum, Password, Priority, Settings, Version};

/// The IP protocol number of VRRP (RFC 9568 §5.1.1.4).
pub const PROTOCOL: u8 = 112;

/// The only TTL or hop limit of an advert (RFC 9568 §5.1.1.3, §5.1.2.3): whoever sees it shares the link with its sender.
pub const TIME_TO_LIVE: u8 = 255;

/// No advert has more bytes: 255 IPv6 addresses after the fixed fields. One over IPv4 is shorter with the longest header.
pub const LONGEST: usize = FIXED + 16 * 255;

const ADVERTISEMENT: u8 = 1;
/// Bytes before the first address.
const FIXED: usize = 8;
/// Bytes after the last address in version 2, whether or not there is a password (RFC 3768 §5.3.10).
const PASSWORD: usize = 8;
/// The types of authentication (RFC 2338 §5.3.6): RFC 3768 has kept the first one only, users the second one, too.
const NO_AUTHENTICATION: u8 = 0;
const SIMPLE_PASSWORD: u8 = 1;
const IPV4_HEADER: usize = 20;

/// What an advert says about its sender. Router and addresses are the same for all of one virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The sender's priority; `None` (0 on the wire) says that it has stopped being master.
    pub priority: Option<Priority>,
    /// The time until its next advert.
    pub interval: Duration,
}

/// An advert that passed every check of RFC 9568 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The sender's primary address.
    pub from: IpAddr,
    /// What it says.
    pub advert: Advert,
}

/// The parts of an IP header that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent the packet.
    pub source: IpAddr,
    /// Whom it was sent to.
    pub destination: IpAddr,
    /// Its time to live, as IPv4 has it, or hop limit.
    pub time_to_live: u8,
}

/// Reads an IPv4 packet, header included, as an advert for the router of `settings`; see [`decode_message`].
pub fn decode(settings: &Settings, packet: &[u8]) -> Result<Received, Rejected> {
    let (header, message) = split(packet).ok_or(Rejected::Header)?;
    decode_message(settings, header, message)
}

/// Reads what a packet with that header holds as an advert for the router of `settings` (RFC 9568 §7.1).
///
/// The router identifier is looked at first: packets of other virtual routers on the link, of whatever version, are
/// [`Rejected::RouterId`] and nothing else.
pub fn decode_message(settings: &Settings, header: Header, message: &[u8]) -> Result<Received, Rejected> {
    let Some((fixed, rest)) = message.split_first_chunk::<FIXED>() else {
        return Err(Rejected::Length);
    };
    let [version_and_type, router_id, priority, count, fifth, sixth, _, _] = *fixed;
    if router_id != settings.router_id.number() {
        return Err(Rejected::RouterId);
    }
    check_header(settings, header)?;
    let (found, expected) = (version_and_type >> 4, settings.version.number());
    check(found == expected, Rejected::Version { found, expected })?;
    check(version_and_type & 0x0f == ADVERTISEMENT, Rejected::Type { found: version_and_type & 0x0f })?;
    let trailer = trailer(settings.version);
    let length = usize::from(count) * settings.addresses.family().address_length();
    check(count > 0 && rest.len() == length + trailer.len(), Rejected::Length)?;
    let (addresses, authentication) = rest.split_at(length);
    check_checksum(settings, header, message)?;
    let interval = match settings.version {
        Version::Three { .. } => {
            let centiseconds = u16::from_be_bytes([fifth & 0x0f, sixth]);
            let interval = AdvertInterval::from_centiseconds(centiseconds);
            interval.ok_or(Rejected::Interval { found: Duration::ZERO })?.duration()
        }
        Version::Two { interval, password } => {
            check_authentication(password, fifth, authentication)?;
            let found = Duration::from_secs(u64::from(sixth));
            check(found == interval.duration(), Rejected::Interval { found })?;
            found
        }
    };
    check(same_addresses(settings, addresses), Rejected::Addresses)?;
    Ok(Received { from: header.source, advert: Advert { priority: Priority::new(priority), interval } })
}

/// Our advert, without the IP header, to be sent from [`Settings::local`] to `destination`, one of
/// [`Settings::destinations`]. Without `priority` it is a farewell.
pub fn encode(settings: &Settings, priority: Option<Priority>, destination: IpAddr) -> Vec<u8> {
    let [fifth, sixth] = match settings.version {
        Version::Two { interval, password } => [authentication_type(password), interval.number()],
        Version::Three { interval, .. } => interval.centiseconds().to_be_bytes(),
    };
    let mut message = Vec::new();
    message.extend([
        settings.version.number() << 4 | ADVERTISEMENT,
        settings.router_id.number(),
        priority.map_or(0, Priority::number),
        settings.addresses.count(),
        fifth,
        sixth,
        0,
        0,
    ]);
    message.extend(settings.addresses.as_slice().iter().copied().flat_map(octets));
    message.extend(trailer(settings.version));
    let sum = !sum(form(settings), settings.local, destination, &message);
    message[6..FIXED].copy_from_slice(&sum.to_be_bytes());
    message
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What follows the addresses.
fn trailer(version: Version) -> Vec<u8> {
    match version {
        Version::Two { password, .. } => password.map_or([0; PASSWORD], Password::bytes).to_vec(),
        Version::Three { .. } => Vec::new(),
    }
}

const fn authentication_type(password: Option<Password>) -> u8 {
    match password {
        Some(_) => SIMPLE_PASSWORD,
        None => NO_AUTHENTICATION,
    }
}

/// RFC 3768 §7.1. Without authentication the bytes for it mean nothing.
fn check_authentication(password: Option<Password>, found: u8, bytes: &[u8]) -> Result<(), Rejected> {
    let expected = authentication_type(password);
    check(found == expected, Rejected::AuthenticationType { found, expected })?;
    check(password.is_none_or(|password| password.is(bytes)), Rejected::Password)
}

/// Splits an IPv4 packet into header and payload. The kernel has checked the header's own checksum; its lengths are checked
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
    let source = Ipv4Addr::new(s0, s1, s2, s3).into();
    let destination = Ipv4Addr::new(d0, d1, d2, d3).into();
    Some((Header { source, destination, time_to_live }, payload))
}

fn check(holds: bool, otherwise: Rejected) -> Result<(), Rejected> {
    if holds { Ok(()) } else { Err(otherwise) }
}

fn check_header(settings: &Settings, header: Header) -> Result<(), Rejected> {
    check(header.source != settings.local, Rejected::OwnAddress)?;
    let destination = match &settings.audience {
        Audience::Group => settings.addresses.family().group(),
        Audience::Peers(_) => settings.local,
    };
    check(header.destination == destination, Rejected::Destination { found: header.destination })?;
    match &settings.audience {
        Audience::Group => {}
        Audience::Peers(peers) => check(peers.contains(header.source), Rejected::Peer)?,
    }
    check(header.time_to_live == TIME_TO_LIVE, Rejected::TimeToLive { found: header.time_to_live })
}

/// Over IPv6 there is one form only: the pseudo-header is always summed (RFC 9568 §5.2.8).
const fn form(settings: &Settings) -> Checksum {
    match (settings.version, settings.addresses.family()) {
        (Version::Two { .. }, _) => Checksum::Plain,
        (Version::Three { .. }, Family::Ipv6) => Checksum::PseudoHeader,
        (Version::Three { checksum, .. }, Family::Ipv4) => checksum,
    }
}

/// The form that a sender of another opinion uses, where there can be another opinion.
const fn other_form(settings: &Settings) -> Option<Checksum> {
    match (settings.version, settings.addresses.family()) {
        (Version::Two { .. }, _) | (_, Family::Ipv6) => None,
        (Version::Three { checksum: Checksum::PseudoHeader, .. }, Family::Ipv4) => Some(Checksum::Plain),
        (Version::Three { checksum: Checksum::Plain, .. }, Family::Ipv4) => Some(Checksum::PseudoHeader),
    }
}

fn check_checksum(settings: &Settings, header: Header, message: &[u8]) -> Result<(), Rejected> {
    let matches = |form| sum(form, header.source, header.destination, message) == 0xffff;
    if matches(form(settings)) {
        return Ok(());
    }
    Err(Rejected::Checksum { right_as: other_form(settings).filter(|&form| matches(form)) })
}

/// Whether the encoded `addresses` are those of `settings`, in any order.
fn same_addresses(settings: &Settings, addresses: &[u8]) -> bool {
    let length = settings.addresses.family().address_length();
    let mut found: Vec<&[u8]> = addresses.chunks_exact(length).collect();
    let mut expected: Vec<Vec<u8>> = settings.addresses.as_slice().iter().copied().map(octets).collect();
    found.sort_unstable();
    expected.sort_unstable();
    found == expected
}

/// The ones' complement sum (RFC 1071) over what `checksum` covers: 0xffff if the message carries the right checksum.
fn sum(checksum: Checksum, source: IpAddr, destination: IpAddr, message: &[u8]) -> u16 {
    let mut total = add(0, message);
    match checksum {
        Checksum::Plain => {}
        Checksum::PseudoHeader => {
            total = add(total, &octets(source));
            total = add(total, &octets(destination));
            total += u32::from(PROTOCOL);
            total = add(total, &message.len().to_be_bytes());
        }
    }
    fold(total)
}

/// Adds 16-bit words; the sums of the longest possible packet cannot overflow 32 bits.
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
