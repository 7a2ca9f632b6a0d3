//! A Service: the addresses at which clients find it, and how they are to be treated.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use plan::{Port, Protocol, Scheduler};

use super::refusal::{self, Refusal};

/// Says that another proxy serves this Service.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Says that a Service, or a slice, needs no proxy.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Names the scheduler of a Service, as [`Scheduler::name`] spells it, in place of the node's default.
pub const SCHEDULER_ANNOTATION: &str = "fairway.dev/scheduler";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not said: three hours.
const AFFINITY_TIMEOUT: i32 = 10_800;
/// The longest it may be: a day.
const LONGEST_AFFINITY_TIMEOUT: i32 = 86_400;

/// A Service that clients reach through cluster IPs, and maybe through other addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `metadata.uid`, by which Events find it.
    pub uid: Option<Box<str>>,
    /// `metadata.creationTimestamp`: of two Services that claim one address, the older has it. `None`, as in a manifest
    /// that never met an API server, counts as the oldest.
    pub created: Option<SystemTime>,
    /// The cluster IPs, at most one per family.
    pub addresses: BTreeSet<IpAddr>,
    /// `spec.externalIPs`.
    pub external_addresses: BTreeSet<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of mode `VIP`. Those of mode `Proxy`, and host names, lead to a balancer that
    /// sends to other addresses.
    pub balancer_addresses: BTreeSet<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use the addresses of the load balancer, and no others.
    pub source_ranges: BTreeSet<IpNet>,
    /// The ports at each of these.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`: how long a client is remembered.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy`: which endpoints the cluster IPs lead to.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: which endpoints all other addresses lead to.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, where it has a meaning: type `LoadBalancer`, external traffic to this node's endpoints.
    pub health_check: Option<Port>,
    /// What its annotation asks for.
    pub scheduler: Option<Scheduler>,
    /// What cannot be followed of it.
    pub disregarded: BTreeSet<Disregarded>,
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `ports[].name`, by which slices refer to it; empty where the Service has a single port without a name.
    pub name: Box<str>,
    /// Where clients knock.
    pub port: Port,
    /// What they speak.
    pub protocol: Protocol,
    /// Where they knock at a node's own addresses.
    pub node_port: Option<Port>,
}

/// Which endpoints get traffic of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on the node that the traffic comes to.
    Local,
}

/// A part of a Service that cannot be followed. The rest is served; kube-proxy reads past such parts too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disregarded {
    /// An entry of `externalIPs`.
    ExternalAddress(String),
    /// An entry of `status.loadBalancer.ingress`.
    BalancerAddress(String),
    /// The annotation with the scheduler.
    Scheduler(String),
    /// The annotation names a scheduler that the dataplane does not have.
    AbsentScheduler(Scheduler),
}

impl fmt::Display for Disregarded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExternalAddress(text) => {
                write!(formatter, "spec.externalIPs: {text:?} is no address of a host")
            }
            Self::BalancerAddress(text) => {
                write!(formatter, "status.loadBalancer.ingress[].ip: {text:?} is no address of a host")
            }
            Self::Scheduler(text) => {
                let names = Scheduler::ALL.map(Scheduler::name).join(", ");
                write!(formatter, "annotation {SCHEDULER_ANNOTATION}: must be one of {names}, found {text:?}")
            }
            Self::AbsentScheduler(scheduler) => {
                write!(
                    formatter,
                    "annotation {SCHEDULER_ANNOTATION}: {} is not available here",
                    scheduler.name()
                )
            }
        }
    }
}

