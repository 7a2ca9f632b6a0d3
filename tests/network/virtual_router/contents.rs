//! What is on the wire, read by something that shares no line with what wrote it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tests::capture::{Capture, Content, Frame, Mac};
use tests::topology::{Family, Host, INTERFACE, VIRTUAL_ADDRESS, VIRTUAL_LINK_LOCAL};
use tests::{Error, Result};

use crate::site::{LIMIT, Plan, Site, until};

/// Where adverts go (RFC 9568 §5.1.1.2, §5.1.2.2), as an address and, by RFC 1112 §6.4 and RFC 2464 §7, in ethernet.
const fn group(family: Family) -> (IpAddr, Mac) {
    match family {
        Family::Ipv4 => (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)), [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12]),
        Family::Ipv6 => {
            (IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)), [0x33, 0x33, 0x00, 0x00, 0x00, 0x12])
        }
    }
}

const BROADCAST: Mac = [0xff; 6];
/// All nodes of the link, as an address and in ethernet.
const ALL_NODES: (Ipv6Addr, Mac) =
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), [0x33, 0x33, 0x00, 0x00, 0x00, 0x01]);

/// Whether `frame` is an advert of `host`, and of which priority.
pub(super) fn advert_of(host: &Host, frame: &Frame) -> Option<u8> {
    let own = [IpAddr::V4(host.address()), IpAddr::V6(host.link_local())];
    match &frame.content {
        Content::Advert { from, priority, .. } if own.contains(from) => Some(*priority),
        Content::Advert { .. } | Content::Arp { .. } | Content::Neighbour { .. } => None,
    }
}

/// Whether `frame` says that a virtual address is at `mac`, to an asker or to all.
fn claims(mac: Mac, frame: &Frame) -> bool {
    match &frame.content {
        Content::Arp { sender, sender_mac, .. } => *sender == VIRTUAL_ADDRESS && *sender_mac == mac,
        Content::Neighbour { target, target_mac, .. } => {
            IpAddr::V6(*target) == Family::Ipv6.virtual_address() && *target_mac == mac
        }
        Content::Advert { .. } => false,
    }
}

/// Whether `frame` says that to all, unasked.
pub(super) fn announces(mac: Mac, frame: &Frame) -> bool {
    let to_all = match &frame.content {
        Content::Arp { target, .. } => *target == VIRTUAL_ADDRESS && frame.destination == BROADCAST,
        Content::Neighbour { from, to, solicited, replaces, target, .. } => {
            (*to, frame.destination) == ALL_NODES && from == target && *replaces && !solicited
        }
        Content::Advert { .. } => false,
    };
    claims(mac, frame) && to_all
}

/// The hardware address of `host`.
pub(super) fn mac(host: &Host) -> Result<Mac> {
    let text = host.hardware_address()?;
    let octets: Vec<u8> = text.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.try_into().map_err(|_octets| Error::Object { reason: format!("no hardware address: {text}") })
}

#[test]
fn adverts_say_who_we_are_and_announcements_where_the_address_is() -> Result<()> {
    for family in Family::BOTH {
        let site = Site::of(family, 1)?;
        let (host, mac) = (site.master(0), mac(site.master(0))?);
        let capture = Capture::on_interface(site.client(), INTERFACE)?;
        let _front_door = site.front_door(0, &Plan::new(100))?;
        // The last announcement of the series is made a second after the first.
        let announcements = || capture.frames().iter().filter(|frame| claims(mac, frame)).count();
        let (each, kinds) = match family {
            Family::Ipv4 => (2, "request and reply"),
            Family::Ipv6 => (1, "advertisement"),
        };
        until(&format!("the address was announced four times, as {kinds}"), || {
            Ok(announcements() >= 4 * each)
        })?;
        until("there were some adverts", || {
            Ok(capture.frames().iter().filter(|frame| advert_of(host, frame).is_some()).count() > 5)
        })?;
        let frames = capture.frames();
        let expected = advert(family, host);
        for frame in frames.iter().filter(|frame| advert_of(host, frame).is_some()) {
            assert_eq!((frame.source, frame.destination, &frame.content), (mac, group(family).1, &expected));
        }
        let claims_made: Vec<&Frame> = frames.iter().filter(|frame| claims(mac, frame)).collect();
        let wrong = claims_made.iter().find(|frame| frame.source != mac || !announces(mac, frame));
        assert_eq!(wrong, None);
        let of = |kind| {
            let is = |frame: &&&Frame| matches!(frame.content, Content::Arp { operation, .. } if operation == kind);
            claims_made.iter().filter(is).count()
        };
        if family == Family::Ipv4 {
            let count = claims_made.len();
            assert_eq!((of(1), of(2)), (count.div_ceil(2), count / 2), "request and reply, each time");
        }
        let first = |is_it: &dyn Fn(&Frame) -> bool| frames.iter().position(is_it).expect("seen above");
        assert!(
            first(&|frame| advert_of(host, frame).is_some()) < first(&|frame| claims(mac, frame)),
            "rivals are told before clients are: {frames:?}"
        );
    }
    Ok(())
}

/// What the only front door of a site says all the time.
fn advert(family: Family, host: &Host) -> Content {
    let (from, addresses) = match family {
        Family::Ipv4 => (host.address().into(), vec![VIRTUAL_ADDRESS.into()]),
        Family::Ipv6 => (host.link_local().into(), vec![VIRTUAL_LINK_LOCAL.into(), family.virtual_address()]),
    };
    let (to, interval) = (group(family).0, Duration::from_millis(200));
    Content::Advert { from, to, ttl: 255, router: 51, priority: 100, interval, addresses }
}

#[test]
fn a_graceful_stop_hands_the_address_over() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(hand_over)
}

fn hand_over(family: Family) -> Result<()> {
    let mut whole = Site::whole_of(family, 2, Plan::new)?;
    let site = &whole.site;
    let (leaver, successor) = (site.master(0), site.master(1));
    let (leavers_mac, successors_mac) = (mac(leaver)?, mac(successor)?);
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    capture.wait_for("the master speaks", LIMIT, |frame| advert_of(leaver, frame) == Some(250))?;

    let status = whole.front_doors[0].process.terminate(LIMIT)?;
    assert_eq!(status.code(), Some(0));
    assert!(!leaver.holds(family.virtual_address())?, "who has ended has taken the address off");
    until("the successor alone holds the address", || Ok(site.holders()? == [1]))?;
    capture.wait_for("the successor announces itself", LIMIT, |frame| claims(successors_mac, frame))?;
    assert_eq!(site.dial_times(10)?.failed, 0);

    let frames = capture.frames();
    let farewell = frames.iter().position(|frame| advert_of(leaver, frame) == Some(0));
    let Some(farewell) = farewell else { panic!("no farewell in {frames:?}") };
    let (before, after) = frames.split_at(farewell);
    assert!(before.iter().all(|frame| advert_of(successor, frame).is_none()), "nobody else spoke before");
    let after = &after[1..];
    let is_leavers = |frame: &&Frame| advert_of(leaver, frame).is_some() || claims(leavers_mac, frame);
    assert_eq!(after.iter().find(is_leavers), None, "the farewell is the last word");
    let advert = after.iter().position(|frame| advert_of(successor, frame) == Some(200));
    let announcement = after.iter().position(|frame| claims(successors_mac, frame));
    assert!(advert.is_some() && advert < announcement, "{after:?}");
    Ok(())
}
