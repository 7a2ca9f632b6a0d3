//! Adverts on the wire: those of a real keepalived, and what strangers may send.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use vrrp::{
    Advert, AdvertInterval, Audience, Checksum, GROUP_IPV4, Password, Peers, Preempt, Priority, Received,
    Rejected, RouterId, Settings, Version, VirtualAddresses, WholeSeconds, decode, encode,
};

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 241));
const KEEPALIVED: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 242));
const INTERVAL: Duration = Duration::from_millis(100);
const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 250));
const GROUP: IpAddr = IpAddr::V4(GROUP_IPV4);

/// What keepalived 2.2.7 sent from 172.16.60.242 with priority 200, `advert_int` 0.1, router 51, address 172.16.60.250.
const ADVERT: [u8; 32] = [
    0x45, 0xc0, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xf1, 0x97, 0xac, 0x10, 0x3c, 0xf2, 0xe0,
    0x00, 0x00, 0x12, 0x31, 0x33, 0xc8, 0x01, 0x00, 0x0a, 0x54, 0x24, 0xac, 0x10, 0x3c, 0xfa,
];
/// What it sent when it was stopped.
const FAREWELL: [u8; 32] = [
    0x45, 0xc0, 0x00, 0x20, 0x00, 0x02, 0x00, 0x00, 0xff, 0x70, 0xf1, 0x96, 0xac, 0x10, 0x3c, 0xf2, 0xe0,
    0x00, 0x00, 0x12, 0x31, 0x33, 0x00, 0x01, 0x00, 0x0a, 0x1c, 0x25, 0xac, 0x10, 0x3c, 0xfa,
];

fn settings(local: IpAddr, checksum: Checksum) -> Settings {
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(200).unwrap(),
        version: Version::Three { interval: AdvertInterval::new(INTERVAL).unwrap(), checksum },
        preempt: Preempt::After(Duration::ZERO),
        local,
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![VIRTUAL]).unwrap(),
    }
}

/// The packet that carries `message` to the group.
fn packet(from: IpAddr, message: &[u8]) -> Vec<u8> {
    packet_to(GROUP, from, message)
}

fn octets(address: IpAddr) -> [u8; 4] {
    let IpAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    address.octets()
}

fn packet_to(destination: IpAddr, from: IpAddr, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
    let header = [0x45, 0xc0, length[0], length[1], 0, 0, 0, 0, 255, 112, 0, 0];
    [&header[..], &octets(from), &octets(destination), message].concat()
}

#[test]
fn adverts_of_keepalived_are_understood() {
    let interval = INTERVAL;
    for (bytes, priority) in [(ADVERT, Priority::new(200)), (FAREWELL, None)] {
        let expected = Received { from: KEEPALIVED, advert: Advert { priority, interval } };
        assert_eq!(decode(&settings(OURS, Checksum::PseudoHeader), &bytes), Ok(expected));
    }
}

#[test]
fn our_adverts_are_those_that_keepalived_would_send() {
    let settings = settings(KEEPALIVED, Checksum::PseudoHeader);
    for (bytes, priority) in [(ADVERT, Some(settings.priority)), (FAREWELL, None)] {
        assert_eq!(encode(&settings, priority, GROUP), bytes[20..]);
    }
}

#[test]
#[rustfmt::skip]
fn every_check_has_its_own_reason() {
    type Spoil = fn(&mut Vec<u8>);
    let damaged = Rejected::Checksum { right_as: None };
    let cases: [(&str, Spoil, Rejected); 23] = [
        ("another router", |it| it[21] = 52, Rejected::RouterId),
        ("another router, forwarded, version 2", |it| { it[8] = 1; it[20] = 0x21; it[21] = 52; }, Rejected::RouterId),
        ("empty", Vec::clear, Rejected::Header),
        ("part of a header", |it| it.truncate(19), Rejected::Header),
        ("IPv6", |it| it[0] = 0x65, Rejected::Header),
        ("header shorter than can be", |it| it[0] = 0x44, Rejected::Header),
        ("header longer than the packet", |it| it[0] = 0x4f, Rejected::Header),
        ("total length beyond the packet", |it| it[3] = 33, Rejected::Header),
        ("UDP", |it| it[9] = 17, Rejected::Header),
        ("total length within the fixed fields", |it| it[3] = 27, Rejected::Length),
        ("to one host", |it| it[16..20].copy_from_slice(&octets(OURS)), Rejected::Destination { found: OURS }),
        ("from ourselves", |it| it[12..16].copy_from_slice(&octets(OURS)), Rejected::OwnAddress),
        ("forwarded", |it| it[8] = 254, Rejected::TimeToLive { found: 254 }),
        ("version 2", |it| it[20] = 0x21, Rejected::Version { found: 2, expected: 3 }),
        ("version 4", |it| it[20] = 0x41, Rejected::Version { found: 4, expected: 3 }),
        ("type 2", |it| it[20] = 0x32, Rejected::Type { found: 2 }),
        ("no address", |it| it[23] = 0, Rejected::Length),
        ("no address, and no room for one", |it| { it[3] = 28; it[23] = 0; it.truncate(28); }, Rejected::Length),
        ("two addresses, one there", |it| it[23] = 2, Rejected::Length),
        ("damaged", |it| it[22] = 201, damaged),
        ("no checksum", |it| it[26..28].fill(0), damaged),
        ("interval 0", |it| { it[25] = 0; it[27] += 0x0a; }, Rejected::Interval { found: Duration::ZERO }),
        ("another address", |it| { it[31] = 251; it[27] -= 1; }, Rejected::Addresses),
    ];
    for (what, spoil, expected) in cases {
        let mut bytes = ADVERT.to_vec();
        spoil(&mut bytes);
        assert_eq!(decode(&settings(OURS, Checksum::PseudoHeader), &bytes), Err(expected), "{what}");
    }
}