impl Service {
    /// Reads an API object. `None` is a Service that needs nothing of this proxy: headless, `ExternalName`, without a
    /// cluster IP, or another proxy's.
    pub fn read(object: &core::Service) -> Result<Option<Self>, Refusal> {
        let labels = object.metadata.labels.as_ref();
        let labelled = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
        let Some(spec) = &object.spec else { return Ok(None) };
        let elsewhere = spec.type_.as_deref() == Some("ExternalName");
        if elsewhere || labelled(PROXY_NAME_LABEL) || labelled(HEADLESS_LABEL) {
            return Ok(None);
        }
        let addresses = cluster_addresses(spec)?;
        if addresses.is_empty() {
            return Ok(None);
        }
        let mut disregarded = BTreeSet::new();
        let mut understood = |texts: Vec<&String>, named: fn(String) -> Disregarded| -> BTreeSet<IpAddr> {
            let mut addresses = BTreeSet::new();
            for text in texts {
                match refusal::address("", text.trim()) {
                    Ok(address) => addresses.insert(address),
                    Err(_) => disregarded.insert(named(text.clone())),
                };
            }
            addresses
        };
        let external_addresses =
            understood(spec.external_ips.iter().flatten().collect(), Disregarded::ExternalAddress);
        let balancer_addresses = understood(ingress(object), Disregarded::BalancerAddress);
        let external_policy = policy(spec.external_traffic_policy.as_deref());
        let annotations = object.metadata.annotations.as_ref();
        let asked = annotations.and_then(|annotations| annotations.get(SCHEDULER_ANNOTATION));
        let scheduler = asked.and_then(|name| Scheduler::named(name));
        disregarded.extend(asked.filter(|_| scheduler.is_none()).cloned().map(Disregarded::Scheduler));
        Ok(Some(Self {
            uid: object.metadata.uid.as_deref().map(Box::from),
            created: object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0)),
            addresses,
            external_addresses,
            balancer_addresses,
            source_ranges: source_ranges(spec)?,
            ports: ports(spec)?,
            affinity: affinity(spec)?,
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            external_policy,
            health_check: health_check(spec, external_policy)?,
            scheduler,
            disregarded,
        }))
    }

    /// Whether it, or what load balancers ask about it, is to be found at the addresses of nodes.
    pub fn is_at_node_addresses(&self) -> bool {
        self.health_check.is_some() || self.ports.iter().any(|port| port.node_port.is_some())
    }
}

/// `clusterIPs`, or `clusterIP` in objects from before dual stack; `ipFamilies`, where given, says how many count.
fn cluster_addresses(spec: &core::ServiceSpec) -> Result<BTreeSet<IpAddr>, Refusal> {
    let single = spec.cluster_ip.iter();
    let several = spec.cluster_ips.iter().flatten();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let (field, texts): (_, Vec<&String>) = match spec.cluster_ips.as_deref() {
        None | Some([]) => ("spec.clusterIP", single.collect()),
        Some(_) => ("spec.clusterIPs", several.collect()),
    };
    let counted = if families.is_empty() { texts.len() } else { families.len() };
    let mut addresses = BTreeSet::new();
    for (position, text) in texts.into_iter().take(counted).enumerate() {
        if text.is_empty() || text == "None" {
            continue;
        }
        let address = refusal::address(field, text)?;
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if families.get(position).is_some_and(|declared| declared != family) {
            return Err(Refusal::Family { field, address });
        }
        addresses.insert(address);
    }
    Ok(addresses)
}

fn ports(spec: &core::ServiceSpec) -> Result<Vec<ServicePort>, Refusal> {
    let mut taken = BTreeSet::new();
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let read = ServicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            port: refusal::port("spec.ports[].port", port.port)?,
            protocol: refusal::protocol("spec.ports[].protocol", port.protocol.as_deref())?,
            node_port: port
                .node_port
                .filter(|number| *number != 0)
                .map(|number| refusal::port("spec.ports[].nodePort", number))
                .transpose()?,
        };
        if !taken.insert((read.port, read.protocol)) {
            return Err(Refusal::Twice { port: read.port, protocol: read.protocol });
        }
        ports.push(read);
    }
    ports.shrink_to_fit();
    Ok(ports)
}

/// The addresses that a load balancer in front passes on as they are; see [`Service::balancer_addresses`].
fn ingress(object: &core::Service) -> Vec<&String> {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let passed_on = |entry: &&core::LoadBalancerIngress| entry.ip_mode.as_deref() != Some("Proxy");
    ingress
        .iter()
        .filter(passed_on)
        .filter_map(|entry| entry.ip.as_ref())
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// One that cannot be read refuses the Service: without it, more would be let in than its author wants.
fn source_ranges(spec: &core::ServiceSpec) -> Result<BTreeSet<IpNet>, Refusal> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges.map(|text| refusal::network("spec.loadBalancerSourceRanges", text)).collect()
}

fn affinity(spec: &core::ServiceSpec) -> Result<Option<Duration>, Refusal> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Ok(None);
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_TIMEOUT);
    let timeout = u64::try_from(seconds).ok().filter(|_| (1..=LONGEST_AFFINITY_TIMEOUT).contains(&seconds));
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let refusal = Refusal::Seconds { field, seconds, most: LONGEST_AFFINITY_TIMEOUT };
    timeout.map(|seconds| Some(Duration::from_secs(seconds))).ok_or(refusal)
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn health_check(spec: &core::ServiceSpec, external: TrafficPolicy) -> Result<Option<Port>, Refusal> {
    let asked = spec.health_check_node_port.filter(|number| *number != 0);
    let meant = spec.type_.as_deref() == Some("LoadBalancer") && external == TrafficPolicy::Local;
    asked.filter(|_| meant).map(|number| refusal::port("spec.healthCheckNodePort", number)).transpose()
}

#[cfg(test)]
mod tests;
