//! A Service as far as cluster IPs go.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use plan::{Port, Protocol};

use super::refusal::{self, Refusal};

/// Says that another proxy serves this Service.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Says that a Service, or a slice, needs no proxy.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A Service that clients reach through cluster IPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.creationTimestamp`: of two Services that claim one address, the older has it. `None`, as in a manifest
    /// that never met an API server, counts as the oldest.
    pub created: Option<SystemTime>,
    /// The cluster IPs, at most one per family.
    pub addresses: BTreeSet<IpAddr>,
    /// The ports at each of these.
    pub ports: Vec<ServicePort>,
    /// What this Service asks for and this proxy does not do yet.
    pub unserved: BTreeSet<Feature>,
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `ports[].name`, by which slices refer to it; empty where the Service has a single port without a name.
    pub name: String,
    /// Where clients knock.
    pub port: Port,
    /// What they speak.
    pub protocol: Protocol,
}

/// Something a Service can ask for that goes beyond its cluster IPs and that is not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `sessionAffinity: ClientIP`.
    SessionAffinity,
    /// `internalTrafficPolicy: Local`.
    InternalTrafficPolicy,
    /// `externalIPs`.
    ExternalAddresses,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `ports[].nodePort`.
    NodePort,
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SessionAffinity => "sessionAffinity",
            Self::InternalTrafficPolicy => "internalTrafficPolicy",
            Self::ExternalAddresses => "externalIPs",
            Self::LoadBalancer => "loadBalancer",
            Self::NodePort => "nodePort",
        })
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
        Ok(Some(Self {
            created: object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0)),
            addresses,
            ports: ports(spec)?,
            unserved: unserved(spec, object.status.as_ref()),
        }))
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
            name: port.name.clone().unwrap_or_default(),
            port: refusal::port("spec.ports[].port", port.port)?,
            protocol: refusal::protocol("spec.ports[].protocol", port.protocol.as_deref())?,
        };
        if !taken.insert((read.port, read.protocol)) {
            return Err(Refusal::Twice { port: read.port, protocol: read.protocol });
        }
        ports.push(read);
    }
    Ok(ports)
}

fn unserved(spec: &core::ServiceSpec, status: Option<&core::ServiceStatus>) -> BTreeSet<Feature> {
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let asked = [
        (Feature::SessionAffinity, spec.session_affinity.as_deref() == Some("ClientIP")),
        (Feature::InternalTrafficPolicy, spec.internal_traffic_policy.as_deref() == Some("Local")),
        (Feature::ExternalAddresses, spec.external_ips.as_ref().is_some_and(|list| !list.is_empty())),
        (Feature::LoadBalancer, ingress.iter().any(|entry| entry.ip.is_some())),
        (
            Feature::NodePort,
            spec.ports.iter().flatten().any(|port| port.node_port.is_some_and(|port| port > 0)),
        ),
    ];
    asked.into_iter().filter(|(_, asked)| *asked).map(|(feature, _)| feature).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(metadata: &Value, spec: &Value) -> Result<Option<Service>, Refusal> {
        let object = json!({ "metadata": metadata, "spec": spec });
        Service::read(&serde_json::from_value(object).expect("a Service"))
    }

    fn addresses(spec: &Value) -> Result<Vec<String>, String> {
        match read(&json!({ "name": "web" }), spec) {
            Ok(service) => {
                let service = service.map(|service| service.addresses).unwrap_or_default();
                Ok(service.iter().map(IpAddr::to_string).collect())
            }
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    #[test]
    fn cluster_addresses_follow_the_families() {
        let cases = [
            (json!({ "clusterIP": "10.0.0.1" }), vec!["10.0.0.1"]),
            (
                json!({ "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"] }),
                vec!["10.0.0.1", "fd00::1"],
            ),
            (
                json!({ "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"] }),
                vec!["10.0.0.1", "fd00::1"],
            ),
            (json!({ "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6"] }), vec!["fd00::1"]),
            (json!({ "clusterIP": "None", "clusterIPs": ["None"] }), vec![]),
            (json!({ "clusterIP": "" }), vec![]),
            (
                json!({ "type": "ExternalName", "externalName": "example.org", "clusterIP": "10.0.0.1" }),
                vec![],
            ),
            (json!({}), vec![]),
        ];
        for (spec, expected) in cases {
            assert_eq!(addresses(&spec), Ok(expected.into_iter().map(str::to_owned).collect()), "{spec}");
        }
    }

    #[test]
    fn wrong_services_are_refused_with_the_reason() {
        let port = |port: i64, protocol: &str| json!({ "port": port, "protocol": protocol });
        let cases = [
            (json!({ "clusterIP": "010.0.0.1" }), "spec.clusterIP: \"010.0.0.1\" is not an IP address"),
            (json!({ "clusterIPs": ["10.0.0.1", "x"] }), "spec.clusterIPs: \"x\" is not an IP address"),
            (json!({ "clusterIP": "0.0.0.0" }), "spec.clusterIP: 0.0.0.0 names no host"),
            (
                json!({ "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"] }),
                "spec.clusterIPs: 10.0.0.1 is not of the family in ipFamilies",
            ),
            (
                json!({ "clusterIP": "10.0.0.1", "ports": [port(0, "TCP")] }),
                "spec.ports[].port: 0 is not a port",
            ),
            (
                json!({ "clusterIP": "10.0.0.1", "ports": [port(65_536, "TCP")] }),
                "spec.ports[].port: 65536 is not a port",
            ),
            (
                json!({ "clusterIP": "10.0.0.1", "ports": [port(80, "tcp")] }),
                "spec.ports[].protocol: \"tcp\" is not a known protocol",
            ),
            (
                json!({ "clusterIP": "10.0.0.1", "ports": [port(80, "TCP"), port(80, "")] }),
                "spec.ports: TCP port 80 is there twice",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(addresses(&spec), Err(expected.to_owned()), "{spec}");
        }
    }

    #[test]
    fn labels_hand_a_service_to_somebody_else() {
        let spec = json!({ "clusterIP": "10.0.0.1" });
        for label in [PROXY_NAME_LABEL, HEADLESS_LABEL] {
            let metadata = json!({ "name": "web", "labels": { label: "" } });
            assert_eq!(read(&metadata, &spec), Ok(None), "{label}");
        }
        assert!(matches!(read(&json!({ "name": "web" }), &spec), Ok(Some(_))));
    }

    #[test]
    fn what_is_not_served_yet_is_named() {
        let spec = json!({
            "clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.1"], "ports": [{ "port": 80, "nodePort": 30080 }],
        });
        let service = read(&json!({ "name": "web" }), &spec).expect("valid").expect("ours");
        let named: Vec<String> = service.unserved.iter().map(Feature::to_string).collect();
        assert_eq!(named, ["sessionAffinity", "internalTrafficPolicy", "externalIPs", "nodePort"]);
    }
}
