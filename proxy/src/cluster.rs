//! What the cluster wants: Services, and the endpoints behind them. A pure index.
//!
//! Sources (an API server, a directory of manifests) tell it what they learnt as [`Update`]s. It remembers which
//! Services an update touches, so that what follows costs as much as those Services and not as the cluster.

mod endpoints;
pub mod kind;
pub mod node;
mod refusal;
mod service;
mod service_cidr;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

pub use endpoints::{Endpoint, EndpointPort, Group, Hints, Readiness, SERVICE_NAME_LABEL, Slice};
pub use kind::Kind;
pub use node::{Here, Node, Standing};
pub use refusal::Refusal;
pub use service::{
    Disregarded, HEADLESS_LABEL, PROXY_NAME_LABEL, SCHEDULER_ANNOTATION, Service, ServicePort, TrafficPolicy,
};
pub use service_cidr::ServiceCidr;

/// The name of an object within the cluster. Copies share its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Name {
    /// The name of an object; without a namespace it is in `default`.
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The families of addresses, as kube-proxy's metrics spell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `IPv4`.
    Ipv4,
    /// `IPv6`.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The family's name in the API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

/// What a source learnt.
#[derive(Clone, Debug)]
pub enum Update {
    /// About Services.
    Services(Delta<Service>),
    /// About endpoints.
    Slices(Delta<Slice>),
    /// About the Node that this process runs on, and no other.
    Node(Delta<Node>),
    /// About the networks that cluster addresses come from.
    ServiceCidrs(Delta<ServiceCidr>),
    /// The Node is not to be waited for any longer.
    NodeUnknown,
    /// About the addresses of this node's interfaces: all there are.
    Interfaces(BTreeSet<IpAddr>),
}

/// What a source learnt about objects of one kind.
#[derive(Clone, Debug)]
pub enum Delta<T> {
    /// All there are: what is not among them is gone.
    Listed {
        /// The objects that were understood.
        objects: BTreeMap<Name, T>,
        /// Those that were not: what was known of them before stays in force.
        refused: BTreeSet<Name>,
    },
    /// One is there, or is different.
    Applied(Name, T),
    /// One is gone, or needs no proxy any more.
    Removed(Name),
}

/// The index.
#[derive(Debug, Default)]
pub struct Cluster {
    here: Here,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, Slice>,
    /// Nearly all have one.
    slices_by_service: BTreeMap<Name, Vec<Name>>,
    /// `None` before they were listed. They are not waited for.
    service_cidrs: Option<BTreeMap<Name, ServiceCidr>>,
    services_listed: bool,
    slices_listed: bool,
    node_listed: bool,
    touched: Touched,
}

/// What updates have touched since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The Services to translate anew.
    pub services: BTreeSet<Name>,
    /// Changed Service objects.
    pub service_changes: usize,
    /// Changed objects with endpoints.
    pub slice_changes: usize,
    /// When the changes happened that these endpoints tell of, where that is known.
    pub triggers: Vec<(Family, SystemTime)>,
}

impl Cluster {
    /// As this node sees it.
    pub fn new(node: impl Into<String>) -> Self {
        Self { here: Here { name: node.into(), ..Here::default() }, ..Self::default() }
    }

    /// Takes in what a source learnt. What it knew already touches nothing.
    pub fn update(&mut self, update: Update) {
        match update {
            Update::Services(Delta::Applied(name, service)) => self.set_service(name, Some(service)),
            Update::Services(Delta::Removed(name)) => self.set_service(name, None),
            Update::Services(Delta::Listed { objects, refused }) => {
                for name in vanished(&self.services, &objects, &refused) {
                    self.set_service(name, None);
                }
                for (name, service) in objects {
                    self.set_service(name, Some(service));
                }
                self.services_listed = true;
            }
            Update::Slices(Delta::Applied(name, slice)) => self.set_slice(name, Some(slice)),
            Update::Slices(Delta::Removed(name)) => self.set_slice(name, None),
            Update::Slices(Delta::Listed { objects, refused }) => {
                for name in vanished(&self.slices, &objects, &refused) {
                    self.set_slice(name, None);
                }
                for (name, slice) in objects {
                    self.set_slice(name, Some(slice));
                }
                self.slices_listed = true;
            }
            Update::Node(news) => self.set_node(news),
            Update::ServiceCidrs(news) => self.set_service_cidrs(news),
            Update::NodeUnknown => self.node_listed = true,
            Update::Interfaces(interfaces) => self.set_here(Here { interfaces, ..self.here.clone() }),
        }
    }

