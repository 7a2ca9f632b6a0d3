use std::time::Duration;

use plan::{Observed, Port, Protocol};
use proptest::prelude::*;

use super::*;
use crate::cluster::{Delta, Endpoint, EndpointPort, Group, Node, ServicePort, TrafficPolicy};

fn name(name: impl std::fmt::Display) -> Name {
    Name::new(None, &format!("{name}"))
}

fn port(number: u16) -> Port {
    Port::new(number).expect("not 0")
}

fn service(created: u64, address: u8, ports: &[u16]) -> Service {
    let port = |number: &u16| ServicePort {
        name: "".into(),
        port: port(*number),
        protocol: Protocol::Tcp,
        node_port: None,
    };
    Service {
        created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(created)),
        addresses: BTreeSet::from([[10, 0, 0, address].into()]),
        ports: ports.iter().map(port).collect(),
        ..Service::default()
    }
}

fn slice(service: &str, endpoints: &[(u8, Readiness)]) -> Slice {
    let at = EndpointPort { name: "".into(), port: port(8080), protocol: Protocol::Tcp };
    // Those with an even number are here.
    let endpoint = |&(last, readiness): &(u8, Readiness)| Endpoint {
        readiness,
        address: [10, 1, 0, last].into(),
        node: Some(if last.is_multiple_of(2) { "here" } else { "there" }.into()),
        hints: None,
    };
    let group = Group { ports: [at].into(), endpoints: endpoints.iter().map(endpoint).collect() };
    Slice { service: name(service), groups: vec![group], triggered: None }
}

fn applied_service(planner: &mut Planner, of: &str, service: Service) {
    planner.update(Update::Services(Delta::Applied(name(of), service)));
}

/// The first backend's last byte, which in these tests says whose rules they are.
fn holder(planner: &Planner) -> Option<u8> {
    let frontend = Frontend::new([10, 0, 0, 1].into(), port(80), Protocol::Tcp);
    let backend = planner.desired(frontend)?.backends.keys().next()?;
    let address = backend.address().to_string();
    address.rsplit('.').next().and_then(|last| last.parse().ok())
}

#[test]
fn the_older_service_has_a_contested_address_until_it_goes() {
    let mut planner = Planner::default();
    for (which, last) in [("young", 2), ("old", 1)] {
        let slice = slice(which, &[(last, Readiness::Ready)]);
        planner.update(Update::Slices(Delta::Applied(name(which), slice)));
    }
    applied_service(&mut planner, "young", service(20, 1, &[80]));
    planner.settle();
    assert_eq!(holder(&planner), Some(2));
    applied_service(&mut planner, "old", service(10, 1, &[80]));
    let settled = planner.settle();
    assert_eq!(holder(&planner), Some(1));
    assert_eq!(settled.frontends.len(), 1);
    let frontend = *settled.frontends.first().expect("one");
    let remark = Remark::Claimed { frontend, winner: name("old"), loser: name("young") };
    assert_eq!(settled.remarks, [remark]);
    planner.update(Update::Slices(Delta::Applied(name("young"), slice("young", &[(3, Readiness::Ready)]))));
    assert!(planner.settle().frontends.is_empty(), "the loser's endpoints change no rule");
    planner.update(Update::Services(Delta::Removed(name("old"))));
    assert_eq!(planner.settle().frontends.len(), 1);
    assert_eq!(holder(&planner), Some(3));
}

#[test]
fn what_cannot_be_followed_is_remarked_once() {
    let mut planner = Planner::default();
    let scheduler = Disregarded::Scheduler("rr".into());
    let odd = Service { disregarded: BTreeSet::from([scheduler]), ..service(1, 1, &[80]) };
    applied_service(&mut planner, "web", odd.clone());
    assert_eq!(planner.settle().remarks.len(), 1);
    applied_service(&mut planner, "web", Service { ports: Vec::new(), ..odd });
    assert_eq!(planner.settle().remarks, []);
}

