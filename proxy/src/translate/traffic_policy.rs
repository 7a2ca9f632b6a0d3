//! Where clients find a Service's port, and how each kind of address treats them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use plan::{Affinity, AffinityGroup, Audience, Masquerade, Port, Rules, Scheduler, WhenEmpty};

use super::Settings;
use super::topology::{Endpoints, List};
use crate::cluster::{Family, Here, Name, Service, ServicePort, TrafficPolicy};

/// The kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// This node's own, at the node port.
    NodePort,
    /// One of `externalIPs`.
    ExternalAddress,
    /// One that a load balancer in front passes on.
    LoadBalancer,
    /// One for clients within the cluster.
    ClusterAddress,
}

/// Where a port is served at all. An address that is there in two capacities is served in the later one of
/// [`Exposure`]'s.
pub(super) fn exposures(
    service: &Service,
    port: &ServicePort,
    here: &Here,
    settings: &Settings,
) -> BTreeMap<(IpAddr, Port), Exposure> {
    let node_port = port.node_port.into_iter().flat_map(|number| {
        let addresses = settings.node_port_addresses.of(here).into_iter();
        addresses.map(move |address| ((address, number), Exposure::NodePort))
    });
    let others = [
        (&service.external_addresses, Exposure::ExternalAddress),
        (&service.balancer_addresses, Exposure::LoadBalancer),
        (&service.addresses, Exposure::ClusterAddress),
    ];
    let others = others.into_iter().flat_map(|(addresses, exposure)| {
        addresses.iter().map(move |address| ((*address, port.port), exposure))
    });
    // A Service may have external addresses of a family in which it has no cluster address: that is not a Service there.
    let families: BTreeSet<Family> = service.addresses.iter().copied().map(Family::of).collect();
    node_port.chain(others).filter(|((address, _), _)| families.contains(&Family::of(*address))).collect()
}

/// Who meets what at an address: the audience, its endpoints, and its rules.
pub(super) fn treatments(
    exposure: Exposure,
    address: IpAddr,
    common: &Rules,
    context: &Context<'_>,
) -> Vec<(Audience, List, Rules)> {
    let Context { service, settings, endpoints, .. } = *context;
    let source_ranges = match exposure {
        Exposure::LoadBalancer => source_ranges(service, address, context.here),
        Exposure::NodePort | Exposure::ExternalAddress | Exposure::ClusterAddress => None,
    };
    // Traffic that is bound to this node while all endpoints are elsewhere is dropped, so that whoever balances the
    // nodes tries another one; without endpoints anywhere, no node would do.
    let away = if endpoints.is_served() { WhenEmpty::Drop } else { WhenEmpty::Refuse };
    let rules = |when_empty, masquerade| Rules {
        when_empty,
        masquerade,
        source_ranges: source_ranges.clone(),
        exclusive: exposure == Exposure::ClusterAddress,
        ..common.clone()
    };
    match (exposure, service.internal_policy, service.external_policy) {
        (Exposure::ClusterAddress, TrafficPolicy::Cluster, _) => {
            vec![(
                Audience::Everyone,
                List::Cluster,
                rules(WhenEmpty::Refuse, settings.masquerade_internal()),
            )]
        }
        (Exposure::ClusterAddress, TrafficPolicy::Local, _) => {
            vec![(Audience::Everyone, List::Local, rules(away, settings.masquerade_internal()))]
        }
        (_, _, TrafficPolicy::Cluster) => {
            vec![(Audience::Everyone, List::Cluster, rules(WhenEmpty::Refuse, Masquerade::Always))]
        }
        // Who is in the cluster already takes the short cut to all endpoints.
        (_, _, TrafficPolicy::Local) => vec![
            (Audience::Everyone, List::Cluster, rules(WhenEmpty::Refuse, Masquerade::FromOutsidePods)),
            (Audience::Outside, List::Local, rules(away, Masquerade::Never)),
        ],
    }
}

/// What one port of a Service is seen with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) service: &'a Service,
    pub(super) settings: &'a Settings,
    pub(super) here: &'a Here,
    pub(super) endpoints: &'a Endpoints<'a>,
}

/// The rules that a port has at every address.
pub(super) fn common(name: &Name, service: &Service, port: &ServicePort, settings: &Settings) -> Rules {
    let group = || AffinityGroup::of(&name.namespace, &name.name, &port.name, port.protocol);
    let asked = service.scheduler.unwrap_or(settings.scheduler);
    Rules {
        scheduler: if settings.absent_schedulers.contains(&asked) { Scheduler::RoundRobin } else { asked },
        affinity: service.affinity.map(|timeout| Affinity { group: group(), timeout }),
        ..Rules::default()
    }
}

impl Settings {
    /// Whose address is replaced on the way to a cluster IP.
    const fn masquerade_internal(&self) -> Masquerade {
        match (self.masquerade_all, self.detects_local) {
            (true, _) => Masquerade::Always,
            (false, true) => Masquerade::FromOutsidePods,
            (false, false) => Masquerade::Never,
        }
    }
}

/// `None` where the ranges leave this family free.
fn source_ranges(service: &Service, address: IpAddr, here: &Here) -> Option<BTreeSet<IpNet>> {
    let family = Family::of(address);
    let ranges = service.source_ranges.iter().filter(|range| Family::of(range.addr()) == family);
    let mut ranges: BTreeSet<IpNet> = ranges.copied().collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    // Where the balancer's address is also this node's, the node uses it as its own source.
    if here.primary(family).is_some_and(|node| ranges.iter().any(|range| range.contains(&node))) {
        ranges.insert(address.into());
    }
    Some(ranges)
}
