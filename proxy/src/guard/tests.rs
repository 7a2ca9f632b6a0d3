use super::*;
use crate::cluster::{Endpoint, Group, Readiness};

fn name(name: &str) -> Name {
    Name::new(None, name)
}

fn numbered(count: usize) -> impl Iterator<Item = Name> {
    (0..count).map(|number| name(&format!("s{number}")))
}

fn services(names: impl IntoIterator<Item = Name>) -> Update {
    let objects = names.into_iter().map(|name| (name, Service::default())).collect();
    Update::Services(Delta::Listed { objects, refused: BTreeSet::new() })
}

/// The slice of a Service, of the same name.
fn slice(service: &Name, endpoints: u8) -> Slice {
    let endpoint = |last| Endpoint {
        address: [10, 0, 0, last].into(),
        node: None,
        readiness: Readiness::Ready,
        hints: None,
    };
    let group = Group { ports: [].into(), endpoints: (0..endpoints).map(endpoint).collect() };
    Slice { service: service.clone(), groups: vec![group], triggered: None }
}

fn slices(of: impl IntoIterator<Item = Name>, endpoints: u8) -> Update {
    let objects = of.into_iter().map(|name| (name.clone(), slice(&name, endpoints))).collect();
    Update::Slices(Delta::Listed { objects, refused: BTreeSet::new() })
}

/// A guard, and the cluster behind it.
struct Site {
    guard: Guard,
    cluster: Cluster,
}

impl Site {
    /// That knows `count` Services with endpoints, and the API server's own.
    fn new(count: usize) -> Self {
        let mut site = Self { guard: Guard::new(true), cluster: Cluster::default() };
        let all = || numbered(count).chain([name("kubernetes")]);
        site.told(services(all()));
        site.told(slices(all(), 2));
        assert!(site.guard.held().is_nothing(), "what was never there is not missed");
        site
    }

    fn told(&mut self, update: Update) {
        for update in self.guard.admit(update, &self.cluster) {
            self.cluster.update(update);
        }
    }

    fn held(&self) -> (usize, usize) {
        (self.guard.held().services, self.guard.held().slices)
    }

    /// How many Services are in force, and how many have endpoints.
    fn in_force(&self) -> (usize, usize) {
        let served = |name: &&Name| self.cluster.slices(name).any(Slice::has_endpoints);
        let names: Vec<&Name> = self.cluster.services().map(|(name, _)| name).collect();
        (names.len(), names.iter().copied().filter(|name| served(name)).count())
    }
}

#[test]
fn a_list_is_doubted_when_nine_of_ten_and_no_fewer_than_three_are_missing() {
    let cases = [
        // Known, still listed, held.
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 3),
        (3, 1, 0),
        (10, 1, 9),
        (10, 2, 0),
        (10, 10, 0),
        (1000, 100, 900),
        (1000, 101, 0),
    ];
    for (known, listed, held) in cases {
        let mut site = Site::new(known);
        site.told(services(numbered(listed).chain([name("kubernetes")])));
        assert_eq!(site.held(), (held, 0), "services: {listed} of {known}");
        assert_eq!(site.in_force().0, listed + held + 1);
        let mut site = Site::new(known);
        site.told(slices(numbered(listed).chain([name("kubernetes")]), 1));
        assert_eq!(site.held(), (0, held), "endpoints: {listed} of {known}");
        assert_eq!(site.in_force().1, listed + held + 1);
    }
}

#[test]
fn the_api_servers_own_service_proves_nothing_and_an_empty_list_less() {
    for listed in [vec![], vec![name("kubernetes")]] {
        let mut site = Site::new(5);
        site.told(slices(listed.clone(), 1));
        site.told(services(listed));
        assert_eq!(site.held(), (5, 5));
    }
}

#[test]
fn slices_that_are_all_empty_are_as_good_as_gone() {
    let mut site = Site::new(5);
    site.told(slices(numbered(5), 0));
    assert_eq!((site.held(), site.in_force()), ((0, 5), (6, 5)));
}

#[test]
fn the_same_endpoints_by_other_names_are_no_loss() {
    let mut site = Site::new(5);
    let objects = numbered(5).map(|service| (name(&format!("{}-other", service.name)), slice(&service, 1)));
    site.told(Update::Slices(Delta::Listed { objects: objects.collect(), refused: BTreeSet::new() }));
    assert_eq!((site.held(), site.in_force()), ((0, 0), (6, 5)));
}

#[test]
fn objects_that_are_deleted_one_by_one_are_gone() {
    let mut site = Site::new(5);
    for name in numbered(5) {
        site.told(Update::Slices(Delta::Removed(name.clone())));
        site.told(Update::Services(Delta::Removed(name)));
    }
    assert_eq!((site.held(), site.in_force()), ((0, 0), (1, 1)));
}

