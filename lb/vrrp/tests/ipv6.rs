//! What IPv6 does otherwise than IPv4: what is on the wire, and whose address is higher.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vrrp::{
    Action, Advert, AdvertInterval, Audience, Checksum, Event, GROUP_IPV6, Header, LONGEST, Peers, Preempt,
    Priority, Received, Rejected, Role, RouterId, Settings, State, Version, VirtualAddresses, decode,
    decode_message, encode, step,
};

const GROUP: IpAddr = IpAddr::V6(GROUP_IPV6);
const INTERVAL: Duration = Duration::from_millis(100);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ours() -> IpAddr {
    address("fe80::ff:fe00:b")
}

fn keepalived() -> IpAddr {
    address("fe80::ff:fe00:a")
}

fn settings(local: IpAddr, virtual_addresses: &[&str]) -> Settings {
    let addresses = virtual_addresses.iter().map(|text| address(text)).collect();
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(200).unwrap(),
        version: Version::Three {
            interval: AdvertInterval::new(INTERVAL).unwrap(),
            checksum: Checksum::PseudoHeader,
        },
        preempt: Preempt::After(Duration::ZERO),
        local,
        audience: Audience::Group,
        addresses: VirtualAddresses::new(addresses).unwrap(),
    }
}

/// What keepalived 2.2.7 sent from `fe80::ff:fe00:a` with priority 200, `advert_int` 0.1, router 51, after the IPv6 header.
const ADVERT: [u8; 24] =
    [0x31, 0x33, 0xc8, 0x01, 0x00, 0x0a, 0x0b, 0x9e, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa];
const ADVERTISED: [&str; 1] = ["fd00::fa"];
/// The same with three addresses, when it was stopped.
const FAREWELL: [u8; 56] = [
    0x31, 0x33, 0x00, 0x03, 0x00, 0x0a, 0xd4, 0xaf, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02,
    0x50, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0xfb,
];
const LEFT: [&str; 3] = ["fe80::250", "fd00::fa", "fd00::fb"];

fn header() -> Header {
    Header { source: keepalived(), destination: GROUP, time_to_live: 255 }
}

#[test]
fn adverts_of_keepalived_are_understood_and_ours_are_those_that_it_would_send() {
    let cases: [(&[u8], &[&str], _); 2] =
        [(&ADVERT, &ADVERTISED, Priority::new(200)), (&FAREWELL, &LEFT, None)];
    for (bytes, addresses, priority) in cases {
        let expected = Received { from: keepalived(), advert: Advert { priority, interval: INTERVAL } };
        assert_eq!(decode_message(&settings(ours(), addresses), header(), bytes), Ok(expected));
        assert_eq!(encode(&settings(keepalived(), addresses), priority, GROUP), bytes);
    }
}

