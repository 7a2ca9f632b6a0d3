//! From updates to the plan, at the cost of what they touch.
//!
//! For every Service it keeps what was derived from it, and for every frontend who claims it. An update leads to the
//! translation of the Services it touches and of nothing else; what comes out is the frontends whose rules differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use plan::{Audience, Forwarding, Frontend, Ground, Port, WhenEmpty};

use crate::cluster::{Cluster, Disregarded, Family, Here, Name, Readiness, Service, Slice, Touched, Update};
use crate::translate::{Settings, translate};

/// The cluster, and the plan that follows from it.
#[derive(Debug, Default)]
pub struct Planner {
    settings: Settings,
    cluster: Cluster,
    derived: BTreeMap<Name, Derived>,
    /// The oldest first, who has it; nearly always the only one.
    claims: BTreeMap<Frontend, Vec<Claim>>,
    health_checks: HealthChecks,
    /// How many Services are stranded in each way.
    stranded: BTreeMap<(PolicyOf, Family), usize>,
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

/// Which of a Service's traffic policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyOf {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Derived {
    created: Option<SystemTime>,
    /// In the order of the frontends: a map would take many times as much for one or two.
    forwarding: Box<[(Frontend, plan::Service)]>,
    /// In which ways it has endpoints, and the traffic policy `Local` leaves none of them.
    stranded: BTreeSet<(PolicyOf, Family)>,
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
        self.derived.get(&claim.service)?.at(frontend)
    }

    /// Whose an address is where no service has the port.
    pub fn ground(&self, address: IpAddr) -> Ground {
        let mut frontends = self.claims.range(Frontend::all_at(address)).map(|(frontend, _)| *frontend);
        if frontends.any(|frontend| self.desired(frontend).is_some_and(|service| service.rules.exclusive)) {
            return Ground::Services;
        }
        let cidrs = self.cluster.service_cidrs().unwrap_or_default();
        if cidrs.iter().any(|cidr| cidr.contains(&address)) { Ground::Unallocated } else { Ground::Others }
    }

    /// Whose rules those of `frontend` are.
    pub fn holder(&self, frontend: Frontend) -> Option<&Name> {
        self.claims.get(&frontend)?.first().map(|claim| &claim.service)
    }

    /// What is known of the cluster.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Serves by other settings from now on; what follows from them comes with [`Planner::settle`].
    pub fn follow(&mut self, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.cluster.touch_all();
        }
    }

    /// How Services are served here.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What load balancers are to be told, as last settled.
    pub const fn health_checks(&self) -> &HealthChecks {
        &self.health_checks
    }

    /// How many Services have endpoints in this family of which a traffic policy `Local` leaves none, so that it drops
    /// whoever comes.
    pub fn stranded(&self, policy: PolicyOf, family: Family) -> usize {
        self.stranded.get(&(policy, family)).copied().unwrap_or_default()
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
        let derived = self.cluster.service(name).map(|service| {
            let forwarding = translate(name, service, &self.cluster.slices(name), here, &self.settings);
            Derived {
                created: service.created,
                stranded: stranded(&forwarding),
                forwarding: forwarding.into_iter().collect(),
                disregarded: disregarded(service, &self.settings),
            }
        });
        let known = self.derived.remove(name).unwrap_or_default();
        let (new, stays) = match derived {
            Some(derived) => (derived, true),
            None => (Derived::default(), false),
        };
        for way in &known.stranded {
            *self.stranded.entry(*way).or_default() -= 1;
        }
        for way in &new.stranded {
            *self.stranded.entry(*way).or_default() += 1;
        }
        if new.disregarded != known.disregarded && !new.disregarded.is_empty() {
            let parts = new.disregarded.clone();
            settled.remarks.push(Remark::Disregarded { service: name.clone(), parts });
        }
        let old_claim = Claim { created: known.created, service: name.clone() };
        let new_claim = Claim { created: new.created, service: name.clone() };
        let frontends = known.forwarding.iter().chain(&new.forwarding).map(|(frontend, _)| *frontend);
        let frontends: BTreeSet<Frontend> = frontends.collect();
        for frontend in frontends {
            let claims = self.claims.entry(frontend).or_default();
            let holder = claims.first().cloned();
            let rivals = claims.len();
            claims.retain(|claim| *claim != old_claim);
            if new.at(frontend).is_some() {
                let place = claims.partition_point(|claim| *claim < new_claim);
                claims.reserve_exact(1);
                claims.insert(place, new_claim.clone());
            }
            let contested = claims.len() > rivals.max(1) || claims.first() != holder.as_ref();
            if contested {
                settled.remarks.extend(lost_claims(frontend, claims));
            }
            let ours =
                [holder.as_ref(), claims.first()].into_iter().flatten().any(|claim| claim.service == *name);
            let moved =
                claims.first().map(|claim| &claim.service) != holder.as_ref().map(|claim| &claim.service);
            let changed = known.at(frontend) != new.at(frontend);
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

impl Derived {
    /// The rules of `frontend`.
    fn at(&self, frontend: Frontend) -> Option<&plan::Service> {
        let place = self.forwarding.binary_search_by_key(&frontend, |(frontend, _)| *frontend).ok()?;
        self.forwarding.get(place).map(|(_, service)| service)
    }
}

/// Clients are dropped, and not refused, where all endpoints are elsewhere.
fn stranded(forwarding: &Forwarding) -> BTreeSet<(PolicyOf, Family)> {
    let empty = forwarding
        .iter()
        .filter(|(_, service)| service.backends.is_empty() && service.rules.when_empty == WhenEmpty::Drop);
    let way = |frontend: &Frontend| {
        let policy = match frontend.audience() {
            Audience::Everyone => PolicyOf::Internal,
            Audience::Outside => PolicyOf::External,
        };
        (policy, Family::of(frontend.address()))
    };
    empty.map(|(frontend, _)| way(frontend)).collect()
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

fn lost_claims(frontend: Frontend, claims: &[Claim]) -> Vec<Remark> {
    let Some(winner) = claims.first() else { return Vec::new() };
    let remark = |loser: &Claim| Remark::Claimed {
        frontend,
        winner: winner.service.clone(),
        loser: loser.service.clone(),
    };
    claims.iter().skip(1).map(remark).collect()
}

#[cfg(test)]
mod tests;
