//! Every rule of a service, by packets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use dataplane::{Dataplane, Deviation, Ipvs};
use plan::{
    Affinity, AffinityGroup, Backend, Change, Frontend, Masquerade, Port, Protocol, Rules, Service, Weight,
    WhenEmpty,
};
use tests::{Namespace, wait};

use crate::ask::{Answer, PATIENCE, SILENCE, ask_for};
use crate::site::{SERVERS, Site};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The address with this number in one of the networks 1 to 3, or among the services: 254.
    fn address(self, network: u8, number: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("10.{network}.0.{number}"),
            Self::V6 => format!("fd00:{network}::{number}"),
        };
        text.parse().unwrap()
    }

    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn frontend(self, port: u16, protocol: Protocol) -> Frontend {
        Frontend::new(self.address(254, 1), Port::new(port).unwrap(), protocol)
    }

    fn backend(self, name: &str) -> Backend {
        let position = SERVERS.iter().position(|server| *server == name).unwrap();
        Backend::new(self.address(2, u8::try_from(11 + position).unwrap()), Port::new(6443).unwrap())
    }

    fn service(self, rules: Rules, names: &[&str]) -> Service {
        Service { rules, ..names.iter().map(|name| self.backend(name)).collect() }
    }
}

fn ask(place: &Namespace, frontend: Frontend) -> Answer {
    ask_for(place, frontend, PATIENCE).unwrap()
}

/// Whom the server sees.
fn seen(place: &Namespace, frontend: Frontend) -> IpAddr {
    ask(place, frontend).seen
}

fn assert_refused(place: &Namespace, frontend: Frontend) {
    let error = ask_for(place, frontend, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{frontend}: {error}");
}

fn assert_dropped(place: &Namespace, frontend: Frontend) {
    let error = ask_for(place, frontend, SILENCE).unwrap_err();
    let silent = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
    assert!(silent, "{frontend}: {error}");
}

/// Serves it, whatever was served there before.
fn serve(ipvs: &mut Ipvs, frontend: Frontend, service: &Service) {
    let failures = ipvs.apply(&[
        Change::RemoveService { frontend },
        Change::AddService { frontend, service: service.clone() },
    ]);
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(ipvs.observe().unwrap().forwarding()[&frontend], *service, "{frontend}");
}

fn masquerading(masquerade: Masquerade) -> Rules {
    Rules { masquerade, ..Rules::default() }
}

#[test]
fn servers_see_whom_the_rules_let_them_see() {
    let site = Site::new();
    let mut ipvs = site.open();
    for family in FAMILIES {
        let (client, pod, node) = (family.address(1, 2), family.address(3, 2), family.address(2, 1));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let frontend = family.frontend(443, protocol);
            for (masquerade, client, pod) in [
                (Masquerade::Never, client, pod),
                (Masquerade::FromOutsidePods, node, pod),
                (Masquerade::Always, node, node),
            ] {
                serve(&mut ipvs, frontend, &family.service(masquerading(masquerade), &SERVERS));
                assert_eq!(seen(&site.client, frontend), client, "{frontend}, {masquerade:?}");
                assert_eq!(seen(&site.pod, frontend), pod, "{frontend}, {masquerade:?}");
                // Its own address is that of the service, which nobody else can answer.
                assert_eq!(seen(&site.director, frontend), node, "{frontend}, {masquerade:?}");
            }
            // Who is his own server is answered by way of the node.
            serve(&mut ipvs, frontend, &family.service(Rules::default(), &["one"]));
            assert_eq!(ask(&site.servers[0], frontend), Answer { name: "one".to_owned(), seen: node });
        }
    }
}

