//! Packets of a client, through virtual services.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use dataplane::{Dataplane, Ipvs};
use plan::{
    Change, Forwarding, Frontend, Observed, Port, Protocol, Rules, Scheduler, Scope, Service, Weight, diff,
};

use crate::site::{SERVERS, Site, apply, each, frontend, server, service};

fn add(names: &[&str]) -> Change {
    Change::AddService { frontend: frontend(), service: service(names) }
}

#[test]
fn connections_are_shared_out_in_turn() {
    let site = Site::new();
    let mut ipvs = site.open();
    apply(&mut ipvs, &[add(&SERVERS)]);
    assert_eq!(site.dial(frontend(), 30).unwrap(), each(10));
    let listed = site.tool("ipvsadm", &["-Ln"]);
    assert!(listed.contains("TCP  10.254.0.1:443 rr\n"), "{listed}");
    assert!(listed.contains("  -> 10.2.0.11:6443               Masq    1"), "{listed}");
}

#[test]
fn connections_are_shared_out_by_weight() {
    let site = Site::new();
    let mut ipvs = site.open();
    let weight = |weight| Weight::new(weight).unwrap();
    let of =
        |counts: [usize; 3]| SERVERS.into_iter().map(str::to_owned).zip(counts).collect::<BTreeMap<_, _>>();
    let rules = Rules { scheduler: Scheduler::WeightedRoundRobin, ..Rules::default() };
    let backends = SERVERS.into_iter().map(server).zip([3, 1, 2].map(weight)).collect();
    let desired: Forwarding = [(frontend(), Service { rules, backends })].into();
    let sync = |ipvs: &mut Ipvs, desired: &Forwarding| {
        let steps = diff(&ipvs.observe().unwrap(), desired, &Scope::everything());
        apply(ipvs, &steps);
        steps.len()
    };
    sync(&mut ipvs, &desired);
    assert_eq!(site.dial(frontend(), 24).unwrap(), of([12, 4, 8]));

    // One that drains gets nothing, and when it is back its own share at once. It keeps its connection throughout.
    let mut held = site.hold(frontend());
    let leaving = server(&held.name);
    apply(&mut ipvs, &[Change::DrainBackend { frontend: frontend(), backend: leaving }]);
    assert!(!site.dial(frontend(), 12).unwrap().contains_key(&held.name));
    assert_eq!(sync(&mut ipvs, &desired), 1);
    assert_eq!(site.dial(frontend(), 24).unwrap(), of([12, 4, 8]));

    // Another share is one step, and so is to put right what somebody else made of it.
    let mut other = desired.clone();
    other.get_mut(&frontend()).unwrap().backends.insert(server("one"), weight(1));
    assert_eq!(sync(&mut ipvs, &other), 1);
    assert_eq!(site.dial(frontend(), 16).unwrap(), of([4, 4, 8]));
    site.tool("ipvsadm", &["-e", "-t", "10.254.0.1:443", "-r", "10.2.0.13:6443", "-m", "-w", "9"]);
    assert!(site.on_director(|| ipvs.inspect().unwrap().entries_differ));
    assert_eq!(sync(&mut ipvs, &other), 1);
    assert_eq!(site.dial(frontend(), 16).unwrap(), of([4, 4, 8]));
    assert_eq!(held.ask().unwrap(), held.name);
}