    /// What is known of this node.
    pub const fn here(&self) -> &Here {
        &self.here
    }

    /// Whether every kind has been listed once; before that, what is missing here may well exist.
    pub fn is_complete(&self) -> bool {
        self.services_listed && self.slices_listed && self.node_listed
    }

    /// What was touched since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// What was touched and not yet taken.
    pub const fn touched(&self) -> &Touched {
        &self.touched
    }

    /// A Service, where there is one of that name that this proxy serves.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services this proxy serves.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
    }

    /// A slice, where one of that name is known.
    pub fn slice(&self, name: &Name) -> Option<&Slice> {
        self.slices.get(name)
    }

    /// All slices.
    pub fn all_slices(&self) -> impl Iterator<Item = (&Name, &Slice)> {
        self.slices.iter()
    }

    /// The slices of a Service.
    pub fn slices(&self, service: &Name) -> impl Iterator<Item = &Slice> + Clone {
        self.slices_by_service.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// The networks that cluster addresses come from; `None` where that is not known yet.
    pub fn service_cidrs(&self) -> Option<BTreeSet<IpNet>> {
        Some(self.service_cidrs.as_ref()?.values().flatten().copied().collect())
    }

    /// One alone, of all that there are, says nothing before they were listed.
    fn set_service_cidrs(&mut self, news: Delta<ServiceCidr>) {
        match (news, &mut self.service_cidrs) {
            (Delta::Listed { mut objects, refused }, known) => {
                let kept = known.take().into_iter().flatten().filter(|(name, _)| refused.contains(name));
                objects.extend(kept);
                *known = Some(objects);
            }
            (Delta::Applied(name, cidr), Some(known)) => drop(known.insert(name, cidr)),
            (Delta::Removed(name), Some(known)) => drop(known.remove(&name)),
            (Delta::Applied(..) | Delta::Removed(_), None) => {}
        }
    }

    /// A node that lost its object goes on as it was.
    fn set_node(&mut self, news: Delta<Node>) {
        let node = match news {
            Delta::Applied(_, node) => Some(node),
            Delta::Removed(_) => None,
            Delta::Listed { objects, refused: _ } => {
                self.node_listed = true;
                objects.into_values().next()
            }
        };
        if let Some(Node { standing: _, zone, addresses }) = node {
            self.set_here(Here { zone, addresses, ..self.here.clone() });
        }
    }

    /// What is served depends on where, for every Service.
    fn set_here(&mut self, here: Here) {
        if self.here != here {
            self.here = here;
            self.touch_all();
        }
    }

    /// Every Service is to be translated anew.
    pub fn touch_all(&mut self) {
        self.touched.services.extend(self.services.keys().cloned());
    }

    /// All endpoints of all Services.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slices.values().flat_map(|slice| &slice.groups).flat_map(|group| &group.endpoints)
    }

    fn set_service(&mut self, name: Name, service: Option<Service>) {
        if self.services.get(&name) == service.as_ref() {
            return;
        }
        match service {
            Some(service) => self.services.insert(name.clone(), service),
            None => self.services.remove(&name),
        };
        self.touched.service_changes += 1;
        self.touched.services.insert(name);
    }

    fn set_slice(&mut self, name: Name, slice: Option<Slice>) {
        let known = self.slices.get(&name);
        let same = match (known, &slice) {
            (None, None) => true,
            (Some(known), Some(slice)) => known.says_the_same_as(slice),
            (Some(_), None) | (None, Some(_)) => false,
        };
        let known_trigger = known.and_then(|known| known.triggered);
        if !same {
            self.touched.slice_changes += 1;
            if let Some(known) = self.slices.remove(&name) {
                self.unlink(&name, &known.service);
                self.touched.services.insert(known.service);
            }
        }
        let Some(slice) = slice else { return };
        if !same {
            let news = slice.triggered.filter(|triggered| Some(*triggered) != known_trigger);
            self.touched.triggers.extend(news.map(|triggered| (slice.family(), triggered)));
            self.touched.services.insert(slice.service.clone());
            let names = self.slices_by_service.entry(slice.service.clone()).or_default();
            names.reserve_exact(1);
            names.push(name.clone());
        }
        self.slices.insert(name, slice);
    }

    fn unlink(&mut self, slice: &Name, service: &Name) {
        if let Some(names) = self.slices_by_service.get_mut(service) {
            names.retain(|name| name != slice);
            if names.is_empty() {
                self.slices_by_service.remove(service);
            }
        }
    }
}

