//! From one Service and its endpoints to what a node should forward for it.
//!
//! The rules are those of kube-proxy 1.36, of its nftables mode where modes differ.

mod node_port;
mod topology;
mod traffic_policy;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use plan::{Audience, Forwarding, Frontend, Scheduler, Weight};

pub use self::node_port::NodePortAddresses;
pub use self::topology::{Endpoints, Judgement, List, Topology};
pub use self::traffic_policy::Exposure;
use self::traffic_policy::{Context, common, exposures, treatments};
use crate::cluster::{Family, Here, Name, Service, Slice};

/// How Services are served on this node, whatever they say themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The scheduler of Services that name none.
    pub scheduler: Scheduler,
    /// Those that the dataplane does not have: round robin takes their place.
    pub absent_schedulers: BTreeSet<Scheduler>,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// `masqueradeAll`: the source address of whatever goes to a cluster IP is replaced.
    pub masquerade_all: bool,
    /// Pods are to be told from others (`detectLocalMode`): then what is not from a pod of this node is masqueraded on its
    /// way to a cluster IP.
    pub detects_local: bool,
}

/// One frontend of a Service, and how it came to be.
#[derive(Clone, Debug)]
pub struct Derivation<'a> {
    /// The frontend.
    pub frontend: Frontend,
    /// `ports[].name`.
    pub port: &'a str,
    /// In what capacity its address is there.
    pub exposure: Exposure,
    /// Which endpoints it has.
    pub list: List,
    /// All endpoints of the port, in the frontend's family.
    pub endpoints: Rc<Endpoints<'a>>,
    /// How it treats its clients.
    pub rules: plan::Rules,
}

/// What is to be forwarded for `service`.
pub fn translate<'a>(
    name: &Name,
    service: &'a Service,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
    here: &'a Here,
    settings: &Settings,
) -> Forwarding {
    let derivations = derive(name, service, slices, here, settings);
    // Of two ports that would be served at one address, the first is.
    let mut forwarding = Forwarding::new();
    for Derivation { frontend, list, endpoints, rules, .. } in derivations {
        let service = || plan::Service {
            rules,
            backends: endpoints.list(list).map(|backend| (backend, Weight::ONE)).collect(),
        };
        forwarding.entry(frontend).or_insert_with(service);
    }
    forwarding
}

/// The same with the reasons.
pub fn derive<'a>(
    name: &Name,
    service: &'a Service,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
    here: &'a Here,
    settings: &Settings,
) -> Vec<Derivation<'a>> {
    let mut derivations = Vec::new();
    for port in &service.ports {
        let common = common(name, service, port, settings);
        let mut of_family: BTreeMap<Family, Rc<Endpoints<'a>>> = BTreeMap::new();
        for ((address, number), exposure) in exposures(service, port, here, settings) {
            let family = Family::of(address);
            let gather = || Rc::new(Endpoints::gather(port, family, slices.clone(), here));
            let endpoints = Rc::clone(of_family.entry(family).or_insert_with(gather));
            let context = Context { service, settings, here, endpoints: &endpoints };
            for (audience, list, rules) in treatments(exposure, address, &common, &context) {
                let everyone = Frontend::new(address, number, port.protocol);
                let frontend = match audience {
                    Audience::Everyone => everyone,
                    Audience::Outside => everyone.for_outside(),
                };
                let endpoints = Rc::clone(&endpoints);
                derivations.push(Derivation { frontend, port: &port.name, exposure, list, endpoints, rules });
            }
        }
    }
    derivations
}

#[cfg(test)]
mod tests;
