//! What version 2 does otherwise than version 3: its timers, and what is on the wire.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use vrrp::{
    Advert, Audience, Event, GROUP_IPV4, Password, Preempt, Priority, Received, Rejected, Role, RouterId,
    Settings, State, Version, VirtualAddresses, WholeSeconds, decode, encode, step,
};

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 241));
const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 242));
const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 250));

fn settings(seconds: u64, password: Option<&str>) -> Settings {
    let interval = WholeSeconds::new(Duration::from_secs(seconds)).unwrap();
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(100).unwrap(),
        version: Version::Two { interval, password: password.map(|it| Password::new(it).unwrap()) },
        preempt: Preempt::After(Duration::ZERO),
        local: OURS,
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![VIRTUAL]).unwrap(),
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn epoch() -> Instant {
    Instant::now()
}

#[test]
fn the_skew_is_a_part_of_one_second_whatever_the_interval() {
    // Section 6.1: (256 - 100) / 256 of a second.
    let skew = Duration::from_micros(609_375);
    for seconds in [1, 2, 255] {
        let (settings, epoch) = (settings(seconds, None), epoch());
        let down = Duration::from_secs(3 * seconds) + skew;
        let (backup, _) = step(&settings, State::Initialize, Event::Start, epoch);
        assert_eq!(backup.deadline(), Some(epoch + down), "{seconds} s");

        let interval = Duration::from_secs(seconds);
        let heard = |priority| Event::Advert { from: THEIRS, advert: Advert { priority, interval } };
        let now = epoch + Duration::from_millis(500);
        let (renewed, _) = step(&settings, backup, heard(Priority::new(200)), now);
        assert_eq!(renewed.deadline(), Some(now + down), "{seconds} s");
        let (left, _) = step(&settings, backup, heard(None), now);
        assert_eq!(left.deadline(), Some(now + skew), "{seconds} s");

        let (master, _) = step(&settings, backup, Event::Tick, epoch + down);
        assert_eq!(master.role(), Role::Master);
        let State::Master { advertise_at, .. } = master else { panic!("{master:?}") };
        assert_eq!(advertise_at, epoch + down + interval);
    }
}

/// What keepalived 2.2.7 sent from 172.16.60.242 with priority 200, `vrrp_version` 2, `advert_int` 1, router 51, address
/// 172.16.60.250.
const OPEN: [u8; 40] = [
    0x45, 0xc0, 0x00, 0x28, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xf1, 0x8f, 0xac, 0x10, 0x3c, 0xf2, 0xe0,
    0x00, 0x00, 0x12, 0x21, 0x33, 0xc8, 0x01, 0x00, 0x01, 0x2d, 0xbf, 0xac, 0x10, 0x3c, 0xfa, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];
/// The same with `auth_type PASS` and `auth_pass fairway`.
const LOCKED: [u8; 40] = [
    0x45, 0xc0, 0x00, 0x28, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xf1, 0x8f, 0xac, 0x10, 0x3c, 0xf2, 0xe0,
    0x00, 0x00, 0x12, 0x21, 0x33, 0xc8, 0x01, 0x01, 0x01, 0x6c, 0x89, 0xac, 0x10, 0x3c, 0xfa, 0x66, 0x61,
    0x69, 0x72, 0x77, 0x61, 0x79, 0x00,
];

#[test]
fn adverts_of_keepalived_are_understood_and_ours_are_those_that_it_would_send() {
    for (bytes, password) in [(OPEN, None), (LOCKED, Some("fairway"))] {
        let advert = Advert { priority: Priority::new(200), interval: Duration::from_secs(1) };
        let settings = settings(1, password);
        assert_eq!(decode(&settings, &bytes), Ok(Received { from: THEIRS, advert }));
        let theirs = Settings { local: THEIRS, ..settings };
        assert_eq!(encode(&theirs, advert.priority, GROUP_IPV4.into()), bytes[20..]);
    }
}

/// Makes the checksum right again.
fn sum(packet: &mut [u8]) {
    packet[26..28].fill(0);
    let words = packet[20..].chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let sum = words.fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    });
    packet[26..28].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn every_check_of_version_2_has_its_own_reason() {
    type Spoil = fn(&mut Vec<u8>);
    let none = settings(1, None);
    let password = settings(1, Some("fairway"));
    let damaged = Rejected::Checksum { right_as: None };
    let kind = |found, expected| Rejected::AuthenticationType { found, expected };
    let interval = |seconds| Rejected::Interval { found: Duration::from_secs(seconds) };
    let cases: [(&str, &Settings, [u8; 40], Spoil, Rejected); 13] = [
        ("version 3", &none, OPEN, |it| it[20] = 0x31, Rejected::Version { found: 3, expected: 2 }),
        ("type 2", &none, OPEN, |it| it[20] = 0x22, Rejected::Type { found: 2 }),
        ("damaged", &none, OPEN, |it| it[22] = 201, damaged),
        ("damaged behind the addresses", &none, OPEN, |it| it[39] = 1, damaged),
        ("another interval", &none, OPEN, |it| it[25] = 2, interval(2)),
        ("interval 0", &none, OPEN, |it| it[25] = 0, interval(0)),
        ("no room for a password", &none, OPEN, |it| it[3] = 32, Rejected::Length),
        ("half a password", &password, LOCKED, |it| it[3] = 36, Rejected::Length),
        ("another address", &none, OPEN, |it| it[31] = 251, Rejected::Addresses),
        ("a password where there is none", &none, LOCKED, |_| (), kind(1, 0)),
        ("none where there is one", &password, OPEN, |_| (), kind(0, 1)),
        ("an authentication header", &password, LOCKED, |it| it[24] = 2, kind(2, 1)),
        ("another password", &password, LOCKED, |it| it[39] = b's', Rejected::Password),
    ];
    for (what, settings, bytes, spoil, expected) in cases {
        let mut bytes = bytes.to_vec();
        spoil(&mut bytes);
        if expected != damaged {
            sum(&mut bytes);
        }
        assert_eq!(decode(settings, &bytes), Err(expected), "{what}");
    }
}

#[test]
fn without_authentication_the_bytes_for_it_mean_nothing() {
    // RFC 3768 section 5.3.10: ignored on receipt.
    let mut bytes = OPEN;
    bytes[32..].copy_from_slice(b"whatever");
    sum(&mut bytes);
    assert!(decode(&settings(1, None), &bytes).is_ok());
}

#[test]
fn the_versions_do_not_understand_each_other() {
    let two = settings(1, None);
    let interval = vrrp::AdvertInterval::ONE_SECOND;
    let version = Version::Three { interval, checksum: vrrp::Checksum::PseudoHeader };
    let three = Settings { version, ..two.clone() };
    assert_eq!(decode(&three, &OPEN), Err(Rejected::Version { found: 2, expected: 3 }));
    let theirs = Settings { local: THEIRS, ..three };
    let mut bytes = [&OPEN[..20], &encode(&theirs, Priority::new(200), GROUP_IPV4.into())].concat();
    bytes[3] = 32;
    assert_eq!(decode(&two, &bytes), Err(Rejected::Version { found: 3, expected: 2 }));
}
