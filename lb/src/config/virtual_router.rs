//! From the `virtualRouter` section, or the list `virtualRouters` of several, to [`RouterConfig`]s.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use daemon::document::Section;
use ipnet::IpNet;
use vrrp::{
    AdvertInterval, Audience, Checksum, Family, Password, Peers, Preempt, Priority, RouterId, Version,
    WholeSeconds,
};

use super::defaults;
use super::field::{duration, interface_name, noted};
use super::track::track;
use crate::router::{RouterAddresses, RouterConfig, is_link_local};

/// Enough for every node of a control plane, and few enough to send to each at every interval.
const MOST_PEERS: usize = 32;
/// Longer than any node takes to be ready. Who wants to wait for longer wants no preemption.
const PREEMPT_DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// A front door has one address, or a few for several networks and families. Each router has a thread.
const MOST_ROUTERS: usize = 16;

/// Either is given, or none.
pub(super) fn virtual_routers(root: &mut Section<'_>) -> Vec<RouterConfig> {
    if root.has("virtualRouter") && root.has("virtualRouters") {
        root.problem("virtualRouters", "cannot be given beside virtualRouter: list that one here, too");
    }
    let only = root.section("virtualRouter", virtual_router);
    let Some(list) = root.sections("virtualRouters", virtual_router) else {
        return only.flatten().into_iter().collect();
    };
    if !(1..=MOST_ROUTERS).contains(&list.len()) {
        let what = format!("must list 1 to {MOST_ROUTERS} virtual routers, found {}", list.len());
        root.problem("virtualRouters", what);
    }
    let mut valid: Vec<(usize, RouterConfig)> = Vec::new();
    for (position, router) in list.into_iter().enumerate() {
        let Some(router) = router else { continue };
        for (earlier, other) in &valid {
            refuse_twin(root, (position, &router), (*earlier, other));
        }
        valid.push((position, router));
    }
    valid.into_iter().map(|(_, router)| router).collect()
}

/// Two routers of one link are told apart by identifier and family, and a link-local address is another one on each link.
fn refuse_twin(
    root: &mut Section<'_>,
    (position, router): (usize, &RouterConfig),
    (earlier, other): (usize, &RouterConfig),
) {
    let earlier = format!("virtualRouters[{earlier}]");
    if router.instance() == other.instance() {
        let field = format!("virtualRouters[{position}].routerId");
        let what = format!("{} is already that of {earlier} on {}", router.router_id, router.interface);
        root.problem(&field, what);
    }
    let same_link = router.interface == other.interface;
    for address in router.addresses.networks().iter().map(IpNet::addr) {
        let shared = other.addresses.networks().iter().any(|network| network.addr() == address);
        if shared && (same_link || !is_link_local(address)) {
            let field = format!("virtualRouters[{position}].addresses");
            root.problem(&field, format!("{address} is already one of {earlier}"));
        }
    }
}

fn virtual_router(section: &mut Section<'_>) -> Option<RouterConfig> {
    let interface = interface_name(section, "interface");
    let router_id = section.number::<u8>("routerId", 1..=255);
    let router_id = section.require("routerId", router_id).and_then(RouterId::new);
    let priority = section.number::<u8>("priority", 1..=255).unwrap_or(defaults::PRIORITY);
    let version = version(section);
    let preempt = preempt(section);
    let audience = audience(section);
    let track = section.section("track", |section| track(section, priority)).unwrap_or_default();
    let addresses =
        section.parsed_list("addresses", "an IP address and prefix length such as 172.16.60.250/32");
    let addresses = section.require("addresses", addresses).and_then(|list| virtual_addresses(section, list));
    if let Some(addresses) = &addresses {
        if let Some(Audience::Peers(peers)) = &audience {
            refuse_unfit_peers(section, peers, addresses);
        }
        if addresses.family() == Family::Ipv6
            && let Some(version) = version
        {
            refuse_unfit_version(section, version);
        }
    }
    Some(RouterConfig {
        interface: interface?,
        router_id: router_id?,
        priority: Priority::new(priority)?,
        version: version?,
        preempt,
        audience: audience?,
        track,
        addresses: addresses?,
    })
}

/// What is only of one version is refused beside the other: whoever writes it expects something of it.
fn version(section: &mut Section<'_>) -> Option<Version> {
    let number = section.number::<u8>("version", 2..=3).unwrap_or(defaults::VERSION);
    let interval = section.duration("advertInterval");
    let checksums = [("pseudo-header", Checksum::PseudoHeader), ("plain", Checksum::Plain)];
    let checksum = section.choice("checksum", &checksums);
    let password = section.section("authentication", password);
    if number == 2 {
        if checksum.is_some() {
            section.problem("checksum", "has no effect in version 2, which has one form only");
        }
        let interval = interval.unwrap_or(defaults::ADVERT_INTERVAL_VERSION_2);
        let what = format!("must be from 1s to 255s in whole seconds in version 2, found {interval:?}");
        let interval = noted(section, "advertInterval", WholeSeconds::new(interval), what);
        return Some(Version::Two { interval: interval?, password: password.flatten() });
    }
    if password.is_some() {
        section.problem("authentication", "is not known to version 3: passwords are of version 2");
    }
    let interval = interval.unwrap_or(defaults::ADVERT_INTERVAL);
    let what = format!("must be from 10ms to 40.95s in steps of 10ms, found {interval:?}");
    let interval = noted(section, "advertInterval", AdvertInterval::new(interval), what);
    Some(Version::Three { interval: interval?, checksum: checksum.unwrap_or_default() })
}