#[test]
fn reserved_bits_are_ignored() {
    // RFC 9568 §5.2.6.
    let mut bytes = ADVERT;
    bytes[24] = 0xf0;
    bytes[26..28].copy_from_slice(&[0x64, 0x23]);
    let receiver = settings(OURS, Checksum::PseudoHeader);
    assert_eq!(decode(&receiver, &bytes), decode(&receiver, &ADVERT));
    assert!(decode(&receiver, &bytes).is_ok());
}

#[test]
fn a_checksum_of_the_other_form_is_recognised_as_such() {
    for (ours, theirs) in
        [(Checksum::PseudoHeader, Checksum::Plain), (Checksum::Plain, Checksum::PseudoHeader)]
    {
        let sender = settings(KEEPALIVED, theirs);
        let advert = Advert { priority: Some(sender.priority), interval: sender.version.interval() };
        let bytes = packet(KEEPALIVED, &encode(&sender, advert.priority, GROUP));
        let rejected = decode(&settings(OURS, ours), &bytes);
        assert_eq!(rejected, Err(Rejected::Checksum { right_as: Some(theirs) }));
        let said = rejected.unwrap_err().to_string();
        assert!(said.contains(&format!("`checksum: {theirs}`")), "{said}");
        assert_eq!(decode(&settings(OURS, theirs), &bytes).map(|received| received.advert), Ok(advert));
    }
}

#[test]
fn no_single_flipped_bit_passes() {
    for bit in 0..8 * (ADVERT.len() - 20) {
        let mut bytes = ADVERT;
        bytes[20 + bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&settings(OURS, Checksum::PseudoHeader), &bytes).is_err(), "bit {bit} of the message");
    }
}

#[test]
fn the_order_of_addresses_does_not_matter_but_their_number_does() {
    let with = |local, addresses: &[IpAddr]| Settings {
        addresses: VirtualAddresses::new(addresses.to_vec()).unwrap(),
        ..settings(local, Checksum::PseudoHeader)
    };
    let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
    for (sent, ours) in [([a, b], [b, a]), ([b, a], [a, b])] {
        let sender = with(KEEPALIVED, &sent);
        let bytes = packet(KEEPALIVED, &encode(&sender, None, GROUP));
        assert!(decode(&with(OURS, &ours), &bytes).is_ok());
        assert_eq!(decode(&with(OURS, &[a]), &bytes), Err(Rejected::Addresses));
    }
}

/// With `peer` as the only other router.
fn with_peer(local: IpAddr, peer: IpAddr) -> Settings {
    let audience = Audience::Peers(Peers::new([peer].into()).unwrap());
    Settings { audience, ..settings(local, Checksum::PseudoHeader) }
}

#[test]
fn peers_hear_each_other_and_nobody_else() {
    let sender = with_peer(KEEPALIVED, OURS);
    assert_eq!(sender.destinations(), [OURS]);
    assert_eq!(settings(OURS, Checksum::PseudoHeader).destinations(), [GROUP]);
    let message = |destination| encode(&sender, Some(sender.priority), destination);
    let unicast = packet_to(OURS, KEEPALIVED, &message(OURS));
    let multicast = packet_to(GROUP, KEEPALIVED, &message(GROUP));
    let stranger = IpAddr::from([172, 16, 60, 99]);
    let mut forwarded = unicast.clone();
    forwarded[8] = 254;
    let cases = [
        ("a peer's", with_peer(OURS, KEEPALIVED), &unicast, None),
        (
            "to the group",
            with_peer(OURS, KEEPALIVED),
            &multicast,
            Some(Rejected::Destination { found: GROUP }),
        ),
        ("no peer's", with_peer(OURS, stranger), &unicast, Some(Rejected::Peer)),
        ("forwarded", with_peer(OURS, KEEPALIVED), &forwarded, Some(Rejected::TimeToLive { found: 254 })),
        (
            "to one host where multicast is used",
            settings(OURS, Checksum::PseudoHeader),
            &unicast,
            Some(Rejected::Destination { found: OURS }),
        ),
        ("to the group where multicast is used", settings(OURS, Checksum::PseudoHeader), &multicast, None),
    ];
    for (what, receiver, bytes, expected) in cases {
        assert_eq!(decode(&receiver, bytes).err(), expected, "{what}");
    }
}