fn exposed(created: u64, address: u8, ports: &[u16]) -> Service {
    let mut service = service(created, address, ports);
    for port in &mut service.ports {
        port.node_port = Port::new(30_000 + port.port.number());
    }
    Service { external_policy: TrafficPolicy::Local, ..service }
}

fn node(last: u8) -> Update {
    let node = Node { addresses: vec![[172, 16, 0, last].into()], ..Node::default() };
    Update::Node(Delta::Applied(name("here"), node))
}

#[test]
fn a_node_without_an_address_is_remarked_until_it_has_one() {
    let mut planner = Planner::new("here", Settings::default());
    applied_service(&mut planner, "web", exposed(1, 1, &[80]));
    assert_eq!(planner.settle().remarks, [Remark::NoNodeAddress { service: name("web") }]);
    applied_service(&mut planner, "shop", exposed(1, 2, &[81]));
    assert_eq!(planner.settle().remarks, []);
    assert_eq!(planner.forwarding().len(), 2, "cluster addresses are served all the same");
    planner.update(node(1));
    let settled = planner.settle();
    assert_eq!(settled.remarks, []);
    assert_eq!(settled.frontends.len(), 4, "each node port for everyone and for outside");
    assert_eq!(planner.forwarding().len(), 6);
}

#[test]
fn a_load_balancer_is_told_of_ready_endpoints_on_this_node() {
    let mut planner = Planner::new("here", Settings::default());
    let checked = Service { health_check: Port::new(32_000), ..exposed(1, 1, &[80]) };
    applied_service(&mut planner, "web", checked.clone());
    let told = |planner: &mut Planner| {
        assert!(planner.settle().health_checks_differ);
        planner
            .health_checks()
            .services
            .get(&name("web"))
            .map(|check| (check.port.number(), check.local_endpoints))
    };
    assert_eq!(told(&mut planner), Some((32_000, 0)));
    let endpoints =
        [(1, Readiness::Ready), (2, Readiness::Ready), (4, Readiness::Leaving), (6, Readiness::Ready)];
    for part in ["a", "b"] {
        planner.update(Update::Slices(Delta::Applied(name(part), slice("web", &endpoints))));
    }
    assert_eq!(
        told(&mut planner),
        Some((32_000, 2)),
        "each once, and neither those elsewhere nor those leaving"
    );
    applied_service(&mut planner, "web", Service { health_check: Port::new(32_001), ..checked.clone() });
    assert_eq!(told(&mut planner), Some((32_001, 2)));
    applied_service(&mut planner, "web", Service { health_check: None, ..checked });
    assert_eq!(told(&mut planner), None);
    planner.update(node(1));
    assert!(planner.settle().health_checks_differ, "they ask elsewhere");
    assert_eq!(planner.health_checks().addresses, [[172, 16, 0, 1].into()].into());
    assert!(!planner.settle().health_checks_differ);
}

#[test]
fn services_whose_policy_leaves_them_nobody_here_are_counted() {
    let mut planner = Planner::new("here", Settings::default());
    planner.update(node(1));
    applied_service(&mut planner, "web", exposed(1, 1, &[80]));
    let internal = Service { internal_policy: TrafficPolicy::Local, ..service(1, 2, &[80, 81]) };
    applied_service(&mut planner, "shop", internal);
    let mut counted = |endpoints: &[(u8, Readiness)]| {
        for of in ["web", "shop"] {
            planner.update(Update::Slices(Delta::Applied(name(of), slice(of, endpoints))));
        }
        planner.settle();
        [PolicyOf::Internal, PolicyOf::External].map(|policy| planner.stranded(policy, Family::Ipv4))
    };
    assert_eq!(counted(&[]), [0, 0], "they have no endpoints at all");
    assert_eq!(counted(&[(1, Readiness::Ready)]), [1, 1], "those with an odd number are elsewhere");
    assert_eq!(counted(&[(1, Readiness::Ready), (2, Readiness::Ready)]), [0, 0]);
}

fn any_readiness() -> impl Strategy<Value = Readiness> {
    prop_oneof![Just(Readiness::Ready), Just(Readiness::Leaving), Just(Readiness::Unready)]
}

