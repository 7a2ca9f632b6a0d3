//! A backend that leaves while it has connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::{Dataplane, Deviation, Ipvs, IpvsSettings, Surroundings};
use plan::{Change, Forwarding, Frontend, Protocol, Rules, Scope, Service, Weight, diff};
use tests::wait;

use crate::ask::SILENCE;
use crate::site::{SERVERS, Site, apply, frontend, server, service};

const LIMIT: Duration = Duration::from_mins(1);

fn open(site: &Site, drain_deadline: Duration) -> Ipvs {
    let settings = IpvsSettings { drain_deadline, ..IpvsSettings::default() };
    site.on_director(|| Ipvs::open(settings, Surroundings::default())).unwrap()
}

/// What is to be done about servers that are not to be there any more.
fn steps(ipvs: &mut Ipvs) -> Vec<Change> {
    let desired: Forwarding = [(frontend(), service(&["two"]))].into();
    diff(&ipvs.observe().unwrap(), &desired, &Scope::everything())
}

#[test]
fn connections_are_given_up_at_the_deadline_whoever_waits_for_it() {
    let site = Site::new();
    let (never, soon) = (Duration::from_hours(1), Duration::from_secs(2));
    let mut ipvs = open(&site, never);
    assert_eq!(
        ipvs.apply(&[Change::AddService { frontend: frontend(), service: service(&["one"]) }]).len(),
        0
    );
    let mut held = site.hold(frontend());
    let counted = ipvs.recount(frontend()).unwrap().unwrap();
    assert_eq!(counted[&server("one")].connections, 1);

    let leaving = steps(&mut ipvs);
    assert!(
        leaving.contains(&Change::DrainBackend { frontend: frontend(), backend: server("one") }),
        "{leaving:?}"
    );
    assert_eq!(ipvs.apply(&leaving).len(), 0);
    drop(ipvs);
    let mut ipvs = open(&site, never);
    assert_eq!(steps(&mut ipvs), [], "it may take its time");
    drop(ipvs);

    // One that kube-proxy left: from now on somebody counts.
    let address = "10.2.0.11:6443";
    site.tool("ipvsadm", &["-e", "-t", "10.254.0.1:443", "-r", address, "-m", "-w", "0"]);
    let mut ipvs = open(&site, soon);
    assert_eq!(held.ask().unwrap(), "one");
    let gone = Change::RemoveBackend { frontend: frontend(), backend: server("one") };
    wait::until("its time is up", LIMIT, || steps(&mut ipvs) == std::slice::from_ref(&gone)).unwrap();
    assert_eq!(ipvs.apply(&[gone]).len(), 0);
    assert!(!site.tool("ipvsadm", &["-Ln"]).contains(address));
    assert!(held.ask().is_err(), "the connection is given up");
}

#[test]
fn who_sends_datagrams_has_another_server_as_soon_as_his_leaves() {
    let site = Site::new();
    let mut ipvs = open(&site, Duration::from_hours(1));
    let frontend = Frontend::new(frontend().address(), frontend().port(), Protocol::Udp);
    apply(&mut ipvs, &[Change::AddService { frontend, service: service(&["one", "two"]) }]);
    let mut client = site.sender(frontend);
    let first = client.ask(SILENCE).unwrap();
    assert_eq!(client.ask(SILENCE).unwrap(), first, "an exchange has one server");

    let other = if first == "one" { "two" } else { "one" };
    let desired: Forwarding = [(frontend, service(&[other]))].into();
    let steps = diff(&ipvs.observe().unwrap(), &desired, &Scope::everything());
    assert_eq!(steps, [Change::RemoveBackend { frontend, backend: server(&first) }]);
    apply(&mut ipvs, &steps);
    wait::until("the other answers", LIMIT, || client.ask(SILENCE).is_ok_and(|name| name == other)).unwrap();
}