#[test]
fn the_checksum_covers_the_destination() {
    let sender = with_peer(KEEPALIVED, OURS);
    let bytes = packet_to(OURS, KEEPALIVED, &encode(&sender, Some(sender.priority), GROUP));
    let damaged = Rejected::Checksum { right_as: None };
    assert_eq!(decode(&with_peer(OURS, KEEPALIVED), &bytes), Err(damaged));
}

#[test]
fn every_rejection_has_a_label_of_the_published_set() {
    let rejections = [
        Rejected::RouterId,
        Rejected::Header,
        Rejected::Destination { found: OURS },
        Rejected::Peer,
        Rejected::OwnAddress,
        Rejected::TimeToLive { found: 1 },
        Rejected::Version { found: 2, expected: 3 },
        Rejected::Type { found: 2 },
        Rejected::Length,
        Rejected::Checksum { right_as: Some(Checksum::Plain) },
        Rejected::Interval { found: Duration::ZERO },
        Rejected::AuthenticationType { found: 1, expected: 0 },
        Rejected::Password,
        Rejected::Addresses,
    ];
    assert_eq!(rejections.map(Rejected::label), Rejected::LABELS);
}

fn any_version() -> impl Strategy<Value = Version> {
    let three = (1_u16..0x1000, any::<bool>()).prop_map(|(centiseconds, plain)| Version::Three {
        interval: AdvertInterval::from_centiseconds(centiseconds).unwrap(),
        checksum: if plain { Checksum::Plain } else { Checksum::PseudoHeader },
    });
    let two = (1_u64..256, proptest::option::of("[!-~]{1,8}")).prop_map(|(seconds, password)| Version::Two {
        interval: WholeSeconds::new(Duration::from_secs(seconds)).unwrap(),
        password: password.map(|password| Password::new(&password).unwrap()),
    });
    prop_oneof![three, two]
}

prop_compose! {
    fn any_settings()(
        router_id in 1_u8..,
        priority in 1_u8..,
        addresses in prop::collection::btree_set(any::<u32>(), 1..=255),
        version in any_version(),
        unicast in any::<bool>(),
    ) -> Settings {
        Settings {
            router_id: RouterId::new(router_id).unwrap(),
            priority: Priority::new(priority).unwrap(),
            version,
            preempt: Preempt::After(Duration::ZERO),
            local: KEEPALIVED,
            audience: if unicast {
                Audience::Peers(Peers::new([OURS].into()).unwrap())
            } else {
                Audience::Group
            },
            addresses: VirtualAddresses::new(addresses.into_iter().map(|address| Ipv4Addr::from(address).into()).collect()).unwrap(),
        }
    }
}

/// The same virtual router at the other end.
fn receiver(sender: Settings) -> Settings {
    let audience = match sender.audience {
        Audience::Group => Audience::Group,
        Audience::Peers(_) => Audience::Peers(Peers::new([KEEPALIVED].into()).unwrap()),
    };
    Settings { local: OURS, audience, ..sender }
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded(sender in any_settings(), farewell in any::<bool>()) {
        let advert = Advert { priority: (!farewell).then_some(sender.priority), interval: sender.version.interval() };
        let [destination] = sender.destinations()[..] else { panic!("one destination") };
        let message = encode(&sender, advert.priority, destination);
        let decoded = decode(&receiver(sender), &packet_to(destination, KEEPALIVED, &message));
        prop_assert_eq!(decoded, Ok(Received { from: KEEPALIVED, advert }));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        prop_assert!(decode(&settings(OURS, Checksum::PseudoHeader), &bytes).is_err());
    }

    #[test]
    fn no_change_to_a_good_advert_makes_it_panic(
        sender in any_settings(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
    ) {
        let [destination] = sender.destinations()[..] else { panic!("one destination") };
        let mut bytes = packet_to(destination, KEEPALIVED, &encode(&sender, Some(sender.priority), destination));
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        bytes.truncate(length.index(bytes.len() + 1));
        if let Ok(received) = decode(&receiver(sender), &bytes) {
            prop_assert_eq!(received.advert.priority, Priority::new(bytes[22]));
        }
    }
}
