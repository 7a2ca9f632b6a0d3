//! Endpoints of Services: `EndpointSlice`s, or the `Endpoints` objects that older clusters have instead.

use std::collections::BTreeSet;
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
    pub ports: Box<[EndpointPort]>,
    /// The endpoints, also those that get no connections now.
    pub endpoints: Box<[Endpoint]>,
}

/// Where an endpoint answers for one of the Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Box<str>,
    /// The number at the endpoint.
    pub port: Port,
    /// The protocol, which must be that of the Service's port.
    pub protocol: Protocol,
}

/// A pod, most likely.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Whether it is wanted.
    pub readiness: Readiness,
    /// Its address.
    pub address: IpAddr,
    /// `nodeName`: the node it is on.
    pub node: Option<Box<str>>,
    /// `hints`: who should use it.
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant, where all endpoints say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// `forNodes[].name`.
    pub nodes: BTreeSet<Box<str>>,
    /// `forZones[].name`.
    pub zones: BTreeSet<Box<str>>,
}

/// Which endpoints get new connections: those that are ready; where none is, those on their way out that still serve.
///
/// The order is that in which one is believed of an endpoint that is there several times: an address that a new pod has
/// may still be listed for the terminating pod that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Ready.
    Ready,
    /// Not ready, and not terminating.
    Unready,
    /// Terminating, but still serving.
    Leaving,
    /// Terminating, and not serving any more.
    Gone,
}

impl Slice {
    /// Whether any endpoint is in it, ready or not.
    pub fn has_endpoints(&self) -> bool {
        self.groups.iter().any(|group| !group.endpoints.is_empty())
    }

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
                    name: port.name.as_deref().unwrap_or_default().into(),
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
            endpoints.push(Endpoint {
                readiness: readiness(endpoint.conditions.as_ref()),
                address,
                node: endpoint.node_name.as_deref().map(Box::from),
                hints: endpoint.hints.as_ref().and_then(hints),
            });
        }
        Ok(Some(Self {
            service: Name::new(object.metadata.namespace.as_deref(), service),
            groups: vec![Group { ports: ports.into(), endpoints: endpoints.into() }],
            triggered: triggered(&object.metadata),
        }))
    }

    /// Reads an `Endpoints` object, which has the name of its Service. It knows of no hints, and counts among those that
    /// are not ready whatever is terminating.
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
                    name: port.name.as_deref().unwrap_or_default().into(),
                    port: refusal::port("subsets[].ports[].port", port.port)?,
                    protocol: refusal::protocol("subsets[].ports[].protocol", port.protocol.as_deref())?,
                });
            }
            let mut endpoints = Vec::new();
            let lists = [
                ("subsets[].addresses[].ip", &subset.addresses, Readiness::Ready),
                ("subsets[].notReadyAddresses[].ip", &subset.not_ready_addresses, Readiness::Unready),
            ];
            for (field, list, readiness) in lists {
                for entry in list.iter().flatten() {
                    endpoints.push(Endpoint {
                        readiness,
                        address: refusal::address(field, &entry.ip)?,
                        node: entry.node_name.as_deref().map(Box::from),
                        hints: None,
                    });
                }
            }
            groups.push(Group { ports: ports.into(), endpoints: endpoints.into() });
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

/// What the conditions come to, with the API's defaults for those that are absent.
fn readiness(conditions: Option<&discovery::EndpointConditions>) -> Readiness {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, terminating, serving) {
        (true, _, _) => Readiness::Ready,
        (false, false, _) => Readiness::Unready,
        (false, true, true) => Readiness::Leaving,
        (false, true, false) => Readiness::Gone,
    }
}

/// `None` where it is meant for nobody in particular.
fn hints(hints: &discovery::EndpointHints) -> Option<Box<Hints>> {
    let read = Hints {
        nodes: hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect(),
        zones: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
    };
    (read != Hints::default()).then(|| Box::new(read))
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
            (json!(null), Readiness::Ready),
            (json!({}), Readiness::Ready),
            (json!({ "ready": true, "terminating": true }), Readiness::Ready),
            (json!({ "ready": false }), Readiness::Unready),
            (json!({ "ready": false, "serving": true }), Readiness::Unready),
            (json!({ "ready": false, "terminating": true }), Readiness::Leaving),
            (json!({ "ready": false, "serving": true, "terminating": true }), Readiness::Leaving),
            (json!({ "ready": false, "serving": false, "terminating": true }), Readiness::Gone),
        ];
        for (conditions, expected) in cases {
            let found =
                endpoints(json!({ "endpoints": [{ "addresses": ["10.1.0.1"], "conditions": conditions }] }));
            assert_eq!(found, [("10.1.0.1".to_owned(), expected)], "{conditions}");
        }
    }

    #[test]
    fn an_endpoint_says_where_it_is_and_for_whom() {
        let hints =
            json!({ "forZones": [{ "name": "az-1" }, { "name": "az-2" }], "forNodes": [{ "name": "m1" }] });
        let list = json!([
            { "addresses": ["10.1.0.1"], "nodeName": "m1", "hints": hints },
            { "addresses": ["10.1.0.2"], "hints": { "forZones": [] } },
        ]);
        let slice = slice(json!({ "endpoints": list })).expect("valid").expect("ours");
        let [first, second] = &slice.groups[0].endpoints[..] else { panic!("two endpoints") };
        assert_eq!(first.node.as_deref(), Some("m1"));
        let hints = Hints { nodes: ["m1".into()].into(), zones: ["az-1".into(), "az-2".into()].into() };
        assert_eq!(first.hints.as_deref(), Some(&hints));
        assert_eq!((&second.node, &second.hints), (&None, &None));
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
            name: "".into(),
            port: Port::new(number).expect("not 0"),
            protocol: Protocol::Tcp,
        };
        assert_eq!(slice.groups, [Group { ports: [port(80), port(8080)].into(), endpoints: [].into() }]);
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
    fn old_endpoints_say_who_is_ready_and_where() {
        let object = json!({
            "metadata": { "name": "web", "namespace": "shop", "annotations": { TRIGGER_ANNOTATION: "2026-01-02T03:04:05Z" } },
            "subsets": [
                { "addresses": [{ "ip": "10.1.0.1", "nodeName": "m1" }], "notReadyAddresses": [{ "ip": "10.1.0.9" }], "ports": [{ "port": 8080 }] },
                { "notReadyAddresses": [{ "ip": "10.1.0.8" }], "ports": [{ "port": 8080 }] },
            ],
        });
        let slice = Slice::read_endpoints(&serde_json::from_value(object).expect("an Endpoints"));
        let slice = slice.expect("valid").expect("ours");
        let endpoints = slice.groups.iter().flat_map(|group| &group.endpoints);
        let told = endpoints.map(|it| (it.address.to_string(), it.readiness, it.node.as_deref()));
        assert_eq!(slice.service.to_string(), "shop/web");
        let expected = [
            ("10.1.0.1".to_owned(), Readiness::Ready, Some("m1")),
            ("10.1.0.9".to_owned(), Readiness::Unready, None),
            ("10.1.0.8".to_owned(), Readiness::Unready, None),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert!(slice.triggered.is_some());
    }
}
