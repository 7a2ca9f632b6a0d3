//! From updates to the plan, at the cost of what they touch.
//!
//! For every Service it keeps what was derived from it, and for every frontend who claims it. An update leads to the
//! translation of the Services it touches and of nothing else; what comes out is the frontends whose rules differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use plan::{Forwarding, Frontend, Port};

use crate::cluster::{Cluster, Disregarded, Family, Here, Name, Readiness, Service, Slice, Touched, Update};
use crate::translate::{Settings, translate};

/// The cluster, and the plan that follows from it.
#[derive(Debug, Default)]
pub struct Planner {
    settings: Settings,
    cluster: Cluster,
    derived: BTreeMap<Name, Derived>,
    claims: BTreeMap<Frontend, BTreeSet<Claim>>,
    health_checks: HealthChecks,
    /// Whether it has been said that node ports are served nowhere.
    homeless: bool,
}

/// What load balancers in front of this node are to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthChecks {
    /// Where they ask: at the addresses of node ports.
    pub addresses: BTreeSet<IpAddr>,
    /// Of which Services.
    pub services: BTreeMap<Name, HealthCheck>,
}

/// What a load balancer is to be told that asks whether it should send a Service's traffic to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: Port,
    /// How many endpoints of the Service are ready on this node. One of two families counts once.
    pub local_endpoints: usize,
}

/// What came of taking in updates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The frontends whose rules may be different now: they changed, came, went or passed to another Service.
    pub frontends: BTreeSet<Frontend>,
    /// Whether load balancers are to be told something else than before.
    pub health_checks_differ: bool,
    /// What an operator should hear.
    pub remarks: Vec<Remark>,
    /// What was taken in.
    pub touched: Touched,
}

/// A Service that is not served as its author meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// Two Services claim one frontend.
    Claimed {
        /// What both claim.
        frontend: Frontend,
        /// Who has it: the older one.
        winner: Name,
        /// Who does not.
        loser: Name,
    },
    /// Parts of it cannot be followed.
    Disregarded {
        /// Whose parts.
        service: Name,
        /// Which.
        parts: BTreeSet<Disregarded>,
    },
    /// It has node ports, and the node has no address to serve them at.
    NoNodeAddress {
        /// The first that was met; others may be concerned.
        service: Name,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Derived {
    created: Option<SystemTime>,
    forwarding: Forwarding,
    disregarded: BTreeSet<Disregarded>,
}

/// Ordered by age, so that the first has the frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Option<SystemTime>,
    service: Name,
}

impl Planner {
    /// For the node of this name, on which Services are served by `settings`.
    pub fn new(node: impl Into<String>, settings: Settings) -> Self {
        Self { settings, cluster: Cluster::new(node), ..Self::default() }
    }

    /// Takes in what a source learnt; what follows from it comes with [`Planner::settle`].
    pub fn update(&mut self, update: Update) {
        self.cluster.update(update);
    }

    /// Whether every kind has been listed once. Before that the plan must not be carried out: what it lacks may exist.
    pub fn is_complete(&self) -> bool {
        self.cluster.is_complete()
    }

    /// What was taken in since the plan was last settled.
    pub const fn touched(&self) -> &Touched {
        self.cluster.touched()
    }

    /// What the rules of `frontend` should be; `None` where nobody claims it.
    pub fn desired(&self, frontend: Frontend) -> Option<&plan::Service> {
        let claim = self.claims.get(&frontend)?.first()?;
        self.derived.get(&claim.service)?.forwarding.get(&frontend)
    }

    /// Whose rules those of `frontend` are.
    pub fn holder(&self, frontend: Frontend) -> Option<&Name> {
        self.claims.get(&frontend)?.first().map(|claim| &claim.service)
    }

    /// What is known of the cluster.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How Services are served here.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What load balancers are to be told, as last settled.
    pub const fn health_checks(&self) -> &HealthChecks {
        &self.health_checks
    }

    /// The whole plan as last settled.
    pub fn forwarding(&self) -> Forwarding {
        let desired = |&frontend| Some((frontend, self.desired(frontend)?.clone()));
        self.claims.keys().filter_map(desired).collect()
    }

    /// Derives the plan of the touched Services anew.
    pub fn settle(&mut self) -> Settled {
        let touched = self.cluster.take_touched();
        let mut settled = Settled::default();
        for name in &touched.services {
            self.settle_service(name, &mut settled);
            settled.health_checks_differ |= self.settle_health_check(name);
        }
        let at = self.settings.node_port_addresses.of(self.cluster.here());
        if self.health_checks.addresses != at {
            settled.health_checks_differ = true;
            self.health_checks.addresses.clone_from(&at);
        }
        let mut names = touched.services.iter().filter(|_| at.is_empty());
        let homeless =
            names.find(|name| self.cluster.service(name).is_some_and(Service::is_at_node_addresses));
        match homeless {
            Some(name) if !self.homeless => {
                settled.remarks.push(Remark::NoNodeAddress { service: name.clone() });
            }
            Some(_) | None => {}
        }
        self.homeless = at.is_empty() && (self.homeless || homeless.is_some());
        settled.touched = touched;
        settled
    }