/// What is wrong with a password is said without showing it.
fn password(section: &mut Section<'_>) -> Option<Password> {
    let given = section.value("password");
    let given = section.require("password", given)?;
    let Some(text) = given.as_str() else {
        section.problem("password", "must be text: write one of digits in quotes");
        return None;
    };
    let what = "must be 1 to 8 bytes, none of them 0".to_owned();
    noted(section, "password", Password::new(text), what)
}

fn preempt(section: &mut Section<'_>) -> Preempt {
    let preempt = section.flag("preempt").unwrap_or(false);
    let delay = duration(section, "preemptDelay", PREEMPT_DELAYS, Duration::ZERO);
    if preempt {
        return Preempt::After(delay);
    }
    if !delay.is_zero() {
        section.problem("preemptDelay", "has no effect without preempt: true");
    }
    Preempt::Never
}

/// An empty list is refused: who writes `peers` does not mean multicast.
fn audience(section: &mut Section<'_>) -> Option<Audience> {
    let Some(list) = section.parsed_list::<IpAddr>("peers", "an IP address such as 172.16.60.242") else {
        return Some(Audience::Group);
    };
    if !(1..=MOST_PEERS).contains(&list.len()) {
        let what = format!("must list 1 to {MOST_PEERS} peers, found {}", list.len());
        section.problem("peers", what);
    }
    let mut peers = BTreeSet::new();
    for (position, address) in list.into_iter().enumerate() {
        let field = format!("peers[{position}]");
        if !peers.insert(address) {
            section.problem(&field, format!("{address} is listed twice"));
        }
        if !is_of_one_host(address) {
            section.problem(&field, format!("{address} cannot be the address of a peer"));
        }
    }
    Peers::new(peers).map(Audience::Peers)
}

/// What each peer may be alone, and not beside these addresses or other peers.
fn refuse_unfit_peers(section: &mut Section<'_>, peers: &Peers, addresses: &RouterAddresses) {
    for address in addresses.networks().iter().map(IpNet::addr).filter(|&address| peers.contains(address)) {
        section.problem("peers", format!("{address} is a virtual address: it moves, a peer does not"));
    }
    let family = addresses.family();
    for address in peers.iter().filter(|&peer| Family::of(peer) != family) {
        section.problem("peers", format!("{address} is not an {} address, as `addresses` are", name(family)));
    }
    let link_local = peers.iter().filter(|&peer| is_link_local(peer)).count();
    if family == Family::Ipv6 && link_local > 0 && link_local < peers.iter().count() {
        section.problem("peers", "must all be link-local addresses, or none: adverts come from one address");
    }
}

fn refuse_unfit_version(section: &mut Section<'_>, version: Version) {
    match version {
        Version::Two { .. } => section.problem("version", "must be 3 for IPv6 addresses: 2 knows IPv4 only"),
        Version::Three { checksum: Checksum::Plain, .. } => {
            section.problem("checksum", "must be pseudo-header for IPv6 addresses, which have no other form");
        }
        Version::Three { checksum: Checksum::PseudoHeader, .. } => {}
    }
}

fn is_of_one_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast || mapped)
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// A virtual router has one family, and of IPv6 addresses a link-local one comes first (RFC 9568 §5.2.9).
fn virtual_addresses(section: &mut Section<'_>, list: Vec<IpNet>) -> Option<RouterAddresses> {
    let mut seen = BTreeSet::new();
    let first = list.first().map(IpNet::addr);
    for (position, network) in list.iter().enumerate() {
        let (field, address) = (format!("addresses[{position}]"), network.addr());
        if !seen.insert(address) {
            section.problem(&field, format!("{address} is listed twice"));
        }
        if !is_of_one_host(address) {
            section.problem(&field, format!("{address} cannot be a virtual address"));
        }
        if let Some(first) = first.filter(|&first| Family::of(first) != Family::of(address)) {
            let family = name(Family::of(first));
            let what =
                format!("{address} is not an {family} address, as the first one is: it takes another router");
            section.problem(&field, what);
        } else if is_link_local(address) && !first.is_some_and(is_link_local) {
            section.problem(&field, format!("{address} must come first, as a link-local address"));
        }
    }
    if !(1..=255).contains(&list.len()) {
        section.problem("addresses", format!("must list 1 to 255 addresses, found {}", list.len()));
    }
    RouterAddresses::new(list)
}
