//! Endpoints of Services: `EndpointSlice`s, or the `Endpoints` objects that older clusters have instead.

use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use plan::{Port, Protocol};

use super::refusal::{self, Refusal};
use super::service::HEADLESS_LABEL;
use super::{Family, Name};

/// Names the Service that an `EndpointSlice` belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// When the change happened that led to this version of the object; for the network programming latency only.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A share of one Service's endpoints.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Whose endpoints.
    pub service: Name,
    /// Endpoints with the ports they have in common.
    pub groups: Vec<Group>,
    /// When the change behind this version happened; no part of what is forwarded.
    pub triggered: Option<SystemTime>,
}

/// Endpoints that all answer at the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The ports.
    pub ports: Vec<EndpointPort>,
    /// The endpoints; those that may never get a connection are left out.
    pub endpoints: Vec<Endpoint>,
}

/// Where an endpoint answers for one of the Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: String,
    /// The number at the endpoint.
    pub port: Port,
    /// The protocol, which must be that of the Service's port.
    pub protocol: Protocol,
}

/// A pod, most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is wanted.
    pub readiness: Readiness,
}

/// Which endpoints get new connections: those that are ready; where none is, those on their way out that still serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Ready.
    Ready,
    /// Terminating, but still serving.
    Leaving,
}

impl Slice {
    /// Reads an `EndpointSlice`. `None` is one that says nothing to this proxy: of host names, without a Service, or
    /// labelled headless.
    pub fn read(object: &discovery::EndpointSlice) -> Result<Option<Self>, Refusal> {
        let label = |name| object.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let Some(service) = label(SERVICE_NAME_LABEL).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if label(HEADLESS_LABEL).is_some() {
            return Ok(None);
        }
        let family = match object.address_type.as_str() {
            "FQDN" => return Ok(None),
            "IPv4" => Family::Ipv4,
            "IPv6" => Family::Ipv6,
            text => return Err(Refusal::AddressType { text: text.to_owned() }),
        };
        let mut ports = Vec::new();
        for port in object.ports.iter().flatten() {
            // Without a number a port stands for all ports, which a Service does not know. A name is empty by default,
            // as the API server would have filled it in: manifests come without it.
            if let Some(number) = port.port.filter(|number| *number != 0) {
                ports.push(EndpointPort {
                    name: port.name.clone().unwrap_or_default(),
                    port: refusal::port("ports[].port", number)?,
                    protocol: refusal::protocol("ports[].protocol", port.protocol.as_deref())?,
                });
            }
        }
        let mut endpoints = Vec::new();
        for endpoint in &object.endpoints {
            // All addresses of one endpoint lead to the same pod: the first is enough.
            let text = endpoint.addresses.first().ok_or(Refusal::NoAddress)?;
            let address = refusal::address("endpoints[].addresses", text)?;
            if Family::of(address) != family {
                return Err(Refusal::Family { field: "endpoints[].addresses", address });
            }
            let readiness = readiness(endpoint.conditions.as_ref());
            endpoints.extend(readiness.map(|readiness| Endpoint { address, readiness }));
        }
        Ok(Some(Self {
            service: Name::new(object.metadata.namespace.as_deref(), service),
            groups: vec![Group { ports, endpoints }],
            triggered: triggered(&object.metadata),
        }))
    }

    /// Reads an `Endpoints` object, which has the name of its Service. Addresses that are not ready are not endpoints.
    pub fn read_endpoints(object: &core::Endpoints) -> Result<Option<Self>, Refusal> {
        let labels = object.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(HEADLESS_LABEL)) {
            return Ok(None);
        }
        let Some(name) = &object.metadata.name else { return Err(Refusal::NoName) };
        let mut groups = Vec::new();
        for subset in object.subsets.iter().flatten() {
            let mut ports = Vec::new();
            for port in subset.ports.iter().flatten() {
                ports.push(EndpointPort {
                    name: port.name.clone().unwrap_or_default(),
                    port: refusal::port("subsets[].ports[].port", port.port)?,
                    protocol: refusal::protocol("subsets[].ports[].protocol", port.protocol.as_deref())?,
                });
            }
            let mut endpoints = Vec::new();
            for address in subset.addresses.iter().flatten() {
                let address = refusal::address("subsets[].addresses[].ip", &address.ip)?;
                endpoints.push(Endpoint { address, readiness: Readiness::Ready });
            }
            groups.push(Group { ports, endpoints });
        }
        Ok(Some(Self {
            service: Name::new(object.metadata.namespace.as_deref(), name),
            groups,
            triggered: triggered(&object.metadata),
        }))
    }

    /// Whether both lead to the same forwarding: all but the time stamp.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.service == other.service && self.groups == other.groups
    }

    /// The family of its endpoints, IPv4 where it has none.
    pub fn family(&self) -> Family {
        let first = self.groups.iter().flat_map(|group| &group.endpoints).next();
        first.map_or(Family::Ipv4, |endpoint| Family::of(endpoint.address))
    }
}

/// What the conditions come to, with the API's defaults for those that are absent; `None` gets no connections.
fn readiness(conditions: Option<&discovery::EndpointConditions>) -> Option<Readiness> {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Some(Readiness::Ready),
        (false, true) => Some(Readiness::Leaving),
        (false, false) => None,
    }
}