#[test]
fn who_is_not_to_be_served_is_dropped_or_refused() {
    let site = Site::new();
    let mut ipvs = site.open();
    for family in FAMILIES {
        let frontend = family.frontend(443, Protocol::Tcp);
        let only = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            Rules { source_ranges: Some(ranges), ..Rules::default() }
        };
        let (client, pods) =
            (format!("{}/128", family.address(1, 2)), ["10.3.0.0/16", "10.3.0.0/24", "fd00:3::/32"]);
        let client = if frontend.address().is_ipv4() { client.replace("/128", "/32") } else { client };
        serve(&mut ipvs, frontend, &family.service(only(&[&client]), &SERVERS));
        ask(&site.client, frontend);
        assert_dropped(&site.pod, frontend);
        let failures = ipvs.apply(&[Change::SetRules { frontend, rules: only(&pods) }]);
        assert!(failures.is_empty(), "{failures:?}");
        ask(&site.pod, frontend);
        assert_dropped(&site.client, frontend);

        let (tcp, udp) = (frontend, family.frontend(53, Protocol::Udp));
        for empty in [tcp, udp] {
            serve(&mut ipvs, empty, &family.service(Rules::default(), &[]));
        }
        // ICMP would be limited to one a second.
        for place in [&site.client, &site.pod, &site.director, &site.client, &site.client, &site.client] {
            assert_refused(place, tcp);
        }
        assert_refused(&site.client, udp);
        let drop = Rules { when_empty: WhenEmpty::Drop, ..Rules::default() };
        serve(&mut ipvs, tcp, &family.service(drop, &[]));
        assert_dropped(&site.client, tcp);
        let comes = Change::AddBackend { frontend: tcp, backend: family.backend("two"), weight: Weight::ONE };
        assert!(ipvs.apply(&[comes]).is_empty());
        assert_eq!(ask(&site.client, tcp).name, "two");
    }
}

#[test]
fn what_no_service_has_of_the_addresses_that_are_theirs_goes_nowhere() {
    let site = Site::new();
    let mut ipvs = site.open();
    let set = |ipvs: &mut Ipvs, cidrs: &[&str]| {
        ipvs.set_service_cidrs(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()).unwrap();
    };
    let at = |family: Family, number, port| {
        Frontend::new(family.address(253, number), Port::new(port).unwrap(), Protocol::Tcp)
    };
    // Somebody answers there, behind the director, which would be told apart from silence.
    for family in FAMILIES {
        let (unallocated, by) = (family.address(253, 9), family.address(2, 11));
        site.servers[0].address("lo", &format!("{unallocated}/{}", family.bits())).unwrap();
        site.tool("ip", &["route", "add", &unallocated.to_string(), "via", &by.to_string()]);
        serve(&mut ipvs, at(family, 1, 443), &family.service(Rules::default(), &["two"]));
    }
    let ask_all = |reached: bool| {
        let ask_one = |place: &Namespace, family: Family| {
            if reached {
                assert_eq!(ask(place, at(family, 9, 6443)).name, "one");
            } else {
                assert_dropped(place, at(family, 9, 6443));
            }
            assert_eq!(ask(place, at(family, 1, 443)).name, "two", "a service has it");
        };
        // All at once: silence takes its time.
        std::thread::scope(|scope| {
            for place in [&site.client, &site.pod, &site.director] {
                for family in FAMILIES {
                    scope.spawn(move || ask_one(place, family));
                }
            }
        });
    };
    ask_all(true);
    // One within another, as while a cluster is given a greater one.
    set(&mut ipvs, &["10.253.0.0/24", "10.253.0.0/16", "fd00:253::/112"]);
    ask_all(false);
    site.tool("nft", &["flush", "ruleset"]);
    assert!(site.on_director(|| ipvs.inspect()).unwrap().entries_differ);
    ipvs.observe().unwrap();
    ask_all(false);
    drop(ipvs);
    let mut ipvs = site.open();
    ask_all(false);
    set(&mut ipvs, &["10.252.0.0/16"]);
    ask_all(true);
}