#[test]
fn there_is_one_form_of_checksum_whatever_is_configured() {
    let plain = |local| Settings {
        version: Version::Three {
            interval: AdvertInterval::new(INTERVAL).unwrap(),
            checksum: Checksum::Plain,
        },
        ..settings(local, &ADVERTISED)
    };
    assert!(decode_message(&plain(ours()), header(), &ADVERT).is_ok());
    assert_eq!(encode(&plain(keepalived()), Priority::new(200), GROUP), ADVERT);
    // What it would be without the pseudo-header.
    let mut bytes = ADVERT;
    bytes[6..8].fill(0);
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>();
    bytes[6..8].copy_from_slice(&(!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes());
    let rejected = decode_message(&settings(ours(), &ADVERTISED), header(), &bytes);
    assert_eq!(rejected, Err(Rejected::Checksum { right_as: None }));
}

#[test]
#[rustfmt::skip]
fn every_check_has_its_own_reason() {
    type Spoil = fn(&mut Header, &mut Vec<u8>);
    let damaged = Rejected::Checksum { right_as: None };
    let cases: [(&str, Spoil, Rejected); 18] = [
        ("another router", |_, it| it[1] = 52, Rejected::RouterId),
        ("another router, forwarded, version 2", |header, it| { header.time_to_live = 1; it[0] = 0x21; it[1] = 52; }, Rejected::RouterId),
        ("nothing", |_, it| it.clear(), Rejected::Length),
        ("less than the fixed fields", |_, it| it.truncate(7), Rejected::Length),
        ("to one host", |header, _| header.destination = ours(), Rejected::Destination { found: ours() }),
        ("to all nodes", |header, _| header.destination = address("ff02::1"), Rejected::Destination { found: address("ff02::1") }),
        ("from ourselves", |header, _| header.source = ours(), Rejected::OwnAddress),
        ("forwarded", |header, _| header.time_to_live = 254, Rejected::TimeToLive { found: 254 }),
        ("version 2, which knows no IPv6", |_, it| it[0] = 0x21, Rejected::Version { found: 2, expected: 3 }),
        ("type 2", |_, it| it[0] = 0x32, Rejected::Type { found: 2 }),
        ("no address", |_, it| it[3] = 0, Rejected::Length),
        ("two addresses, one there", |_, it| it[3] = 2, Rejected::Length),
        ("four addresses of the other family", |_, it| it[3] = 4, Rejected::Length),
        ("half an address", |_, it| it.truncate(16), Rejected::Length),
        ("damaged", |_, it| it[2] = 201, damaged),
        ("no checksum", |_, it| it[6..8].fill(0), damaged),
        ("interval 0", |_, it| { it[5] = 0; it[7] += 0x0a; }, Rejected::Interval { found: Duration::ZERO }),
        ("another address", |_, it| { it[23] = 0xfb; it[7] -= 1; }, Rejected::Addresses),
    ];
    for (what, spoil, expected) in cases {
        let (mut header, mut bytes) = (header(), ADVERT.to_vec());
        spoil(&mut header, &mut bytes);
        assert_eq!(decode_message(&settings(ours(), &ADVERTISED), header, &bytes), Err(expected), "{what}");
    }
}

#[test]
fn no_single_flipped_bit_passes() {
    for bit in 0..8 * ADVERT.len() {
        let mut bytes = ADVERT;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_message(&settings(ours(), &ADVERTISED), header(), &bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn the_families_do_not_understand_each_other() {
    let ipv4 = Settings {
        local: address("172.16.60.241"),
        ..settings(address("172.16.60.241"), &["172.16.60.250"])
    };
    let found = GROUP;
    assert_eq!(decode_message(&ipv4, header(), &ADVERT), Err(Rejected::Destination { found }));
    let message = encode(&ipv4, Priority::new(200), address("224.0.0.18"));
    let packet =
        [&[0x45, 0, 0, 32, 0, 0, 0, 0, 255, 112, 0, 0, 172, 16, 60, 241, 224, 0, 0, 18][..], &message];
    let found = address("224.0.0.18");
    let rejected = decode(&settings(ours(), &ADVERTISED), &packet.concat());
    assert_eq!(rejected, Err(Rejected::Destination { found }));
}

#[test]
fn peers_hear_each_other_and_nobody_else() {
    let with_peer = |local, peer| Settings {
        audience: Audience::Peers(Peers::new([peer].into()).unwrap()),
        ..settings(local, &ADVERTISED)
    };
    let sender = with_peer(keepalived(), ours());
    assert_eq!(sender.destinations(), [ours()]);
    assert_eq!(settings(ours(), &ADVERTISED).destinations(), [GROUP]);
    let message = encode(&sender, Some(sender.priority), ours());
    let unicast = Header { destination: ours(), ..header() };
    assert!(decode_message(&with_peer(ours(), keepalived()), unicast, &message).is_ok());
    let rejected = decode_message(&with_peer(ours(), address("fe80::c")), unicast, &message);
    assert_eq!(rejected, Err(Rejected::Peer));
    let rejected = decode_message(&with_peer(ours(), keepalived()), header(), &ADVERT);
    assert_eq!(rejected, Err(Rejected::Destination { found: GROUP }));
}

#[test]
fn among_equals_the_higher_address_remains_master() {
    let (lower, higher) = (address("fe80::9"), address("fe80::a"));
    let owner = Settings { priority: Priority::OWNER, ..settings(lower, &ADVERTISED) };
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let now = Instant::now();
    let (master, _) = step(&owner, State::Initialize, Event::Start, now);
    let advert = Advert { priority: Some(Priority::OWNER), interval: INTERVAL };
    for (from, expected) in [(higher, Role::Backup), (address("fe80::8"), Role::Master)] {
        let (state, actions) = step(&owner, master, Event::Advert { from, advert }, now);
        assert_eq!(state.role(), expected, "{from}");
        assert_eq!(actions.contains(&Action::Release), expected == Role::Backup);
    }
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded(
        addresses in prop::collection::btree_set(any::<u128>(), 1..=255),
        centiseconds in 1_u16..0x1000,
        priority in proptest::option::of(1_u8..),
    ) {
        let sender = Settings {
            version: Version::Three {
                interval: AdvertInterval::from_centiseconds(centiseconds).unwrap(),
                checksum: Checksum::PseudoHeader,
            },
            addresses: VirtualAddresses::new(
                addresses.into_iter().map(|number| Ipv6Addr::from(number).into()).collect(),
            ).unwrap(),
            ..settings(keepalived(), &ADVERTISED)
        };
        let advert = Advert { priority: priority.and_then(Priority::new), interval: sender.version.interval() };
        let message = encode(&sender, advert.priority, GROUP);
        prop_assert!(message.len() <= LONGEST);
        let decoded = decode_message(&Settings { local: ours(), ..sender }, header(), &message);
        prop_assert_eq!(decoded, Ok(Received { from: keepalived(), advert }));
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), time_to_live in any::<u8>()) {
        let header = Header { time_to_live, ..header() };
        prop_assert!(decode_message(&settings(ours(), &ADVERTISED), header, &bytes).is_err());
    }
}
