//! A virtual router of IPv6. Adverts come from the link-local address that the kernel makes up for the interface, which
//! takes it a second or two.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use lb::router::{Router, RouterAddresses, RouterConfig, RouterMetrics};
use prometheus::Registry;
use vrrp::{Audience, Peers, Role};

use crate::lab::{INTERFACE, Keepalived, Lab, await_that, holds_throughout};
use crate::{INTERVAL, config as ipv4, start};

const LINK_LOCAL: &str = "fe80::250";
const GLOBAL: &str = "fd00::250";
/// As keepalived is told of them.
const ADDRESSES: &str = "virtual_ipaddress {\n fe80::250/64\n fd00::250/128\n }";

fn config(priority: u8, preempt: bool) -> RouterConfig {
    let networks = [format!("{LINK_LOCAL}/64"), format!("{GLOBAL}/128")];
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    RouterConfig { addresses: RouterAddresses::new(networks).unwrap(), ..ipv4(priority, preempt) }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A lab whose hosts have addresses beyond the link, too.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.ours.ip(&["address", "add", "fd00::241/64", "dev", INTERFACE, "nodad"]);
    lab.other.ip(&["address", "add", "fd00::242/64", "dev", INTERFACE, "nodad"]);
    lab
}

/// Whether we are master and have the address that is put on last.
fn is_master(lab: &Lab, router: &Router) -> bool {
    router.role() == Role::Master && lab.ours.holds(address(GLOBAL))
}

/// What the kernel says of our addresses, one in a line.
fn addresses(lab: &Lab) -> String {
    lab.ours.ip(&["-6", "-oneline", "address", "show", "dev", INTERFACE])
}

/// Whether a packet for `address` that the other host sends comes to us.
fn is_reached(lab: &Lab) -> bool {
    let server = lab.ours.run(|| UdpSocket::bind((address(GLOBAL), 7)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    lab.other.run(|| UdpSocket::bind("[::]:0").unwrap().send_to(b"here", (address(GLOBAL), 7)).unwrap());
    server.recv(&mut [0; 8]).is_ok()
}

#[test]
fn its_addresses_are_usable_at_once_and_the_link_learns_where_they_are() {
    let lab = lab();
    let elsewhere = ["-6", "neighbour", "replace", GLOBAL, "lladdr", "02:00:00:00:00:99", "dev", INTERFACE];
    lab.other.ip(&[&elsewhere[..], &["nud", "reachable"]].concat());
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || is_master(&lab, &router));
    await_that("the other host reaches us", || is_reached(&lab));
    let found = addresses(&lab);
    for held in [GLOBAL, LINK_LOCAL] {
        let line = found.lines().find(|line| line.contains(&format!(" {held}/"))).unwrap();
        assert!(!line.contains("tentative") && line.contains("deprecated"), "{line}");
    }
    // The node's own connections do not come from what moves.
    let probe = lab.ours.run(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.connect(("fd00::242", 7)).unwrap();
        socket.local_addr().unwrap()
    });
    assert_eq!(probe.ip(), address("fd00::241"));
    let local = router.status().local.unwrap();
    assert!(found.contains(&format!(" {local}/64 scope link")) && local != address(LINK_LOCAL), "{local}");
    router.stop();
    assert!(!addresses(&lab).contains("::250"), "{}", addresses(&lab));
}

#[test]
fn it_waits_for_a_link_local_address_and_gives_up_with_it() {
    let lab = lab();
    lab.ours.ip(&["-6", "address", "flush", "dev", INTERFACE, "scope", "link"]);
    // What a killed predecessor may have left, and is no address of our own.
    lab.ours.ip(&["address", "add", &format!("{LINK_LOCAL}/64"), "dev", INTERFACE, "nodad"]);
    let router = start(&lab, config(100, false)).unwrap();
    assert!(!addresses(&lab).contains(LINK_LOCAL), "{}", addresses(&lab));
    assert!(holds_throughout(5 * INTERVAL, || router.role() == Role::Initialize));
    let own = ["fe80::241/64", "dev", INTERFACE];
    for _ in 0..2 {
        lab.ours.ip(&[&["address", "add"], &own[..], &["nodad"]].concat());
        await_that("we are master", || is_master(&lab, &router));
        assert_eq!(router.status().local, Some(address("fe80::241")));
        lab.ours.ip(&[&["address", "delete"], &own[..]].concat());
        await_that("we gave up", || router.role() == Role::Initialize && !lab.ours.holds(address(GLOBAL)));
    }
    assert!(router.is_running());
}

