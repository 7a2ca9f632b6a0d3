//! Which endpoints get the traffic of a port (`CategorizeEndpoints` in kube-proxy's `topology.go`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use plan::Backend;

use crate::cluster::{Endpoint, Family, Here, Hints, Readiness, ServicePort, Slice};

/// The endpoints of one port in one family, each once.
#[derive(Clone, Debug)]
pub struct Endpoints<'a> {
    here: &'a Here,
    found: BTreeMap<Backend, &'a Endpoint>,
    /// Who of all is near enough.
    pub topology: Topology,
    /// Of the cluster's, those of this readiness are taken; `None` where there is nobody to take.
    cluster: Option<Readiness>,
    /// The same of this node's.
    local: Option<Readiness>,
}

/// A choice of endpoints by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Those of the whole cluster that topology leaves.
    Cluster,
    /// Those on this node.
    Local,
}

/// How hints narrow the list of the cluster. They are followed when every ready endpoint has some and one of them is
/// meant for here, else not at all; those about nodes before those about zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topology {
    /// To the endpoints meant for this node.
    SameNode,
    /// To the endpoints meant for this node's zone.
    SameZone,
    /// Not at all.
    Everywhere,
}

/// Why an endpoint gets connections, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// It is ready.
    Ready,
    /// It is terminating, and nobody is ready.
    LastResort,
    /// It is not ready.
    Unready,
    /// It is terminating and does not serve any more.
    Gone,
    /// It is terminating, and others are ready.
    Leaving,
    /// It is on another node.
    Elsewhere,
    /// Its hints are for other nodes.
    OtherNode,
    /// Its hints are for other zones.
    OtherZone,
}

impl<'a> Endpoints<'a> {
    /// The endpoints of `port`, as this node sees them.
    pub fn gather(
        port: &ServicePort,
        family: Family,
        slices: impl Iterator<Item = &'a Slice>,
        here: &'a Here,
    ) -> Self {
        let mut found: BTreeMap<Backend, &Endpoint> = BTreeMap::new();
        for group in slices.flat_map(|slice| &slice.groups) {
            let same = group.ports.iter().filter(|at| at.name == port.name && at.protocol == port.protocol);
            for at in same {
                for endpoint in
                    group.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family)
                {
                    match found.entry(Backend::new(endpoint.address, at.port)) {
                        Entry::Vacant(entry) => drop(entry.insert(endpoint)),
                        Entry::Occupied(mut entry) => {
                            let rank = |endpoint: &'a Endpoint| {
                                (endpoint.readiness, !is_on(endpoint, here), endpoint)
                            };
                            if rank(endpoint) < rank(entry.get()) {
                                entry.insert(endpoint);
                            }
                        }
                    }
                }
            }
        }
        let topology = topology(found.values().copied(), here);
        let cluster = taken(found.values().copied());
        let local = taken(found.values().copied().filter(|endpoint| is_on(endpoint, here)));
        Self { here, found, topology, cluster, local }
    }

    /// The endpoints that get connections.
    pub fn list(&self, list: List) -> impl Iterator<Item = Backend> {
        self.judged(list).filter(|(_, _, judgement)| judgement.is_taken()).map(|(backend, _, _)| backend)
    }

    /// Whether any endpoint in the cluster could take a connection.
    pub const fn is_served(&self) -> bool {
        self.cluster.is_some()
    }

    /// All endpoints, and why each gets connections or not.
    pub fn judged(&self, list: List) -> impl Iterator<Item = (Backend, &'a Endpoint, Judgement)> {
        self.found.iter().map(move |(backend, endpoint)| (*backend, *endpoint, self.judge(list, endpoint)))
    }

    fn judge(&self, list: List, endpoint: &Endpoint) -> Judgement {
        let wanted = match list {
            List::Cluster => self.cluster,
            List::Local if is_on(endpoint, self.here) => self.local,
            List::Local => return Judgement::Elsewhere,
        };
        match (endpoint.readiness, list, self.topology) {
            (Readiness::Unready, _, _) => Judgement::Unready,
            (Readiness::Gone, _, _) => Judgement::Gone,
            (Readiness::Leaving, _, _) if wanted == Some(Readiness::Ready) => Judgement::Leaving,
            (Readiness::Leaving, _, _) => Judgement::LastResort,
            (Readiness::Ready, List::Cluster, Topology::SameNode) if !for_node(endpoint, self.here) => {
                Judgement::OtherNode
            }
            (Readiness::Ready, List::Cluster, Topology::SameZone) if !for_zone(endpoint, self.here) => {
                Judgement::OtherZone
            }
            (Readiness::Ready, _, _) => Judgement::Ready,
        }
    }
}

impl Judgement {
    /// Whether the endpoint gets connections.
    pub const fn is_taken(self) -> bool {
        match self {
            Self::Ready | Self::LastResort => true,
            Self::Unready
            | Self::Gone
            | Self::Leaving
            | Self::Elsewhere
            | Self::OtherNode
            | Self::OtherZone => false,
        }
    }
}

/// Those that are ready or, where none is, those that are terminating and still serve.
fn taken<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Option<Readiness> {
    let best = endpoints.map(|endpoint| endpoint.readiness);
    best.filter(|readiness| matches!(readiness, Readiness::Ready | Readiness::Leaving)).min()
}

fn topology<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone, here: &Here) -> Topology {
    let ready = endpoints.filter(|endpoint| endpoint.readiness == Readiness::Ready);
    let followed = |says: fn(&Hints) -> bool, is_for_here: fn(&Endpoint, &Here) -> bool| {
        let mut all = ready.clone();
        all.all(|endpoint| endpoint.hints.as_deref().is_some_and(says))
            && ready.clone().any(|endpoint| is_for_here(endpoint, here))
    };
    if followed(|hints| !hints.nodes.is_empty(), for_node) {
        Topology::SameNode
    } else if followed(|hints| !hints.zones.is_empty(), for_zone) {
        Topology::SameZone
    } else {
        Topology::Everywhere
    }
}

fn is_on(endpoint: &Endpoint, here: &Here) -> bool {
    endpoint.node.as_deref() == Some(&here.name)
}

fn for_node(endpoint: &Endpoint, here: &Here) -> bool {
    endpoint.hints.as_ref().is_some_and(|hints| hints.nodes.contains(&*here.name))
}

fn for_zone(endpoint: &Endpoint, here: &Here) -> bool {
    let hinted = |zone: &String| endpoint.hints.as_ref().is_some_and(|hints| hints.zones.contains(&**zone));
    here.zone.as_ref().is_some_and(hinted)
}
