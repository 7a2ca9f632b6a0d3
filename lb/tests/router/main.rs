//! The virtual router on a real link, and beside a real keepalived. Needs root, `ip` and keepalived.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod ipv6;
mod lab;
mod rival;
mod tracking;

use std::net::IpAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lb::router::{Beginning, Router, RouterAddresses, RouterConfig, RouterError, RouterMetrics, Track};
use prometheus::Registry;
use vrrp::{
    AdvertInterval, Audience, Checksum, Preempt, Priority, Role, RouterId, Settings, Version,
    VirtualAddresses,
};

use crate::lab::{
    INTERFACE, Keepalived, Lab, OTHER, OURS, VIRTUAL, await_that, hear, holds_throughout,
    holds_virtual_address,
};

const INTERVAL: Duration = Duration::from_millis(100);

fn version() -> Version {
    Version::Three { interval: AdvertInterval::new(INTERVAL).unwrap(), checksum: Checksum::PseudoHeader }
}

fn config(priority: u8, preempt: bool) -> RouterConfig {
    RouterConfig {
        interface: INTERFACE.to_owned(),
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(priority).unwrap(),
        version: version(),
        preempt: if preempt { Preempt::After(Duration::ZERO) } else { Preempt::Never },
        audience: Audience::Group,
        addresses: RouterAddresses::new(vec![format!("{VIRTUAL}/32").parse().unwrap()]).unwrap(),
        track: Track::default(),
    }
}

fn start(lab: &Lab, config: RouterConfig) -> Result<Router, RouterError> {
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    lab.ours.run(|| Router::start(config, &metrics))
}

/// The same virtual router as seen by the other host.
fn others_settings() -> Settings {
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(1).unwrap(),
        version: version(),
        preempt: Preempt::Never,
        local: OTHER,
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![VIRTUAL]).unwrap(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test on a real link")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn alone_it_becomes_master_after_the_down_time_and_the_link_learns_where_the_address_is() {
    let lab = Lab::new();
    let stale = ["neighbour", "replace", "172.16.60.250", "lladdr", "02:00:00:00:00:99", "dev", INTERFACE];
    lab.other.ip(&[&stale[..], &["nud", "reachable"]].concat());
    let listener = lab.listener();
    let begun = now();
    let router = start(&lab, config(100, false)).unwrap();
    assert_eq!(router.role(), Role::Backup);

    let packet = hear(&listener, Duration::from_secs(5)).expect("an advert");
    // 3 intervals and a skew of 156/256 of one.
    assert!(begun.elapsed() >= Duration::from_micros(360_937), "{:?}", begun.elapsed());
    let received = vrrp::decode(&others_settings(), &packet).unwrap();
    assert_eq!(received.from, OURS);
    assert_eq!(received.advert.priority, Priority::new(100));
    assert_eq!((packet[1], packet[8]), (0xc0, 255), "type of service and time to live");

    await_that("we are master and hold the address", || {
        router.role() == Role::Master && lab.ours.holds_virtual_address()
    });
    let link = lab.ours.ip(&["-brief", "link", "show", INTERFACE]);
    let mac = link.split_whitespace().nth(2).unwrap();
    await_that("the other host has our hardware address", || {
        lab.other.ip(&["neighbour", "show", "172.16.60.250"]).contains(mac)
    });
    router.stop();
    assert!(!lab.ours.holds_virtual_address());
}

#[test]
fn without_preemption_a_weaker_keepalived_stays_master() {
    let lab = Lab::new();
    let _keepalived = Keepalived::start(&lab, 100);
    await_that("keepalived is master", || lab.other.holds_virtual_address());
    let router = start(&lab, config(200, false)).unwrap();
    let serves = || router.role() == Role::Backup && lab.other.holds_virtual_address();
    assert!(holds_throughout(Duration::from_secs(2), serves), "we are {}", router.role());
}