#[test]
fn addresses_of_services_are_theirs_alone_and_those_of_the_node_are_not() {
    let site = Site::new();
    let mut ipvs = site.open();
    for family in FAMILIES {
        let any: IpAddr =
            if matches!(family, Family::V4) { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
        let listener = site.on_director(|| TcpListener::bind((any, 444)).unwrap());
        let frontend = family.frontend(443, Protocol::Tcp);
        serve(&mut ipvs, frontend, &family.service(Rules::default(), &SERVERS));
        // An address of the node, too, may be that of a service: a node port.
        let node_port = Frontend::new(family.address(1, 1), Port::new(30_080).unwrap(), Protocol::Tcp);
        serve(&mut ipvs, node_port, &family.service(masquerading(Masquerade::Always), &["three"]));
        assert_eq!(
            ask(&site.client, node_port),
            Answer { name: "three".to_owned(), seen: family.address(2, 1) }
        );
        assert_eq!(ask(&site.director, node_port).name, "three");
        assert_refused(&site.client, family.frontend(444, Protocol::Tcp));
        let reach = |address| TcpStream::connect_timeout(&SocketAddr::new(address, 444), PATIENCE).is_ok();
        assert!(site.client.run(|| reach(family.address(1, 1))).unwrap(), "the node's own listener");
        let links = site.tool("ip", &["address", "show", "dev", "kube-ipvs0"]);
        assert!(links.contains(&frontend.address().to_string()), "{links}");
        assert!(!links.contains(&node_port.address().to_string()), "{links}");
        drop(listener);
    }
    // It is found again by the next process.
    let before = ipvs.observe().unwrap().forwarding();
    drop(ipvs);
    assert_eq!(site.open().observe().unwrap().forwarding(), before);
}

#[test]
fn packets_from_outside_meet_their_own_service() {
    let site = Site::new();
    let mut ipvs = site.open();
    for family in FAMILIES {
        for address in [family.address(254, 1), family.address(1, 1)] {
            let everyone = Frontend::new(address, Port::new(30_443).unwrap(), Protocol::Tcp);
            let outside = everyone.for_outside();
            serve(&mut ipvs, everyone, &family.service(masquerading(Masquerade::Always), &["two"]));
            serve(&mut ipvs, outside, &family.service(Rules::default(), &["one"]));
            let client = family.address(1, 2);
            for _ in 0..2 {
                assert_eq!(ask(&site.client, everyone), Answer { name: "one".to_owned(), seen: client });
            }
            for inside in [&site.pod, &site.director] {
                assert_eq!(
                    ask(inside, everyone),
                    Answer { name: "two".to_owned(), seen: family.address(2, 1) }
                );
            }
            let rules = Rules { when_empty: WhenEmpty::Drop, ..masquerading(Masquerade::Always) };
            assert!(ipvs.apply(&[Change::SetRules { frontend: outside, rules }]).is_empty());
            assert_eq!(seen(&site.client, everyone), family.address(2, 1));
            let goes = Change::RemoveBackend { frontend: outside, backend: family.backend("one") };
            assert!(ipvs.apply(&[goes]).is_empty());
            assert_dropped(&site.client, everyone);
            assert_eq!(ask(&site.pod, everyone).name, "two");
            assert!(ipvs.apply(&[Change::RemoveService { frontend: outside }]).is_empty());
            assert_eq!(ask(&site.client, everyone).name, "two", "it meets what is for everyone");
        }
    }
}

#[test]
fn a_client_comes_back_to_its_server_until_that_goes() {
    let site = Site::new();
    let mut ipvs = site.open();
    let affinity = Affinity { group: AffinityGroup(0xfeed), timeout: Duration::from_mins(10) };
    let frontends = FAMILIES.map(|family| (family, family.frontend(443, Protocol::Tcp)));
    let outside = frontends.map(|(family, frontend)| (family, frontend.for_outside()));
    for (family, frontend) in [frontends, outside].concat() {
        let rules = Rules { affinity: Some(affinity), ..Rules::default() };
        serve(&mut ipvs, frontend, &family.service(rules, &SERVERS));
        let mut left = Vec::new();
        for _ in 0..2 {
            let name = ask(&site.client, frontend).name;
            assert!(!left.contains(&name), "{name} is gone");
            for _ in 0..5 {
                assert_eq!(ask(&site.client, frontend).name, name);
            }
            let backend = family.backend(&name);
            assert!(ipvs.apply(&[Change::RemoveBackend { frontend, backend }]).is_empty());
            left.push(name);
        }
    }
}

/// Otherwise than planned, and said to be so.
#[test]
fn a_client_is_remembered_at_each_frontend_by_itself() {
    let site = Site::new();
    let mut ipvs = site.open();
    let affinity = Affinity { group: AffinityGroup(0xfeed), timeout: Duration::from_mins(10) };
    let rules = Rules { affinity: Some(affinity), ..Rules::default() };
    let service = Family::V4.service(rules, &SERVERS);
    let [one, other] = [443, 444].map(|port| Family::V4.frontend(port, Protocol::Tcp));
    for frontend in [one, other] {
        assert_eq!(ipvs.supports(frontend, &service), Ok(Some(Deviation::AffinityByFrontend)));
        let outside = frontend.for_outside();
        assert_eq!(ipvs.supports(outside, &service), Ok(Some(Deviation::AffinityByHash)));
        serve(&mut ipvs, frontend, &service);
    }
    // Turns of both begin alike: somebody else has the other's first.
    ask(&site.pod, other);
    assert_ne!(ask(&site.client, one).name, ask(&site.client, other).name);
}

#[test]
fn a_client_that_stayed_away_for_too_long_is_a_new_one() {
    let site = Site::new();
    let mut ipvs = site.open();
    let affinity = Affinity { group: AffinityGroup(0xfeed), timeout: Duration::from_secs(2) };
    // It is not forgotten before its datagrams are.
    site.tool("ipvsadm", &["--set", "0", "0", "1"]);
    for family in FAMILIES {
        let frontend = family.frontend(53, Protocol::Udp);
        let rules = Rules { affinity: Some(affinity), ..Rules::default() };
        serve(&mut ipvs, frontend, &family.service(rules, &SERVERS));
        let first = ask(&site.client, frontend).name;
        for _ in 0..3 {
            assert_eq!(ask(&site.client, frontend).name, first, "{frontend}");
        }
        wait::pace(3 * affinity.timeout);
        assert_ne!(ask(&site.client, frontend).name, first, "{frontend}: it is the next one's turn");
    }
}

#[test]
fn rules_that_somebody_removed_are_put_back() {
    let site = Site::new();
    let mut ipvs = site.open();
    let family = Family::V4;
    let frontend = family.frontend(443, Protocol::Tcp);
    let node_port = Frontend::new(family.address(1, 1), Port::new(30_080).unwrap(), Protocol::Tcp);
    for frontend in [frontend, node_port] {
        serve(&mut ipvs, frontend, &family.service(masquerading(Masquerade::Always), &SERVERS));
    }
    let before = ipvs.observe().unwrap().forwarding();
    let differs = |ipvs: &mut Ipvs| site.on_director(|| ipvs.inspect().unwrap().entries_differ);
    assert!(!differs(&mut ipvs), "nobody did anything");
    let foreign: [&[&str]; 2] = [&["add", "table", "ip", "other"], &["delete", "table", "ip", "other"]];
    for arguments in foreign {
        site.tool("nft", arguments);
        assert!(!differs(&mut ipvs), "{arguments:?} is somebody else's");
    }
    let faults: [(&[&str], bool); 4] = [
        (&["flush", "ruleset"], true),
        (&["flush", "chain", "ip", "fairway-proxy", "postrouting"], true),
        (&["add", "table", "ip", "fairway-proxy", "{", "flags", "dormant", ";", "}"], true),
        // One service is looked after when everything is read.
        (&["flush", "map", "ip", "fairway-proxy", "services"], false),
    ];
    for (fault, at_once) in faults {
        site.tool("nft", fault);
        assert_eq!(differs(&mut ipvs), at_once, "{fault:?}");
        assert_eq!(ipvs.observe().unwrap().forwarding(), before, "{fault:?}");
        assert!(!differs(&mut ipvs), "{fault:?} is put right");
        for frontend in [frontend, node_port] {
            assert_eq!(seen(&site.client, frontend), family.address(2, 1), "{fault:?}, {frontend}");
        }
    }
    drop(ipvs);
    site.on_director(|| Ipvs::cleanup().unwrap());
    let left = site.tool("nft", &["list", "ruleset"]) + &site.tool("ipvsadm", &["-Ln"]);
    assert!(!left.contains("fairway") && !left.contains("10."), "{left}");
}