fn vanished<T>(known: &BTreeMap<Name, T>, listed: &BTreeMap<Name, T>, refused: &BTreeSet<Name>) -> Vec<Name> {
    known.keys().filter(|name| !listed.contains_key(name) && !refused.contains(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::new(None, name)
    }

    fn service() -> Service {
        Service::default()
    }

    fn slice(service: &str) -> Slice {
        Slice { service: name(service), groups: Vec::new(), triggered: None }
    }

    fn touched(cluster: &mut Cluster) -> Vec<String> {
        cluster.take_touched().services.iter().map(|name| name.name.to_string()).collect()
    }

    #[test]
    fn an_update_touches_the_services_it_is_about() {
        let mut cluster = Cluster::default();
        cluster.update(Update::Slices(Delta::Applied(name("s1"), slice("web"))));
        assert_eq!(touched(&mut cluster), ["web"], "a slice may come before its service");
        cluster.update(Update::Services(Delta::Applied(name("web"), service())));
        assert_eq!(touched(&mut cluster), ["web"]);
        assert_eq!(cluster.slices(&name("web")).count(), 1);
        cluster.update(Update::Slices(Delta::Applied(name("s1"), slice("shop"))));
        assert_eq!(touched(&mut cluster), ["shop", "web"], "a slice may change its service");
        cluster.update(Update::Slices(Delta::Removed(name("s1"))));
        assert_eq!(touched(&mut cluster), ["shop"]);
        cluster.update(Update::Slices(Delta::Removed(name("s1"))));
        assert_eq!(touched(&mut cluster), Vec::<String>::new());
    }

    #[test]
    fn a_time_stamp_alone_touches_nothing() {
        let mut cluster = Cluster::default();
        cluster.update(Update::Slices(Delta::Applied(name("s1"), slice("web"))));
        cluster.take_touched();
        let stamped = Slice { triggered: Some(SystemTime::UNIX_EPOCH), ..slice("web") };
        cluster.update(Update::Slices(Delta::Applied(name("s1"), stamped)));
        assert_eq!(cluster.take_touched(), Touched::default());
    }

    #[test]
    fn a_list_removes_what_vanished_but_not_what_was_refused() {
        let mut cluster = Cluster::default();
        for known in ["gone", "kept", "malformed"] {
            cluster.update(Update::Services(Delta::Applied(name(known), service())));
        }
        cluster.take_touched();
        cluster.update(Update::Services(Delta::Listed {
            objects: BTreeMap::from([(name("kept"), service()), (name("new"), service())]),
            refused: BTreeSet::from([name("malformed")]),
        }));
        assert_eq!(touched(&mut cluster), ["gone", "new"]);
        assert!(cluster.service(&name("malformed")).is_some());
    }

    #[test]
    fn it_is_complete_once_every_kind_has_been_listed() {
        let mut cluster = Cluster::default();
        cluster
            .update(Update::Services(Delta::Listed { objects: BTreeMap::new(), refused: BTreeSet::new() }));
        assert!(!cluster.is_complete());
        cluster.update(Update::Slices(Delta::Applied(name("s1"), slice("web"))));
        assert!(!cluster.is_complete());
        cluster.update(Update::Slices(Delta::Listed { objects: BTreeMap::new(), refused: BTreeSet::new() }));
        assert!(!cluster.is_complete());
        cluster.update(Update::NodeUnknown);
        assert!(cluster.is_complete());
    }

    #[test]
    fn another_zone_or_address_touches_every_service_and_news_of_nothing_else_does() {
        let mut cluster = Cluster::new("m1");
        cluster.update(Update::Services(Delta::Applied(name("web"), service())));
        cluster.take_touched();
        let node = Node { zone: Some("az-1".into()), ..Node::default() };
        cluster.update(Update::Node(Delta::Applied(name("m1"), node.clone())));
        assert_eq!(touched(&mut cluster), ["web"]);
        let leaving = Node { standing: Standing::Leaving, ..node };
        cluster.update(Update::Node(Delta::Applied(name("m1"), leaving)));
        cluster.update(Update::Node(Delta::Removed(name("m1"))));
        assert_eq!(touched(&mut cluster), Vec::<String>::new());
        assert_eq!(cluster.here().zone.as_deref(), Some("az-1"));
        cluster.update(Update::Interfaces([[10, 0, 0, 1].into()].into()));
        assert_eq!(touched(&mut cluster), ["web"]);
    }
}