#[test]
fn the_address_is_off_before_the_farewell_is_on_the_wire() {
    let lab = Lab::new();
    let listener = lab.listener();
    // Many addresses, the tested one last: were the farewell sent first, it would be there for a while yet.
    let mut networks: Vec<_> = (1..=200).map(|host| format!("10.9.9.{host}/32").parse().unwrap()).collect();
    networks.push(format!("{VIRTUAL}/32").parse().unwrap());
    let addresses = networks.iter().map(ipnet::IpNet::addr).collect();
    let settings = Settings { addresses: VirtualAddresses::new(addresses).unwrap(), ..others_settings() };
    let router = start(
        &lab,
        RouterConfig { addresses: RouterAddresses::new(networks).unwrap(), ..config(100, false) },
    )
    .unwrap();
    await_that("we hold the address", || lab.ours.holds_virtual_address());
    await_that("all is announced", || router.role() == Role::Master);

    let (ready, in_place) = mpsc::channel();
    let held_at_farewell = std::thread::scope(|scope| {
        // It stands in our host before the end begins: between the farewell and its look lies one system call.
        let (lab, listener, settings) = (&lab, &listener, &settings);
        let witness = scope.spawn(move || {
            lab.ours.run(move || {
                let hear_advert = || {
                    let packet = hear(listener, Duration::from_secs(5)).expect("an advert");
                    vrrp::decode(settings, &packet).unwrap().advert
                };
                assert!(hear_advert().priority.is_some());
                ready.send(()).unwrap();
                while hear_advert().priority.is_some() {}
                holds_virtual_address()
            })
        });
        in_place.recv().expect("a witness that has heard an advert");
        router.stop();
        witness.join().unwrap()
    });
    assert!(!held_at_farewell);
}

#[test]
fn a_stale_address_is_taken_off_at_the_start() {
    let lab = Lab::new();
    lab.ours.ip(&["address", "add", "172.16.60.250/24", "dev", INTERFACE]);
    assert!(lab.ours.holds_virtual_address());
    let router = start(&lab, config(100, false)).unwrap();
    assert!(!lab.ours.holds_virtual_address());
    await_that("we take over", || router.role() == Role::Master);
    assert!(lab.ours.ip(&["address", "show", INTERFACE]).contains("172.16.60.250/32"));
}

#[test]
fn it_gives_up_with_the_link_and_comes_back_with_it() {
    let lab = Lab::new();
    let router = start(&lab, config(100, false)).unwrap();
    let masters = || router.role() == Role::Master && lab.ours.holds_virtual_address();
    await_that("we are master", masters);
    // The other end of the cable: our interface stays up and loses its carrier.
    lab.other.ip(&["link", "set", INTERFACE, "down"]);
    await_that("we gave up", || router.role() == Role::Initialize && !lab.ours.holds_virtual_address());
    lab.other.ip(&["link", "set", INTERFACE, "up"]);
    await_that("we are master again", masters);
    for _ in 0..10 {
        lab.ours.ip(&["link", "set", INTERFACE, "down"]);
        lab.ours.ip(&["link", "set", INTERFACE, "up"]);
    }
    await_that("we are master after all that", masters);
    lab.ours.ip(&["link", "delete", INTERFACE]);
    await_that("we gave up", || router.role() == Role::Initialize);
    assert!(router.is_running());
}

#[test]
fn other_settings_are_taken_over_without_leaving_the_role() {
    let lab = Lab::new();
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || router.role() == Role::Master && lab.ours.holds_virtual_address());
    let before = router.status();
    let listener = lab.listener();
    let interval = Duration::from_millis(200);
    let version =
        Version::Three { interval: AdvertInterval::new(interval).unwrap(), checksum: Checksum::PseudoHeader };
    router.change(RouterConfig { version, ..config(150, false) });
    let settings = Settings { version, ..others_settings() };
    await_that("the others hear it", || {
        let packet = hear(&listener, Duration::from_secs(5)).expect("an advert");
        let advert = vrrp::decode(&settings, &packet).unwrap().advert;
        (advert.priority, advert.interval) == (Priority::new(150), interval)
    });
    let after = router.status();
    assert_eq!((after.role, after.since), (Role::Master, before.since));
    assert_eq!((before.priority.number(), after.priority.number()), (100, 150));
    assert!(lab.ours.holds_virtual_address());
}

#[test]
fn a_successor_takes_the_place_of_a_master_without_the_link_noticing() {
    let lab = Lab::new();
    let first = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || first.role() == Role::Master && lab.ours.holds_virtual_address());
    let listener = lab.listener();
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    let prepared = lab.ours.run(|| Router::prepare(config(100, false), &metrics)).unwrap();
    assert!(lab.ours.holds_virtual_address(), "to prepare changes nothing");
    let role = first.hand_over();
    assert_eq!(role, Role::Master);
    assert!(lab.ours.holds_virtual_address(), "nobody takes it off");
    let second = lab.ours.run(|| prepared.start(Beginning::AsMaster)).unwrap();
    assert_eq!(second.role(), Role::Master);
    // What was sent meanwhile, and what the second one sends.
    for _ in 0..5 {
        let packet = hear(&listener, 3 * INTERVAL).expect("an advert before a backup takes over");
        let advert = vrrp::decode(&others_settings(), &packet).unwrap().advert;
        assert_eq!(advert.priority, Priority::new(100), "no farewell");
    }
    assert!(lab.ours.holds_virtual_address());
    second.stop();
    assert!(!lab.ours.holds_virtual_address());
}

