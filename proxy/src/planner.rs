//! From updates to the plan, at the cost of what they touch.
//!
//! For every Service it keeps what was derived from it, and for every frontend who claims it. An update leads to the
//! translation of the Services it touches and of nothing else; what comes out is the frontends whose rules differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use plan::{Forwarding, Frontend};

use crate::cluster::{Cluster, Feature, Name, Touched, Update};
use crate::translate::translate;

/// The cluster, and the plan that follows from it.
#[derive(Debug, Default)]
pub struct Planner {
    cluster: Cluster,
    derived: BTreeMap<Name, Derived>,
    claims: BTreeMap<Frontend, BTreeSet<Claim>>,
}

/// What came of taking in updates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The frontends whose rules may be different now: they changed, came, went or passed to another Service.
    pub frontends: BTreeSet<Frontend>,
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
    /// It asks for more than is done yet.
    Unserved {
        /// Who asks.
        service: Name,
        /// For what.
        features: BTreeSet<Feature>,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Derived {
    created: Option<SystemTime>,
    forwarding: Forwarding,
    unserved: BTreeSet<Feature>,
}

/// Ordered by age, so that the first has the frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Option<SystemTime>,
    service: Name,
}

impl Planner {
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
        }
        settled.touched = touched;
        settled
    }

    fn settle_service(&mut self, name: &Name, settled: &mut Settled) {
        let derived = self.cluster.service(name).map(|service| Derived {
            created: service.created,
            forwarding: translate(service, &self.cluster.slices(name)),
            unserved: service.unserved.clone(),
        });
        let known = self.derived.remove(name).unwrap_or_default();
        let (new, stays) = match derived {
            Some(derived) => (derived, true),
            None => (Derived::default(), false),
        };
        if new.unserved != known.unserved && !new.unserved.is_empty() {
            let features = new.unserved.clone();
            settled.remarks.push(Remark::Unserved { service: name.clone(), features });
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
    use crate::cluster::{Delta, Endpoint, EndpointPort, Group, Readiness, Service, ServicePort, Slice};

    fn name(name: impl std::fmt::Display) -> Name {
        Name::new(None, &format!("{name}"))
    }

    fn port(number: u16) -> Port {
        Port::new(number).expect("not 0")
    }

    fn service(created: u64, address: u8, ports: &[u16]) -> Service {
        let port =
            |number: &u16| ServicePort { name: String::new(), port: port(*number), protocol: Protocol::Tcp };
        Service {
            created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(created)),
            addresses: BTreeSet::from([[10, 0, 0, address].into()]),
            ports: ports.iter().map(port).collect(),
            unserved: BTreeSet::new(),
        }
    }

    fn slice(service: &str, endpoints: &[(u8, Readiness)]) -> Slice {
        let at = EndpointPort { name: String::new(), port: port(8080), protocol: Protocol::Tcp };
        let endpoint =
            |&(last, readiness): &(u8, Readiness)| Endpoint { address: [10, 1, 0, last].into(), readiness };
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
    fn what_is_not_served_is_remarked_once() {
        let mut planner = Planner::default();
        let affine = Service { unserved: BTreeSet::from([Feature::SessionAffinity]), ..service(1, 1, &[80]) };
        applied_service(&mut planner, "web", affine.clone());
        assert_eq!(planner.settle().remarks.len(), 1);
        applied_service(&mut planner, "web", Service { ports: Vec::new(), ..affine });
        assert_eq!(planner.settle().remarks, []);
    }

    fn any_readiness() -> impl Strategy<Value = Readiness> {
        prop_oneof![Just(Readiness::Ready), Just(Readiness::Leaving)]
    }

    fn any_service() -> impl Strategy<Value = Service> {
        // Few addresses and ports, so that Services contend.
        let ports = prop::sample::subsequence(vec![80, 443], 0..=2);
        (0..4u64, 1..4u8, ports).prop_map(|(created, address, ports)| service(created, address, &ports))
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
        ]
    }

    /// The plan by its definition: each Service translated, each frontend given to the oldest claimant.
    fn from_scratch(cluster: &Cluster) -> Forwarding {
        let mut services: Vec<_> = cluster.services().collect();
        services.sort_by_key(|(name, service)| (service.created, (*name).clone()));
        let mut forwarding = Forwarding::new();
        for (name, service) in services {
            for (frontend, rules) in translate(service, &cluster.slices(name)) {
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
            let (mut planner, mut reference) = (Planner::default(), Cluster::default());
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