/// An unreadable time stamp costs a sample of a metric and nothing else.
fn triggered(metadata: &ObjectMeta) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    let time: Time = serde_json::from_value(serde_json::Value::String(text.clone())).ok()?;
    Some(SystemTime::from(time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(mut object: Value) -> Result<Option<Slice>, Refusal> {
        if object.get("metadata").is_none() {
            object["metadata"] = json!({ "name": "web-1", "labels": { SERVICE_NAME_LABEL: "web" } });
        }
        if object.get("addressType").is_none() {
            object["addressType"] = json!("IPv4");
        }
        Slice::read(&serde_json::from_value(object).expect("an EndpointSlice"))
    }

    fn endpoints(object: Value) -> Vec<(String, Readiness)> {
        let slice = slice(object).expect("valid").expect("ours");
        let endpoints = slice.groups.iter().flat_map(|group| &group.endpoints);
        endpoints.map(|endpoint| (endpoint.address.to_string(), endpoint.readiness)).collect()
    }

    #[test]
    fn conditions_decide_who_gets_connections() {
        let cases = [
            (json!(null), Some(Readiness::Ready)),
            (json!({}), Some(Readiness::Ready)),
            (json!({ "ready": true, "terminating": true }), Some(Readiness::Ready)),
            (json!({ "ready": false }), None),
            (json!({ "ready": false, "serving": true }), None),
            (json!({ "ready": false, "terminating": true }), Some(Readiness::Leaving)),
            (json!({ "ready": false, "serving": true, "terminating": true }), Some(Readiness::Leaving)),
            (json!({ "ready": false, "serving": false, "terminating": true }), None),
        ];
        for (conditions, expected) in cases {
            let found =
                endpoints(json!({ "endpoints": [{ "addresses": ["10.1.0.1"], "conditions": conditions }] }));
            let expected: Vec<_> =
                expected.into_iter().map(|readiness| ("10.1.0.1".into(), readiness)).collect();
            assert_eq!(found, expected, "{conditions}");
        }
    }

    #[test]
    fn only_the_first_address_of_an_endpoint_counts() {
        let found = endpoints(json!({ "endpoints": [{ "addresses": ["10.1.0.1", "10.1.0.2"] }] }));
        assert_eq!(found, [("10.1.0.1".to_owned(), Readiness::Ready)]);
    }

    #[test]
    fn ports_without_number_are_skipped_and_those_without_name_have_the_empty_one() {
        let ports = json!([{ "name": "a" }, { "port": 80 }, { "name": "b", "port": 0 }, { "name": "", "port": 8080 }]);
        let slice = slice(json!({ "endpoints": null, "ports": ports })).expect("valid").expect("ours");
        let port = |number| EndpointPort {
            name: String::new(),
            port: Port::new(number).expect("not 0"),
            protocol: Protocol::Tcp,
        };
        assert_eq!(slice.groups, [Group { ports: vec![port(80), port(8080)], endpoints: vec![] }]);
    }

    #[test]
    fn slices_that_say_nothing_to_us_are_left_out() {
        let cases = [
            json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["example.org"] }] }),
            json!({ "metadata": { "name": "web-1" }, "endpoints": [] }),
            json!({ "metadata": { "name": "w", "labels": { SERVICE_NAME_LABEL: "web", HEADLESS_LABEL: "" } }, "endpoints": [] }),
        ];
        for object in cases {
            assert!(matches!(slice(object.clone()), Ok(None)), "{object}");
        }
    }

    #[test]
    fn wrong_slices_are_refused_with_the_reason() {
        let cases = [
            (
                json!({ "addressType": "IPX", "endpoints": [] }),
                "addressType: \"IPX\" is not a known address type",
            ),
            (json!({ "endpoints": [{ "addresses": [] }] }), "endpoints[].addresses: is empty"),
            (
                json!({ "endpoints": [{ "addresses": ["010.1.0.1"] }] }),
                "endpoints[].addresses: \"010.1.0.1\" is not an IP address",
            ),
            (
                json!({ "endpoints": [{ "addresses": ["fd00::1"] }] }),
                "endpoints[].addresses: fd00::1 is not of the family in addressType",
            ),
            (
                json!({ "endpoints": [], "ports": [{ "name": "", "port": 70_000 }] }),
                "ports[].port: 70000 is not a port",
            ),
        ];
        for (object, expected) in cases {
            let refusal = slice(object.clone()).expect_err("refused");
            assert_eq!(refusal.to_string(), expected, "{object}");
        }
    }

    #[test]
    fn old_endpoints_give_their_ready_addresses() {
        let object = json!({
            "metadata": { "name": "web", "namespace": "shop", "annotations": { TRIGGER_ANNOTATION: "2026-01-02T03:04:05Z" } },
            "subsets": [
                { "addresses": [{ "ip": "10.1.0.1" }], "notReadyAddresses": [{ "ip": "10.1.0.9" }], "ports": [{ "port": 8080 }] },
                { "notReadyAddresses": [{ "ip": "10.1.0.8" }], "ports": [{ "port": 8080 }] },
            ],
        });
        let slice = Slice::read_endpoints(&serde_json::from_value(object).expect("an Endpoints"));
        let slice = slice.expect("valid").expect("ours");
        let addresses: Vec<_> =
            slice.groups.iter().flat_map(|group| &group.endpoints).map(|endpoint| endpoint.address).collect();
        assert_eq!(slice.service.to_string(), "shop/web");
        assert_eq!(addresses, ["10.1.0.1".parse::<IpAddr>().expect("an address")]);
        assert!(slice.triggered.is_some());
    }
}