#[test]
fn a_server_that_returns_while_it_drains_is_as_before() {
    let site = Site::new();
    let mut ipvs = open(&site, Duration::from_hours(1));
    assert_eq!(
        ipvs.apply(&[Change::AddService { frontend: frontend(), service: service(&["one"]) }]).len(),
        0
    );
    let mut held = site.hold(frontend());
    let change = |change: fn(Frontend, plan::Backend) -> Change| change(frontend(), server("one"));
    let before = site.tool("ipvsadm", &["-Ln", "--thresholds"]);
    let drain = change(|frontend, backend| Change::DrainBackend { frontend, backend });
    let back = change(|frontend, backend| Change::AddBackend { frontend, backend, weight: Weight::ONE });
    assert_eq!(ipvs.apply(&[drain]).len(), 0);
    assert_ne!(site.tool("ipvsadm", &["-Ln", "--thresholds"]), before);
    assert_eq!(ipvs.apply(&[back]).len(), 0);
    assert_eq!(site.tool("ipvsadm", &["-Ln", "--thresholds"]), before);
    assert_eq!(held.ask().unwrap(), "one");
    assert_eq!(site.dial(frontend(), 3).unwrap().len(), 1);
}

/// Between the messages that put one server back and those that take the other one out are those of many more services:
/// a moment without a server is long enough to be seen.
#[test]
fn a_server_that_returns_while_it_drains_serves_before_the_other_one_leaves() {
    let site = Site::new();
    let mut ipvs = open(&site, Duration::from_hours(1));
    apply(&mut ipvs, &[Change::AddService { frontend: frontend(), service: service(&["one", "two"]) }]);
    let held = [site.hold(frontend()), site.hold(frontend())];
    let back = |name| Change::AddBackend { frontend: frontend(), backend: server(name), weight: Weight::ONE };
    let drain = |name| Change::DrainBackend { frontend: frontend(), backend: server(name) };
    apply(&mut ipvs, &[drain("one")]);
    let others = (0..1_000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        let other = Frontend::new([10, 253, high, low].into(), frontend().port(), Protocol::Tcp);
        Change::AddService { frontend: other, service: service(&["three"]) }
    });
    let changes: Vec<Change> = [back("one"), drain("two")].into_iter().chain(others).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let dials = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                site.dial(frontend(), 1)?;
            }
            site.dial(frontend(), 2)
        });
        apply(&mut ipvs, &changes);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(dials.join().unwrap().unwrap(), BTreeMap::from([("one".to_owned(), 2)]));
    });
    drop(held);
}

#[test]
fn whatever_chooses_new_clients_are_served_while_a_server_drains() {
    let site = Site::new();
    let clients: Vec<IpAddr> = (21..=32).map(|last| IpAddr::from([10, 1, 0, last])).collect();
    let addresses: Vec<String> = clients.iter().map(|client| format!("{client}/24")).collect();
    site.client.addresses("eth0", &addresses.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let mut ipvs = open(&site, Duration::from_hours(1));
    for (name, scheduler) in Ipvs::schedulers() {
        let service = Service { rules: Rules { scheduler, ..Rules::default() }, ..service(&SERVERS) };
        let drains = ipvs.supports(frontend(), &service) != Ok(Some(Deviation::NoDrain));
        assert_eq!(drains, name != "dh");
        let remove = Change::RemoveService { frontend: frontend() };
        apply(&mut ipvs, &[remove, Change::AddService { frontend: frontend(), service }]);
        let mut held = site.hold(frontend());
        let leaves = server(&held.name);
        apply(&mut ipvs, &[Change::DrainBackend { frontend: frontend(), backend: leaves }]);
        for client in &clients {
            let served = site.hold_as(*client, frontend()).map(|other| other.name);
            assert!(served.as_ref().is_ok_and(|other| *other != held.name), "{name}, {client}: {served:?}");
        }
        assert_eq!(held.ask().is_ok_and(|answer| answer == held.name), drains, "{name}");
    }
}