#[test]
fn without_servers_a_client_is_refused_at_once() {
    let site = Site::new();
    let mut ipvs = site.open();
    apply(&mut ipvs, &[add(&[])]);
    assert_eq!(site.dial(frontend(), 1).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    apply(
        &mut ipvs,
        &[Change::AddBackend { frontend: frontend(), backend: server("two"), weight: Weight::ONE }],
    );
    assert_eq!(site.dial(frontend(), 2).unwrap(), BTreeMap::from([("two".to_owned(), 2)]));
}

#[test]
fn a_server_that_leaves_keeps_its_connections_and_gets_none() {
    let site = Site::new();
    let mut ipvs = site.open();
    apply(&mut ipvs, &[add(&["one", "two"])]);
    let mut held: Vec<_> = (0..2).map(|_| site.hold(frontend())).collect();
    let desired: Forwarding = [(frontend(), service(&["two"]))].into();
    let sync = |ipvs: &mut Ipvs| {
        let steps = diff(&ipvs.observe().unwrap(), &desired, &Scope::everything());
        apply(ipvs, &steps);
        steps
    };
    let drain = Change::DrainBackend { frontend: frontend(), backend: server("one") };
    assert_eq!(sync(&mut ipvs), [drain]);
    for held in &mut held {
        assert_eq!(held.ask().unwrap(), held.name, "the connection goes on");
    }
    assert_eq!(site.dial(frontend(), 4).unwrap(), BTreeMap::from([("two".to_owned(), 4)]));
    // A restart knows it from the kernel.
    drop(ipvs);
    let mut ipvs = site.open();
    assert_eq!(sync(&mut ipvs), [], "it still has connections");
    let back = Change::AddBackend { frontend: frontend(), backend: server("one"), weight: Weight::ONE };
    apply(&mut ipvs, &[back]);
    assert_eq!(site.dial(frontend(), 4).unwrap().len(), 2, "it is back");
}

#[test]
fn what_there_is_no_room_for_is_refused_and_the_others_are_served() {
    let site = Site::new();
    let mut ipvs = site.open();
    // Two of those that packets from outside have of their own.
    ipvs.limit_marks(1);
    let at = |port| Frontend::new(frontend().address(), Port::new(port).unwrap(), Protocol::Tcp);
    let add = |frontend| Change::AddService { frontend, service: service(&SERVERS) };
    let many = [441, 442, 443].map(|port| add(at(port).for_outside()));
    let failures = ipvs.apply(&[&many[..], &[add(at(444))]].concat());
    let [failure] = &failures[..] else { panic!("one is too much: {failures:?}") };
    assert_eq!(failure.change, many[2]);
    assert_eq!(failure.error.to_string(), "map of firewall marks is full at 2 entries");
    for port in [441, 442, 444] {
        assert_eq!(site.dial(at(port), 3).unwrap(), each(1), "{port}");
    }
    assert_eq!(site.dial(at(443), 1).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    apply(&mut ipvs, &[Change::RemoveService { frontend: at(441).for_outside() }, many[2].clone()]);
    assert_eq!(site.dial(at(443), 3).unwrap(), each(1), "there is room again");
}

#[test]
fn other_virtual_services_are_neither_seen_nor_touched() {
    let site = Site::new();
    let foreign = ["-A", "-t", "10.1.0.1:8443", "-s", "wlc"];
    site.tool("ipvsadm", &foreign);
    let mut ipvs = site.open();
    assert_eq!(ipvs.observe().unwrap(), Observed::default());
    apply(&mut ipvs, &[add(&SERVERS)]);
    drop(ipvs);
    site.on_director(|| Ipvs::cleanup().unwrap());
    let listed = site.tool("ipvsadm", &["-Ln"]);
    assert!(listed.contains("10.1.0.1:8443 wlc") && !listed.contains("10.254.0.1"), "{listed}");
    let links = site.tool("ip", &["link"]);
    assert!(!links.contains("kube-ipvs0"), "{links}");
    site.on_director(|| Ipvs::cleanup().unwrap());
}

#[test]
fn what_somebody_removed_or_changed_is_put_right() {
    let site = Site::new();
    let mut ipvs = site.open();
    let desired: Forwarding = [(frontend(), service(&SERVERS))].into();
    let faults: [&[&str]; 4] = [
        &["ipvsadm", "-C"],
        &["ipvsadm", "-E", "-t", "10.254.0.1:443", "-s", "sed"],
        &["ipvsadm", "-d", "-t", "10.254.0.1:443", "-r", "10.2.0.12:6443"],
        &["ip", "address", "delete", "10.254.0.1/32", "dev", "kube-ipvs0"],
    ];
    apply(&mut ipvs, &[add(&SERVERS)]);
    for fault in faults {
        site.tool(fault[0], &fault[1..]);
        let steps = diff(&ipvs.observe().unwrap(), &desired, &Scope::everything());
        apply(&mut ipvs, &steps);
        assert_eq!(ipvs.observe().unwrap().forwarding(), desired, "{fault:?}");
        assert_eq!(site.dial(frontend(), 6).unwrap(), each(2), "{fault:?}");
    }
}

#[test]
fn every_scheduler_of_the_plan_is_the_kernels_own() {
    let site = Site::new();
    let mut ipvs = site.open();
    apply(&mut ipvs, &[add(&SERVERS)]);
    for (scheduler, name) in
        [(Scheduler::LeastConnections, "lc"), (Scheduler::Maglev, "mh"), (Scheduler::RoundRobin, "rr")]
    {
        let rules = Rules { scheduler, ..Rules::default() };
        apply(&mut ipvs, &[Change::SetRules { frontend: frontend(), rules: rules.clone() }]);
        assert_eq!(ipvs.observe().unwrap().services[&frontend()].rules, rules);
        let listed = site.tool("ipvsadm", &["-Ln"]);
        assert!(listed.contains(&format!("10.254.0.1:443 {name}")), "{listed}");
        assert!(!site.dial(frontend(), 3).unwrap().is_empty(), "{name}");
    }
}