#[test]
fn a_stale_address_is_taken_off_whatever_its_length() {
    let lab = lab();
    for length in ["64", "128"] {
        lab.ours.ip(&["address", "add", &format!("{GLOBAL}/{length}"), "dev", INTERFACE, "nodad"]);
        assert!(lab.ours.holds(address(GLOBAL)));
        let router = start(&lab, config(100, false)).unwrap();
        assert!(!lab.ours.holds(address(GLOBAL)), "/{length}");
        await_that("we are master", || is_master(&lab, &router));
        assert!(addresses(&lab).contains(&format!("{GLOBAL}/128")));
        router.stop();
    }
}

#[test]
fn an_address_that_somebody_removes_comes_back() {
    let lab = lab();
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || is_master(&lab, &router));
    lab.ours.ip(&["address", "delete", &format!("{GLOBAL}/128"), "dev", INTERFACE]);
    await_that("the address is back", || lab.ours.holds(address(GLOBAL)));
    router.stop();
    assert!(!lab.ours.holds(address(GLOBAL)));
}

#[test]
fn it_gives_up_with_the_link_and_comes_back_with_it() {
    let lab = lab();
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || is_master(&lab, &router));
    lab.other.ip(&["link", "set", INTERFACE, "down"]);
    await_that("we gave up", || router.role() == Role::Initialize && !lab.ours.holds(address(GLOBAL)));
    lab.other.ip(&["link", "set", INTERFACE, "up"]);
    await_that("we are master again", || is_master(&lab, &router));
    // The kernel forgets every address of IPv6.
    lab.ours.ip(&["link", "set", INTERFACE, "down"]);
    await_that("we gave up", || router.role() == Role::Initialize);
    lab.ours.ip(&["link", "set", INTERFACE, "up"]);
    await_that("we are master again", || is_master(&lab, &router));
}

#[test]
fn keepalived_and_we_agree_whoever_is_stronger() {
    let unicast = |own: &str, peer: &str| {
        let peers = BTreeSet::from([address("fd00::241"), address("fd00::242")]);
        // Without it keepalived 2.2.7 sends what looks forwarded: hop limit 64.
        let theirs =
            format!("unicast_ttl 255\n unicast_src_ip {own}\n unicast_peer {{\n {peer}\n }}\n {ADDRESSES}");
        (Audience::Peers(Peers::new(peers).unwrap()), theirs)
    };
    let multicast = (Audience::Group, ADDRESSES.to_owned());
    for (audience, theirs) in [multicast, unicast("fd00::242", "fd00::241")] {
        for we_are_stronger in [true, false] {
            let lab = lab();
            let case = format!("{audience:?}, we are stronger: {we_are_stronger}");
            let (ours, others) = if we_are_stronger { (200, 100) } else { (100, 200) };
            // It does not wait for its link-local address as we do.
            let tentative = ["-6", "address", "show", "dev", INTERFACE, "tentative"];
            await_that("the other host has all its addresses", || lab.other.ip(&tentative).is_empty());
            let keepalived = Keepalived::start_with(&lab, others, &theirs);
            await_that(&format!("keepalived is master alone: {case}"), || lab.other.holds(address(GLOBAL)));
            let audience = audience.clone();
            let router = start(&lab, RouterConfig { audience, ..config(ours, true) }).unwrap();
            let (holder, idle) =
                if we_are_stronger { (&lab.ours, &lab.other) } else { (&lab.other, &lab.ours) };
            let settled = || holder.holds(address(GLOBAL)) && !idle.holds(address(GLOBAL));
            await_that(&format!("we hear each other: {case}"), || {
                !router.status().peers.is_empty() && settled()
            });
            assert!(holds_throughout(10 * INTERVAL, settled), "{case}");
            if we_are_stronger {
                router.stop();
                await_that(&format!("keepalived takes over: {case}"), || lab.other.holds(address(GLOBAL)));
            } else {
                drop(keepalived);
                await_that(&format!("we take over: {case}"), || is_master(&lab, &router));
            }
        }
    }
}

#[test]
fn routers_of_both_families_share_identifier_and_interface() {
    let lab = lab();
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    let routers: Vec<Router> = [ipv4(100, false), config(100, false)]
        .into_iter()
        .map(|config| lab.ours.run(|| Router::start(config, &metrics)).unwrap())
        .collect();
    // The role is told once the addresses are there.
    let both = || lab.ours.holds_virtual_address() && lab.ours.holds(address(GLOBAL));
    await_that("we are master of both", || {
        both() && routers.iter().all(|router| router.role() == Role::Master)
    });
    Router::leave_all(routers);
    assert!(!lab.ours.holds_virtual_address() && !lab.ours.holds(address(GLOBAL)));
}