#[test]
fn what_is_held_back_comes_back_or_goes_one_by_one() {
    let mut site = Site::new(4);
    site.told(services([]));
    site.told(slices([], 1));
    let [first, second, third, ..] = [0, 1, 2, 3].map(|number| name(&format!("s{number}")));
    site.told(Update::Services(Delta::Applied(first.clone(), Service::default())));
    site.told(Update::Slices(Delta::Applied(first.clone(), slice(&first, 1))));
    assert_eq!(site.held(), (3, 3));
    site.told(Update::Services(Delta::Removed(second.clone())));
    site.told(Update::Slices(Delta::Removed(second)));
    assert_eq!((site.held(), site.in_force()), ((2, 2), (3, 3)));
    // New endpoints stand for those that are held back.
    let other = name("other");
    site.told(Update::Slices(Delta::Applied(other.clone(), slice(&third, 0))));
    assert_eq!(site.held(), (2, 2), "an empty slice stands for nothing");
    site.told(Update::Slices(Delta::Applied(other, slice(&third, 1))));
    assert_eq!(site.held(), (2, 1));
    // A list that still lacks the rest takes nothing away, and what it has is held back no more.
    site.told(services([first, third]));
    assert_eq!((site.held(), site.in_force().0), ((1, 1), 3));
}

#[test]
fn an_operator_lets_everything_go() {
    let mut site = Site::new(4);
    site.told(slices([], 1));
    site.told(services([]));
    for update in site.guard.release() {
        site.cluster.update(update);
    }
    assert_eq!((site.held(), site.in_force()), ((0, 0), (0, 0)));
}

#[test]
fn without_the_guard_every_list_is_believed() {
    let mut site = Site { guard: Guard::new(false), ..Site::new(5) };
    site.told(services([]));
    site.told(slices([], 1));
    assert_eq!((site.held(), site.in_force()), ((0, 0), (0, 0)));
}

fn frontend(port: u16) -> Frontend {
    Frontend::new([10, 0, 0, 1].into(), plan::Port::new(port).expect("not 0"), plan::Protocol::Tcp)
}

fn served(ports: std::ops::RangeInclusive<u16>) -> Forwarding {
    let backend = plan::Backend::new([10, 1, 0, 1].into(), plan::Port::new(80).expect("not 0"));
    let service = plan::Service::from_iter([backend]);
    ports.map(|port| (frontend(port), service.clone())).collect()
}

#[test]
fn a_start_with_empty_lists_leaves_the_kernel_as_it_was() {
    let refusing = |ports| -> Forwarding {
        let served = served(ports).into_keys();
        served.map(|frontend| (frontend, plan::Service::default())).collect()
    };
    let cases = [
        ("everything is gone", served(1..=4), Forwarding::new(), 4),
        ("no endpoint is left", served(1..=4), refusing(1..=4), 4),
        ("most of it is there", served(1..=4), served(1..=2), 0),
        ("there was not much", served(1..=2), Forwarding::new(), 0),
        ("nobody was served", refusing(1..=9), Forwarding::new(), 0),
    ];
    for (case, found, desired, held) in cases {
        let mut guard = Guard::new(true);
        guard.adopt(&found, &desired, |_| true);
        assert_eq!(guard.held().frontends, held, "{case}");
        let mut wanted = desired.clone();
        guard.wanted_of_all(&mut wanted);
        assert_eq!(wanted, if held > 0 { found.clone() } else { desired }, "{case}");
        let mut off = Guard::new(false);
        off.adopt(&found, &Forwarding::new(), |_| true);
        assert!(off.held().is_nothing(), "{case}");
    }
}

#[test]
fn a_frontend_that_is_served_again_is_the_plans() {
    let mut guard = Guard::new(true);
    let found = served(1..=4);
    guard.adopt(&found, &Forwarding::new(), |at| at != frontend(4));
    assert_eq!(guard.held().frontends, 3, "the API server's own proves nothing");
    let refusing = plan::Service::default();
    assert_eq!(guard.wanted(frontend(1), Some(&refusing)), found.get(&frontend(1)));
    let other = served(9..=9).remove(&frontend(9)).expect("there");
    assert_eq!(guard.wanted(frontend(1), Some(&other)), Some(&other));
    assert_eq!(guard.wanted(frontend(1), None), None, "from then on the plan says what holds");
    assert_eq!(guard.held().frontends, 2);
    assert_eq!(guard.release().len(), 0);
    assert_eq!(guard.wanted(frontend(2), None), None);
}
