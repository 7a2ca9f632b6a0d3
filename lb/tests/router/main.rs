//! The virtual router on a real link, and beside a real keepalived. Needs root, `ip` and keepalived.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lb::router::{Router, RouterAddresses, RouterConfig, RouterError, RouterMetrics};
use prometheus::Registry;
use vrrp::{Advert, AdvertInterval, Checksum, Preempt, Priority, Role, RouterId, Settings, VirtualAddresses};

use crate::lab::{
    INTERFACE, Keepalived, Lab, OTHER, OURS, VIRTUAL, await_that, hear, holds_throughout,
    holds_virtual_address,
};

const INTERVAL: Duration = Duration::from_millis(100);

fn config(priority: u8, preempt: bool) -> RouterConfig {
    RouterConfig {
        interface: INTERFACE.to_owned(),
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(priority).unwrap(),
        interval: AdvertInterval::new(INTERVAL).unwrap(),
        preempt: if preempt { Preempt::After(Duration::ZERO) } else { Preempt::Never },
        checksum: Checksum::PseudoHeader,
        addresses: RouterAddresses::new(vec![format!("{VIRTUAL}/32").parse().unwrap()]).unwrap(),
    }
}

fn start(lab: &Lab, config: RouterConfig) -> Result<Router, RouterError> {
    start_counted(lab, config, &Registry::new())
}

fn start_counted(lab: &Lab, config: RouterConfig, registry: &Registry) -> Result<Router, RouterError> {
    let metrics = RouterMetrics::register(registry).unwrap();
    lab.ours.run(|| Router::start(config, metrics))
}

/// The same virtual router as seen by the other host.
fn others_settings() -> Settings {
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(1).unwrap(),
        interval: AdvertInterval::new(INTERVAL).unwrap(),
        preempt: Preempt::Never,
        local: OTHER,
        addresses: VirtualAddresses::new(vec![VIRTUAL]).unwrap(),
        checksum: Checksum::PseudoHeader,
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
fn it_serves_under_a_stronger_keepalived_and_takes_over_from_it() {
    let lab = Lab::new();
    let keepalived = Keepalived::start(&lab, 200);
    await_that("keepalived is master", || lab.other.holds_virtual_address());
    let router = start(&lab, config(100, true)).unwrap();
    let serves = || router.role() == Role::Backup && lab.other.holds_virtual_address();
    assert!(holds_throughout(Duration::from_secs(2), serves), "we are {}", router.role());
    assert!(!lab.ours.holds_virtual_address());

    keepalived.stop();
    await_that("we take over", || router.role() == Role::Master && lab.ours.holds_virtual_address());

    let _keepalived = Keepalived::start(&lab, 200);
    await_that("keepalived has it back", || {
        router.role() == Role::Backup && lab.other.holds_virtual_address()
    });
    assert!(!lab.ours.holds_virtual_address());
}

#[test]
fn it_masters_a_weaker_keepalived_which_takes_over_when_we_stop() {
    let lab = Lab::new();
    let _keepalived = Keepalived::start(&lab, 100);
    await_that("keepalived is master", || lab.other.holds_virtual_address());
    let router = start(&lab, config(200, true)).unwrap();
    await_that("we take over and keepalived agrees", || {
        lab.ours.holds_virtual_address() && !lab.other.holds_virtual_address()
    });
    let masters = || router.role() == Role::Master && !lab.other.holds_virtual_address();
    assert!(holds_throughout(Duration::from_secs(2), masters), "we are {}", router.role());

    router.stop();
    assert!(!lab.ours.holds_virtual_address());
    await_that("keepalived takes over", || lab.other.holds_virtual_address());
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
    let addresses = networks.iter().map(ipnet::Ipv4Net::addr).collect();
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
    let router = start(&lab, config(100, false)).unwrap();
    await_that("we are master", || router.role() == Role::Master && lab.ours.holds_virtual_address());
    // The virtual address becomes the first of the interface, which the kernel prefers.
    for change in ["delete", "add"] {
        lab.ours.ip(&["address", change, "172.16.60.241/24", "dev", INTERFACE]);
    }
    let listener = lab.listener();
    for _ in 0..3 {
        let packet = hear(&listener, Duration::from_secs(5)).expect("an advert");
        assert_eq!(vrrp::decode(&others_settings(), &packet).unwrap().from, OURS);
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
    match Router::start(config(100, false), metrics) {
        Err(RouterError::Permission { capability: missing, .. }) => assert_eq!(missing, capability),
        outcome => panic!("{outcome:?}"),
    }
}

/// A complete packet from the other host: a good advert, then spoilt.
struct Forgery {
    what: &'static str,
    reason: &'static str,
    packet: Vec<u8>,
}

fn forgeries() -> Vec<Forgery> {
    let strongest = Advert { priority: Priority::new(255), interval: AdvertInterval::new(INTERVAL).unwrap() };
    let message = vrrp::encode(&others_settings(), strongest);
    let forgery = |what, reason, time_to_live, spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut message = message.clone();
        spoil(&mut message);
        Forgery { what, reason, packet: packet(time_to_live, &message) }
    };
    let set = |position: usize, value: u8| move |message: &mut Vec<u8>| set_and_sum(message, position, value);
    vec![
        forgery("time to live 254", "time_to_live", 254, &|_| ()),
        forgery("time to live 1", "time_to_live", 1, &|_| ()),
        forgery("wrong checksum", "checksum", 255, &|message| message[6] ^= 0x10),
        forgery("no checksum", "checksum", 255, &|message| message[6..8].fill(0)),
        forgery("version 2", "version", 255, &set(0, 0x21)),
        forgery("version 4", "version", 255, &set(0, 0x41)),
        forgery("type 0", "type", 255, &set(0, 0x30)),
        forgery("type 2", "type", 255, &set(0, 0x32)),
        forgery("another virtual router", "router_id", 255, &set(1, 52)),
        forgery("virtual router 0", "router_id", 255, &set(1, 0)),
        forgery("interval 0", "interval", 255, &set(5, 0)),
        forgery("two addresses claimed", "length", 255, &set(3, 2)),
        forgery("no address claimed", "length", 255, &set(3, 0)),
        forgery("another address", "addresses", 255, &set(11, 251)),
        forgery("cut short", "length", 255, &|message| message.truncate(7)),
        forgery("empty", "length", 255, &Vec::clear),
    ]
}

/// Changes one byte and makes the checksum, with pseudo-header, right again.
fn set_and_sum(message: &mut [u8], position: usize, value: u8) {
    message[position] = value;
    message[6..8].fill(0);
    let group = Ipv4Addr::new(224, 0, 0, 18).octets();
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let covered = [&OTHER.octets()[..], &group, &[0, 112], &length, message].concat();
    let words = covered.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[6..8].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
}

/// The kernel fills in length and checksum of the header.
fn packet(time_to_live: u8, message: &[u8]) -> Vec<u8> {
    let header = [0x45, 0xc0, 0, 0, 0, 0, 0, 0, time_to_live, 112, 0, 0];
    [&header[..], &OTHER.octets(), &[224, 0, 0, 18], message].concat()
}

fn rejected(registry: &Registry, reason: &str) -> f64 {
    let families = registry.gather();
    let family =
        families.iter().find(|family| family.name() == "fairway_lb_vrrp_adverts_rejected_total").unwrap();
    let metric = family.get_metric().iter().find(|metric| metric.get_label()[0].value() == reason).unwrap();
    metric.get_counter().get_value()
}

/// Sends every forgery, again and again for `span`, twice as often as a master advertises.
fn forge_for(lab: &Lab, span: Duration) {
    let forger = lab.forger();
    let group = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 18), 0).into();
    let end = now() + span;
    let quiet = lab.listener();
    while now() < end {
        for forgery in forgeries() {
            forger.send_to(&forgery.packet, &group).unwrap();
        }
        // Half an interval, minding the clock and not the packets.
        let round = now() + INTERVAL * 9 / 20;
        while hear(&quiet, round.saturating_duration_since(now())).is_some() {}
    }
}

