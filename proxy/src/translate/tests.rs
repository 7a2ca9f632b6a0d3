use plan::{Masquerade, Port, Protocol, Rules, WhenEmpty};
use proptest::prelude::*;

use super::*;
use crate::cluster::{Endpoint, EndpointPort, Group, Hints, Readiness, ServicePort, TrafficPolicy};

type Told<'a> = &'a [(&'a str, Readiness)];

const READY: Readiness = Readiness::Ready;
const LEAVING: Readiness = Readiness::Leaving;
const UNREADY: Readiness = Readiness::Unready;

fn port(name: &str, number: u16, protocol: Protocol) -> EndpointPort {
    EndpointPort { name: name.into(), port: Port::new(number).expect("not 0"), protocol }
}

fn http() -> Vec<EndpointPort> {
    vec![port("", 80, Protocol::Tcp)]
}

/// Endpoints on the node `m1` if they end in an odd number, else on `m2`.
fn endpoint(address: &str, readiness: Readiness) -> Endpoint {
    let node = if address.ends_with(['1', '3', '5']) { "m1" } else { "m2" };
    let address = address.parse().expect("an address");
    Endpoint { readiness, address, node: Some(node.into()), hints: None }
}

fn slice(ports: &[EndpointPort], endpoints: &[(&str, Readiness)]) -> Slice {
    let endpoints = endpoints.iter().map(|(address, readiness)| endpoint(address, *readiness)).collect();
    Slice {
        service: Name::new(None, "web"),
        groups: vec![Group { ports: ports.into(), endpoints }],
        triggered: None,
    }
}

fn service(addresses: &[&str], ports: &[EndpointPort]) -> Service {
    let port = |port: &EndpointPort| ServicePort {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
        node_port: None,
    };
    Service {
        addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        ports: ports.iter().map(port).collect(),
        ..Service::default()
    }
}

fn m1() -> Here {
    let addresses = vec![[172, 16, 60, 241].into(), "fd00:60::241".parse().expect("an address")];
    Here { name: "m1".into(), zone: Some("az-1".into()), addresses, ..Here::default() }
}

fn forwarding(service: &Service, slices: &[Slice], settings: &Settings) -> Forwarding {
    translate(&Name::new(None, "web"), service, &slices.iter(), &m1(), settings)
}

/// Each frontend, its backends and its rules, as one line. Cluster addresses are exclusive, of which it says nothing.
fn lines(forwarding: &Forwarding) -> Vec<String> {
    let line = |(frontend, service): (&Frontend, &plan::Service)| {
        let backends: Vec<String> = service.backends.keys().map(ToString::to_string).collect();
        let rules = Rules { exclusive: false, ..service.rules.clone() };
        let rules = if rules == Rules::default() { String::new() } else { format!(" ({rules})") };
        format!("{frontend} -> {}{rules}", backends.join(" "))
    };
    forwarding.iter().map(line).collect()
}

fn translated(service: &Service, slices: &[Slice]) -> Vec<String> {
    lines(&forwarding(service, slices, &Settings::default()))
}

#[test]
fn slices_are_joined_and_the_same_endpoint_counts_once() {
    let target = [port("", 8080, Protocol::Tcp)];
    let slices =
        [slice(&target, &[("10.1.0.1", READY), ("10.1.0.2", READY)]), slice(&target, &[("10.1.0.1", READY)])];
    let web = service(&["10.0.0.1"], &http());
    assert_eq!(translated(&web, &slices), ["TCP 10.0.0.1:80 -> 10.1.0.1:8080 10.1.0.2:8080"]);
    assert_eq!(translated(&web, &[]), ["TCP 10.0.0.1:80 -> "]);
}

#[test]
fn leaving_endpoints_serve_only_where_none_is_ready() {
    let cases: [(Told<'_>, &str); 5] = [
        (&[("10.1.0.1", READY), ("10.1.0.2", LEAVING)], "10.1.0.1:80"),
        (&[("10.1.0.2", LEAVING)], "10.1.0.2:80"),
        (&[("10.1.0.2", UNREADY), ("10.1.0.3", Readiness::Gone)], ""),
        (&[("10.1.0.1", LEAVING), ("10.1.0.1", READY)], "10.1.0.1:80"),
        // Its address has gone to a new pod that is not ready yet.
        (&[("10.1.0.1", LEAVING), ("10.1.0.1", UNREADY)], ""),
    ];
    for (endpoints, expected) in cases {
        let found = translated(&service(&["10.0.0.1"], &http()), &[slice(&http(), endpoints)]);
        assert_eq!(found, [format!("TCP 10.0.0.1:80 -> {expected}")], "{endpoints:?}");
    }
}

#[test]
fn families_do_not_mix() {
    let slices = [slice(&http(), &[("10.1.0.1", READY)]), slice(&http(), &[("fd01::1", LEAVING)])];
    assert_eq!(
        translated(&service(&["10.0.0.1", "fd00::1"], &http()), &slices),
        ["TCP 10.0.0.1:80 -> 10.1.0.1:80", "TCP [fd00::1]:80 -> [fd01::1]:80"]
    );
}

#[test]
fn a_port_takes_its_endpoints_by_name_and_protocol() {
    let dns = [port("dns", 53, Protocol::Udp), port("dns-tcp", 53, Protocol::Tcp)];
    let slices = [
        slice(&[port("dns", 5353, Protocol::Udp)], &[("10.1.0.1", READY)]),
        slice(&[port("dns-tcp", 5354, Protocol::Tcp)], &[("10.1.0.2", READY)]),
        slice(&[port("dns", 5355, Protocol::Tcp)], &[("10.1.0.3", READY)]),
    ];
    assert_eq!(
        translated(&service(&["10.0.0.1"], &dns), &slices),
        ["TCP 10.0.0.1:53 -> 10.1.0.2:5354", "UDP 10.0.0.1:53 -> 10.1.0.1:5353"]
    );
}

/// A Service with every kind of address in IPv4.
fn everywhere(internal: TrafficPolicy, external: TrafficPolicy) -> Service {
    let mut service = service(&["10.0.0.1"], &http());
    service.ports[0].node_port = Port::new(30_080);
    Service {
        external_addresses: [[192, 0, 2, 1].into()].into(),
        balancer_addresses: [[192, 0, 2, 2].into()].into(),
        internal_policy: internal,
        external_policy: external,
        ..service
    }
}

#[test]
fn cluster_addresses_alone_are_exclusive() {
    let service = everywhere(TrafficPolicy::Cluster, TrafficPolicy::Local);
    let slices = [slice(&http(), &[("10.1.0.1", READY)])];
    let forwarding = forwarding(&service, &slices, &Settings::default());
    assert!(forwarding.len() > 4);
    for (frontend, service) in forwarding {
        assert_eq!(
            service.rules.exclusive,
            frontend.address() == std::net::IpAddr::from([10, 0, 0, 1]),
            "{frontend}"
        );
    }
}

#[test]
fn traffic_from_outside_reaches_all_endpoints_masqueraded() {
    let service = everywhere(TrafficPolicy::Cluster, TrafficPolicy::Cluster);
    let both = slice(&http(), &[("10.1.0.1", READY), ("10.1.0.2", READY)]);
    let to = "-> 10.1.0.1:80 10.1.0.2:80";
    assert_eq!(
        translated(&service, &[both]),
        [
            format!("TCP 10.0.0.1:80 {to}"),
            format!("TCP 172.16.60.241:30080 {to} (round-robin, masqueraded)"),
            format!("TCP 192.0.2.1:80 {to} (round-robin, masqueraded)"),
            format!("TCP 192.0.2.2:80 {to} (round-robin, masqueraded)"),
        ]
    );
}

#[test]
fn local_external_traffic_stays_on_the_node_but_for_those_who_are_inside() {
    let service = everywhere(TrafficPolicy::Cluster, TrafficPolicy::Local);
    let everyone = "round-robin, masqueraded unless from a pod";
    let dropped = "round-robin, dropped while there is no backend";
    let cases: [(Told<'_>, &str, &str, &str); 5] = [
        (&[("10.1.0.1", READY), ("10.1.0.2", READY)], "10.1.0.1:80 10.1.0.2:80", "10.1.0.1:80", dropped),
        // The lists fall back each for itself.
        (&[("10.1.0.1", LEAVING), ("10.1.0.2", READY)], "10.1.0.2:80", "10.1.0.1:80", dropped),
        // Endpoints elsewhere: another node would do. Nowhere: none would.
        (&[("10.1.0.2", READY)], "10.1.0.2:80", "", dropped),
        (&[("10.1.0.2", LEAVING)], "10.1.0.2:80", "", dropped),
        (&[("10.1.0.1", UNREADY), ("10.1.0.2", UNREADY)], "", "", ""),
    ];
    for (endpoints, cluster, local, rules) in cases {
        let rules = if rules.is_empty() { String::new() } else { format!(" ({rules})") };
        let expected: Vec<String> = std::iter::once(format!("TCP 10.0.0.1:80 -> {cluster}"))
            .chain(["172.16.60.241:30080", "192.0.2.1:80", "192.0.2.2:80"].into_iter().flat_map(|at| {
                [
                    format!("TCP {at} -> {cluster} ({everyone})"),
                    format!("TCP {at} from outside -> {local}{rules}"),
                ]
            }))
            .collect();
        assert_eq!(translated(&service, &[slice(&http(), endpoints)]), expected, "{endpoints:?}");
    }
}

#[test]
fn local_internal_traffic_concerns_cluster_addresses_alone() {
    let service = everywhere(TrafficPolicy::Local, TrafficPolicy::Cluster);
    let cases: [(Told<'_>, &str); 4] = [
        (&[("10.1.0.1", READY), ("10.1.0.2", READY)], "10.1.0.1:80"),
        (&[("10.1.0.1", LEAVING), ("10.1.0.2", READY)], "10.1.0.1:80"),
        (&[("10.1.0.2", READY)], ""),
        (&[("10.1.0.2", LEAVING)], ""),
    ];
    for (endpoints, local) in cases {
        let found = translated(&service, &[slice(&http(), endpoints)]);
        let expected = format!("TCP 10.0.0.1:80 -> {local} (round-robin, dropped while there is no backend)");
        assert_eq!(found[0], expected, "{endpoints:?}");
        let cluster = endpoints.iter().filter(|(_, readiness)| {
            *readiness == READY || endpoints.iter().all(|(_, readiness)| *readiness != READY)
        });
        let cluster: Vec<String> = cluster.map(|(address, _)| format!("{address}:80")).collect();
        assert_eq!(
            found[1],
            format!("TCP 172.16.60.241:30080 -> {} (round-robin, masqueraded)", cluster.join(" "))
        );
    }
    let found = translated(&service, &[slice(&http(), &[("10.1.0.2", UNREADY)])]);
    assert_eq!(found[0], "TCP 10.0.0.1:80 -> ", "without endpoints anywhere it is refused");
}

#[test]
fn an_external_policy_means_nothing_to_those_nobody_outside_can_find() {
    let service = Service { external_policy: TrafficPolicy::Local, ..service(&["10.0.0.1"], &http()) };
    let slices = [slice(&http(), &[("10.1.0.1", READY), ("10.1.0.2", READY)])];
    assert_eq!(translated(&service, &slices), ["TCP 10.0.0.1:80 -> 10.1.0.1:80 10.1.0.2:80"]);
}

#[test]
fn an_address_of_a_family_without_cluster_address_is_none() {
    let service = Service {
        external_addresses: ["2001:db8::1".parse().expect("an address")].into(),
        ..everywhere(TrafficPolicy::Cluster, TrafficPolicy::Cluster)
    };
    assert!(
        translated(&service, &[]).iter().all(|line| !line.contains('[')),
        "{:?}",
        translated(&service, &[])
    );
}

#[test]
fn hints_are_followed_by_all_or_by_nobody() {
    let hinted = |address: &str, readiness, nodes: &[&str], zones: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        let hints = Hints { nodes: of(nodes), zones: of(zones) };
        let hints = (hints != Hints::default()).then(|| Box::new(hints));
        Endpoint { hints, ..endpoint(address, readiness) }
    };
    let cases: [(&str, Vec<Endpoint>, &str); 7] = [
        (
            "zones",
            vec![
                hinted("10.1.0.1", READY, &[], &["az-1"]),
                hinted("10.1.0.2", READY, &[], &["az-1", "az-2"]),
                hinted("10.1.0.3", READY, &[], &["az-2"]),
            ],
            "10.1.0.1:80 10.1.0.2:80",
        ),
        (
            "nodes before zones",
            vec![
                hinted("10.1.0.1", READY, &["m2"], &["az-1"]),
                hinted("10.1.0.2", READY, &["m1"], &["az-2"]),
            ],
            "10.1.0.2:80",
        ),
        (
            "zones where no node hint names this one",
            vec![
                hinted("10.1.0.1", READY, &["m2"], &["az-1"]),
                hinted("10.1.0.2", READY, &["m3"], &["az-2"]),
            ],
            "10.1.0.1:80",
        ),
        (
            "one without",
            vec![hinted("10.1.0.1", READY, &[], &["az-1"]), hinted("10.1.0.2", READY, &[], &[])],
            "10.1.0.1:80 10.1.0.2:80",
        ),
        (
            "nobody for here",
            vec![hinted("10.1.0.1", READY, &[], &["az-2"]), hinted("10.1.0.2", READY, &[], &["az-3"])],
            "10.1.0.1:80 10.1.0.2:80",
        ),
        (
            "only those of ready endpoints count",
            vec![hinted("10.1.0.1", READY, &[], &["az-1"]), hinted("10.1.0.2", LEAVING, &[], &[])],
            "10.1.0.1:80",
        ),
        (
            "a last resort has no zone",
            vec![hinted("10.1.0.1", LEAVING, &[], &["az-1"]), hinted("10.1.0.2", LEAVING, &[], &["az-2"])],
            "10.1.0.1:80 10.1.0.2:80",
        ),
    ];
    for (name, endpoints, expected) in cases {
        let mut slice = slice(&http(), &[]);
        slice.groups[0].endpoints = endpoints.into();
        let found = translated(&service(&["10.0.0.1"], &http()), &[slice]);
        assert_eq!(found, [format!("TCP 10.0.0.1:80 -> {expected}")], "{name}");
    }
}

#[test]
fn source_ranges_are_for_the_load_balancer_and_each_for_its_family() {
    let ranges = |texts: &[&str]| {
        let service = Service {
            source_ranges: texts.iter().map(|text| text.parse().expect("a network")).collect(),
            ..everywhere(TrafficPolicy::Cluster, TrafficPolicy::Local)
        };
        let found = translated(&service, &[slice(&http(), &[("10.1.0.1", READY)])]);
        let (balancer, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|line| line.contains("192.0.2.2:80"));
        assert!(others.iter().all(|line| !line.contains("only from")), "{others:?}");
        assert_eq!(balancer.len(), 2);
        let only = balancer
            .iter()
            .map(|line| Some(line.split_once("only from ")?.1.split([',', ')']).next()?.to_owned()));
        only.collect::<Option<Vec<String>>>()
    };
    let each = |text: &str| Some(vec![text.to_owned(); 2]);
    assert_eq!(ranges(&["198.51.100.0/24"]), each("198.51.100.0/24"));
    assert_eq!(ranges(&["198.51.100.0/24", "0.0.0.0/0"]), None);
    assert_eq!(ranges(&["fd00::/8"]), None);
    assert_eq!(
        ranges(&["172.16.60.0/24"]),
        each("172.16.60.0/24 192.0.2.2/32"),
        "the node itself uses the balancer's address as its own, where it has it"
    );
}

#[test]
fn cluster_addresses_are_masqueraded_as_the_node_is_told() {
    let cases = [
        (false, false, Masquerade::Never),
        (false, true, Masquerade::FromOutsidePods),
        (true, true, Masquerade::Always),
        (true, false, Masquerade::Always),
    ];
    for (masquerade_all, detects_local, expected) in cases {
        let settings = Settings { masquerade_all, detects_local, ..Settings::default() };
        for internal in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let service = Service { internal_policy: internal, ..service(&["10.0.0.1"], &http()) };
            let found = forwarding(&service, &[], &settings);
            assert!(found.values().all(|service| service.rules.masquerade == expected), "{found:?}");
        }
    }
}

#[test]
fn a_port_has_one_affinity_and_one_scheduler_at_all_its_addresses() {
    let service = Service {
        affinity: Some(std::time::Duration::from_secs(10)),
        scheduler: Some(Scheduler::Maglev),
        ..everywhere(TrafficPolicy::Cluster, TrafficPolicy::Local)
    };
    let found = forwarding(&service, &[], &Settings::default());
    let all: BTreeSet<_> =
        found.values().map(|service| (service.rules.affinity, service.rules.scheduler)).collect();
    let group = plan::AffinityGroup::of("default", "web", "", Protocol::Tcp);
    let affinity = plan::Affinity { group, timeout: std::time::Duration::from_secs(10) };
    assert_eq!(all, [(Some(affinity), Scheduler::Maglev)].into());
    let settings = Settings { absent_schedulers: [Scheduler::Maglev].into(), ..Settings::default() };
    let found = forwarding(&service, &[], &settings);
    assert!(found.values().all(|service| service.rules.scheduler == Scheduler::RoundRobin), "{found:?}");
}

// The same against a definition that is as plain as can be.

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let names = |names: [&'static str; 3]| {
        prop::sample::subsequence(names.map(Box::from).to_vec(), 0..=2)
            .prop_map(|names| names.into_iter().collect::<BTreeSet<Box<str>>>())
    };
    let hints = prop_oneof![
        1 => Just(None),
        3 => (names(["m1", "m2", "m3"]), names(["az-1", "az-2", "az-3"]))
            .prop_map(|(nodes, zones)| Some(Hints { nodes, zones }).filter(|hints| *hints != Hints::default()).map(Box::new)),
    ];
    let readiness = prop::sample::select(vec![READY, READY, UNREADY, LEAVING, Readiness::Gone]);
    let node = prop::option::of(prop::sample::select(vec!["m1", "m2"]).prop_map(Box::from));
    (readiness, 1..6_u8, node, hints).prop_map(|(readiness, last, node, hints)| Endpoint {
        readiness,
        address: [10, 1, 0, last].into(),
        node,
        hints,
    })
}

/// `CategorizeEndpoints`, word by word.
fn categorized(endpoints: &[&Endpoint], list: List) -> BTreeSet<std::net::IpAddr> {
    let ready: Vec<_> = endpoints.iter().filter(|it| it.readiness == READY).copied().collect();
    let leaving: Vec<_> = endpoints.iter().filter(|it| it.readiness == LEAVING).copied().collect();
    let local = |list: &[&Endpoint]| -> Vec<_> {
        list.iter().filter(|it| it.node.as_deref() == Some("m1")).map(|it| it.address).collect()
    };
    let chosen = match list {
        List::Local if local(&ready).is_empty() => local(&leaving),
        List::Local => local(&ready),
        List::Cluster if ready.is_empty() => leaving.iter().map(|it| it.address).collect(),
        List::Cluster => {
            let nodes = |it: &Endpoint| it.hints.as_ref().map_or(0, |hints| hints.nodes.len());
            let zones = |it: &Endpoint| it.hints.as_ref().map_or(0, |hints| hints.zones.len());
            let here = |it: &Endpoint| it.hints.as_ref().is_some_and(|hints| hints.nodes.contains("m1"));
            let zone = |it: &Endpoint| it.hints.as_ref().is_some_and(|hints| hints.zones.contains("az-1"));
            let by_node = ready.iter().all(|it| nodes(it) > 0) && ready.iter().any(|it| here(it));
            let by_zone = ready.iter().all(|it| zones(it) > 0) && ready.iter().any(|it| zone(it));
            let near = |it: &&Endpoint| if by_node { here(it) } else { !by_zone || zone(it) };
            ready.iter().copied().filter(near).map(|it| it.address).collect()
        }
    };
    chosen.into_iter().collect()
}

proptest! {
    #[test]
    fn lists_are_those_of_the_definition(
        endpoints in prop::collection::btree_map(1..6_u8, any_endpoint(), 0..6),
        split in 0..6_usize,
    ) {
        let endpoints: Vec<Endpoint> = endpoints
            .into_iter()
            .map(|(last, endpoint)| Endpoint { address: [10, 1, 0, last].into(), ..endpoint })
            .collect();
        let all: Vec<&Endpoint> = endpoints.iter().collect();
        let (cluster, local) = (categorized(&all, List::Cluster), categorized(&all, List::Local));
        let slices = [&endpoints[..split.min(endpoints.len())], &endpoints[split.min(endpoints.len())..]].map(|part| {
            let mut slice = slice(&http(), &[]);
            slice.groups[0].endpoints = part.into();
            slice
        });
        for (internal, external) in [
            (TrafficPolicy::Cluster, TrafficPolicy::Local),
            (TrafficPolicy::Local, TrafficPolicy::Cluster),
        ] {
            let found = forwarding(&everywhere(internal, external), &slices, &Settings::default());
            for (frontend, service) in &found {
                let is_cluster_address = frontend.address() == std::net::IpAddr::from([10, 0, 0, 1]);
                let bound = match frontend.audience() {
                    Audience::Outside => true,
                    Audience::Everyone => is_cluster_address && internal == TrafficPolicy::Local,
                };
                let expected = if bound { &local } else { &cluster };
                let backends: BTreeSet<_> = service.backends.keys().map(|backend| backend.address()).collect();
                prop_assert_eq!(&backends, expected, "{}", frontend);
                let drops = bound && !cluster.is_empty();
                prop_assert_eq!(service.rules.when_empty == WhenEmpty::Drop, drops, "{}", frontend);
            }
        }
    }

    #[test]
    fn slices_may_come_in_any_order(parts in prop::collection::vec(prop::collection::vec(any_endpoint(), 0..4), 0..4)) {
        let mut slices: Vec<Slice> = parts
            .into_iter()
            .map(|endpoints| {
                let mut slice = slice(&http(), &[]);
                slice.groups[0].endpoints = endpoints.into();
                slice
            })
            .collect();
        let service = everywhere(TrafficPolicy::Local, TrafficPolicy::Local);
        let found = forwarding(&service, &slices, &Settings::default());
        slices.reverse();
        for slice in &mut slices {
            slice.groups[0].endpoints.reverse();
        }
        prop_assert_eq!(forwarding(&service, &slices, &Settings::default()), found);
    }
}