    /// Whether something else is to be told.
    fn settle_health_check(&mut self, name: &Name) -> bool {
        let slices = self.cluster.slices(name);
        let port = self.cluster.service(name).and_then(|service| service.health_check);
        let check = port
            .map(|port| HealthCheck { port, local_endpoints: local_endpoints(slices, self.cluster.here()) });
        let known = match check {
            Some(check) => self.health_checks.services.insert(name.clone(), check),
            None => self.health_checks.services.remove(name),
        };
        known != check
    }

    fn settle_service(&mut self, name: &Name, settled: &mut Settled) {
        let here = self.cluster.here();
        let derived = self.cluster.service(name).map(|service| Derived {
            created: service.created,
            forwarding: translate(name, service, &self.cluster.slices(name), here, &self.settings),
            disregarded: disregarded(service, &self.settings),
        });
        let known = self.derived.remove(name).unwrap_or_default();
        let (new, stays) = match derived {
            Some(derived) => (derived, true),
            None => (Derived::default(), false),
        };
        if new.disregarded != known.disregarded && !new.disregarded.is_empty() {
            let parts = new.disregarded.clone();
            settled.remarks.push(Remark::Disregarded { service: name.clone(), parts });
        }
        let old_claim = Claim { created: known.created, service: name.clone() };
        let new_claim = Claim { created: new.created, service: name.clone() };
        let mut frontends: BTreeSet<Frontend> = known.forwarding.keys().copied().collect();
        frontends.extend(new.forwarding.keys());
        for frontend in frontends {
            let claims = self.claims.entry(frontend).or_default();
            let holder = claims.first().cloned();
            let rivals = claims.len();
            claims.remove(&old_claim);
            if new.forwarding.contains_key(&frontend) {
                claims.insert(new_claim.clone());
            }
            let contested = claims.len() > rivals.max(1) || claims.first() != holder.as_ref();
            if contested {
                settled.remarks.extend(lost_claims(frontend, claims));
            }
            let ours =
                [holder.as_ref(), claims.first()].into_iter().flatten().any(|claim| claim.service == *name);
            let moved =
                claims.first().map(|claim| &claim.service) != holder.as_ref().map(|claim| &claim.service);
            let changed = known.forwarding.get(&frontend) != new.forwarding.get(&frontend);
            if ours && (moved || changed) {
                settled.frontends.insert(frontend);
            }
            if claims.is_empty() {
                self.claims.remove(&frontend);
            }
        }
        if stays {
            self.derived.insert(name.clone(), new);
        }
    }
}

fn disregarded(service: &Service, settings: &Settings) -> BTreeSet<Disregarded> {
    let absent = service.scheduler.filter(|scheduler| settings.absent_schedulers.contains(scheduler));
    service.disregarded.iter().cloned().chain(absent.map(Disregarded::AbsentScheduler)).collect()
}

/// The ready endpoints on this node of the family that has more of them, whatever their ports.
fn local_endpoints<'a>(slices: impl Iterator<Item = &'a Slice>, here: &Here) -> usize {
    let endpoints = slices.flat_map(|slice| &slice.groups).flat_map(|group| &group.endpoints);
    let local = endpoints.filter(|endpoint| {
        endpoint.readiness == Readiness::Ready && endpoint.node.as_deref() == Some(&here.name)
    });
    let addresses: BTreeSet<IpAddr> = local.map(|endpoint| endpoint.address).collect();
    let of_family = |family| addresses.iter().filter(|address| Family::of(**address) == family).count();
    Family::ALL.into_iter().map(of_family).max().unwrap_or_default()
}

fn lost_claims(frontend: Frontend, claims: &BTreeSet<Claim>) -> Vec<Remark> {
    let Some(winner) = claims.first() else { return Vec::new() };
    let remark = |loser: &Claim| Remark::Claimed {
        frontend,
        winner: winner.service.clone(),
        loser: loser.service.clone(),
    };
    claims.iter().skip(1).map(remark).collect()
}

#[cfg(test)]
mod tests {
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
            name: String::new(),
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
        let at = EndpointPort { name: String::new(), port: port(8080), protocol: Protocol::Tcp };
        // Those with an even number are here.
        let endpoint = |&(last, readiness): &(u8, Readiness)| Endpoint {
            readiness,
            address: [10, 1, 0, last].into(),
            node: Some(if last.is_multiple_of(2) { "here" } else { "there" }.into()),
            hints: None,
        };
        let group = Group { ports: vec![at], endpoints: endpoints.iter().map(endpoint).collect() };
        Slice { service: name(service), groups: vec![group], triggered: None }
    }

    fn applied_service(planner: &mut Planner, of: &str, service: Service) {
        planner.update(Update::Services(Delta::Applied(name(of), service)));
    }

    /// The first backend's last byte, which in these tests says whose rules they are.
    fn holder(planner: &Planner) -> Option<u8> {
        let frontend = Frontend::new([10, 0, 0, 1].into(), port(80), Protocol::Tcp);
        let backend = planner.desired(frontend)?.backends.first()?;
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
        planner
            .update(Update::Slices(Delta::Applied(name("young"), slice("young", &[(3, Readiness::Ready)]))));
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

    fn listed<T: std::fmt::Debug + Clone>(
        object: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Delta<T>> {
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
}