#[test]
fn forged_adverts_leave_a_master_master_and_its_rhythm_as_it_was() {
    let lab = Lab::new();
    let registry = Registry::new();
    let router = start_counted(&lab, config(100, false), &registry).unwrap();
    await_that("we are master", || router.role() == Role::Master);
    let listener = lab.listener();
    let begun = now();
    forge_for(&lab, Duration::from_secs(2));
    let span = begun.elapsed();
    assert_eq!(router.role(), Role::Master);
    assert!(lab.ours.holds_virtual_address());
    let mut adverts = 0;
    while let Some(packet) = hear(&listener, Duration::ZERO) {
        let received = vrrp::decode(&others_settings(), &packet);
        adverts += u32::from(received.is_ok_and(|received| received.from == OURS));
    }
    let due = u32::try_from(span.as_millis() / INTERVAL.as_millis()).unwrap();
    // Not below: the machine may be busy, but the forgeries come often enough to suppress every single one.
    assert!((due * 3 / 4..=due + 1).contains(&adverts), "{adverts} adverts in {span:?}");
    for Forgery { what, reason, .. } in forgeries() {
        assert!(rejected(&registry, reason) > 0.0, "{what} is not counted as {reason}");
    }
}

#[test]
fn forged_adverts_do_not_keep_a_backup_from_taking_over() {
    let lab = Lab::new();
    let router = start(&lab, config(100, false)).unwrap();
    assert_eq!(router.role(), Role::Backup);
    // Down time is 361 ms.
    forge_for(&lab, Duration::from_millis(600));
    assert_eq!(router.role(), Role::Master);
}

#[test]
fn each_forgery_is_rejected_for_its_own_reason() {
    for Forgery { what, reason, mut packet } in forgeries() {
        let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        let settings = Settings { local: OURS, ..others_settings() };
        assert_eq!(vrrp::decode(&settings, &packet).unwrap_err().label(), reason, "{what}");
    }
}