#[test]
fn it_tells_whom_it_hears_and_why_it_is_what_it_is() {
    let lab = Lab::new();
    let _keepalived = Keepalived::start(&lab, 100);
    await_that("keepalived is master", || lab.other.holds_virtual_address());
    let router = start(&lab, config(200, true)).unwrap();
    await_that("we hear keepalived", || router.status().peers.contains_key(&OTHER));
    assert_eq!(router.status().peers[&OTHER].priority, Priority::new(100));
    await_that("we are master", || router.role() == Role::Master);
    let status = router.status();
    assert_eq!((status.local, status.priority.number()), (Some(OURS), 200));
    assert_eq!(status.reason, "no advert from a master in time");
}

#[test]
fn it_says_what_is_wrong_with_the_interface_and_with_its_privileges() {
    let lab = Lab::new();
    let with_interface = |name: &str| RouterConfig { interface: name.to_owned(), ..config(100, false) };
    let message = |config| start(&lab, config).expect_err("must not start").to_string();
    assert_eq!(message(with_interface("eth9")), "there is no interface eth9");
    assert_eq!(message(with_interface("lo")), "lo is not an ethernet interface");
    lab.ours.ip(&["address", "delete", "172.16.60.241/24", "dev", INTERFACE]);
    assert_eq!(message(config(100, false)), "eth0 has no IPv4 address besides the virtual ones");
}

#[test]
fn an_address_that_somebody_removes_from_the_master_comes_back() {
    let lab = Lab::new();
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || router.role() == Role::Master && lab.ours.holds_virtual_address());
    lab.ours.ip(&["address", "delete", "172.16.60.250/32", "dev", INTERFACE]);
    await_that("the address is back", || lab.ours.holds_virtual_address());
}

#[test]
fn adverts_never_come_from_a_virtual_address() {
    let lab = Lab::new();
    // The kernel chooses no address of this scope by itself: it prefers the virtual one.
    lab.ours.ip(&["address", "delete", "172.16.60.241/24", "dev", INTERFACE]);
    lab.ours.ip(&["address", "add", "172.16.60.241/24", "dev", INTERFACE, "scope", "host"]);
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || router.role() == Role::Master && lab.ours.holds_virtual_address());
    let listener = lab.listener();
    for _ in 0..3 {
        let packet = hear(&listener, Duration::from_secs(5)).expect("an advert");
        assert_eq!(vrrp::decode(&others_settings(), &packet).unwrap().from, OURS);
    }
}

#[test]
fn it_gives_up_with_its_own_address_and_comes_back_with_another() {
    let lab = Lab::new();
    let router = start(&lab, config(100, false)).unwrap();
    let masters = || router.role() == Role::Master && lab.ours.holds_virtual_address();
    await_that("we are master", masters);
    // The link stays up.
    lab.ours.ip(&["address", "delete", "172.16.60.241/24", "dev", INTERFACE]);
    await_that("we gave up", || router.role() == Role::Initialize && !lab.ours.holds_virtual_address());
    assert!(router.is_running());
    let listener = lab.listener();
    lab.ours.ip(&["address", "add", "172.16.60.244/24", "dev", INTERFACE]);
    await_that("we are master again", masters);
    let packet = hear(&listener, Duration::from_secs(5)).expect("an advert");
    let from = vrrp::decode(&others_settings(), &packet).unwrap().from;
    assert_eq!(from, IpAddr::from([172, 16, 60, 244]));
    // One more changes nothing.
    for change in ["add", "delete"] {
        lab.ours.ip(&["address", change, "172.16.60.245/24", "dev", INTERFACE]);
        assert!(holds_throughout(INTERVAL, masters), "{change}");
    }
}

#[test]
fn it_names_the_capability_that_is_missing() {
    let lab = Lab::new();
    for (capability, dropped) in [("CAP_NET_RAW", "-net_raw"), ("CAP_NET_ADMIN", "-net_admin")] {
        let this = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new("setpriv");
        child.args(["--bounding-set", dropped]).arg(this).env("LACKS", capability);
        child.args(["--exact", "without_a_capability_it_does_not_start", "--ignored", "--nocapture"]);
        let output = lab.ours.run(|| child.output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "without {capability}: {text}");
    }
}

#[test]
#[ignore = "it_names_the_capability_that_is_missing runs it, in a process that lacks one"]
fn without_a_capability_it_does_not_start() {
    let capability = std::env::var("LACKS").unwrap();
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    match Router::start(config(100, false), &metrics) {
        Err(RouterError::Permission { capability: missing, .. }) => assert_eq!(missing, capability),
        outcome => panic!("{outcome:?}"),
    }
}