fn any_service() -> impl Strategy<Value = Service> {
    // Few addresses and ports, so that Services contend.
    let ports = prop::sample::subsequence(vec![80, 443], 0..=2);
    (0..4u64, 1..4u8, ports, any::<bool>()).prop_map(|(created, address, ports, is_exposed)| {
        let make = if is_exposed { exposed } else { service };
        make(created, address, &ports)
    })
}

fn any_slice() -> impl Strategy<Value = Slice> {
    let endpoints = prop::collection::vec((1..5u8, any_readiness()), 0..4);
    (0..4u8, endpoints).prop_map(|(of, endpoints)| slice(&of.to_string(), &endpoints))
}

fn listed<T: std::fmt::Debug + Clone>(object: impl Strategy<Value = T>) -> impl Strategy<Value = Delta<T>> {
    let objects = prop::collection::btree_map((0..4u8).prop_map(name), object, 0..4);
    let refused = prop::collection::btree_set((0..4u8).prop_map(name), 0..2);
    (objects, refused).prop_map(|(objects, refused)| Delta::Listed { objects, refused })
}

fn any_update() -> impl Strategy<Value = Update> {
    let any_name = || (0..4u8).prop_map(name);
    prop_oneof![
        6 => (any_name(), any_service()).prop_map(|(of, it)| Update::Services(Delta::Applied(of, it))),
        6 => (any_name(), any_slice()).prop_map(|(of, it)| Update::Slices(Delta::Applied(of, it))),
        2 => any_name().prop_map(|of| Update::Services(Delta::Removed(of))),
        2 => any_name().prop_map(|of| Update::Slices(Delta::Removed(of))),
        1 => listed(any_service()).prop_map(Update::Services),
        1 => listed(any_slice()).prop_map(Update::Slices),
        1 => (1..3u8).prop_map(node),
    ]
}

/// The plan by its definition: each Service translated, each frontend given to the oldest claimant.
fn from_scratch(cluster: &Cluster) -> Forwarding {
    let mut services: Vec<_> = cluster.services().collect();
    services.sort_by_key(|(name, service)| (service.created, (*name).clone()));
    let mut forwarding = Forwarding::new();
    for (name, service) in services {
        for (frontend, rules) in
            translate(name, service, &cluster.slices(name), cluster.here(), &Settings::default())
        {
            forwarding.entry(frontend).or_insert(rules);
        }
    }
    forwarding
}

fn claims_of(planner: &Planner) -> BTreeSet<(Name, Frontend)> {
    let claims = planner.claims.iter();
    claims
        .flat_map(|(frontend, claims)| claims.iter().map(|claim| (claim.service.clone(), *frontend)))
        .collect()
}

proptest! {
    /// However updates come and however often they are settled, the plan is that of the whole cluster; steps at the
    /// frontends that are said to differ lead there; and those frontends are claimed by Services that were touched.
    #[test]
    fn step_by_step_equals_from_scratch(updates in prop::collection::vec((any_update(), any::<bool>()), 1..40)) {
        let mut planner = Planner::new("here", Settings::default());
        let mut reference = Cluster::new("here");
        let mut applied = Observed::default();
        for (update, settle) in updates {
            planner.update(update.clone());
            reference.update(update);
            if settle {
                let claims = claims_of(&planner);
                let settled = planner.settle();
                for &frontend in &settled.frontends {
                    let found = applied.services.get(&frontend);
                    for change in plan::diff_frontend(frontend, found, planner.desired(frontend)) {
                        applied.advance(&change);
                    }
                }
                let desired = from_scratch(&reference);
                prop_assert_eq!(&planner.forwarding(), &desired);
                prop_assert_eq!(&applied.forwarding(), &desired);
                let claimed = [claims, claims_of(&planner)];
                for frontend in &settled.frontends {
                    let mut names = settled.touched.services.iter();
                    let touched = names.any(|name| claimed.iter().any(|claims| claims.contains(&(name.clone(), *frontend))));
                    prop_assert!(touched, "nobody touched {}", frontend);
                }
            }
        }
    }
}
