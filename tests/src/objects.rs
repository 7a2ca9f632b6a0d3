//! Kubernetes objects as tests write them.
//!
//! ```
//! use tests::objects;
//!
//! let service = objects::service("web", "10.254.0.10").port("http", "TCP", 80).json();
//! let slice = objects::slice("web", "web-1").port("http", "TCP", 8080).ready(&["10.1.0.1", "10.1.0.2"]).json();
//! assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
//! assert_eq!(service["spec"]["ports"][0]["port"], 80);
//! ```

use std::net::IpAddr;

use serde_json::{Value, json};

/// An object in the making. Whatever has no method of its own is set by [`Object::with`].
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    value: Value,
    /// Where its ports are.
    ports: &'static str,
}

/// An endpoint in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: &'static str,
    node: Option<&'static str>,
    /// Ready, serving, terminating.
    conditions: Option<[bool; 3]>,
    zones: Vec<&'static str>,
    nodes: Vec<&'static str>,
}

/// A `ClusterIP` Service in the namespace `default`.
pub fn service(name: &str, address: &str) -> Object {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let value = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": [family], "ports": [],
        },
    });
    Object { value, ports: "/spec/ports" }
}

/// An `EndpointSlice` of `service`, without endpoints. Its address type follows its first endpoint.
pub fn slice(service: &str, name: &str) -> Object {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "endpoints": [], "ports": [],
    });
    Object { value, ports: "/ports" }
}

/// The Endpoints of `service`, with one subset.
pub fn endpoints(service: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service, "namespace": "default"},
        "subsets": [{"addresses": [], "notReadyAddresses": [], "ports": []}],
    });
    Object { value, ports: "/subsets/0/ports" }
}

/// A Node with an internal address.
pub fn node(name: &str, address: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    });
    Object { value, ports: "" }
}

/// A `ServiceCIDR` with these networks.
pub fn service_cidr(name: &str, cidrs: &[&str]) -> Object {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": cidrs},
    });
    Object { value, ports: "" }
}

impl Endpoint {
    /// One that is ready.
    pub fn ready(address: &'static str) -> Self {
        let conditions = Some([true, true, false]);
        Self { address, node: None, conditions, zones: Vec::new(), nodes: Vec::new() }
    }

    /// One that is not.
    pub fn unready(address: &'static str) -> Self {
        Self::ready(address).but_unready()
    }

    /// The same on a node.
    #[must_use]
    pub fn on(self, node: &'static str) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The same, not ready.
    #[must_use]
    pub fn but_unready(self) -> Self {
        Self { conditions: Some([false, false, false]), ..self }
    }

    /// The same, terminating while it still serves.
    #[must_use]
    pub fn but_leaving(self) -> Self {
        Self { conditions: Some([false, true, true]), ..self }
    }

    /// The same, terminating and not serving any more.
    #[must_use]
    pub fn but_gone(self) -> Self {
        Self { conditions: Some([false, false, true]), ..self }
    }

    /// The same, of which nothing is said.
    #[must_use]
    pub fn without_conditions(self) -> Self {
        Self { conditions: None, ..self }
    }

    /// The same, meant for a zone as well.
    #[must_use]
    pub fn for_zone(mut self, zone: &'static str) -> Self {
        self.zones.push(zone);
        self
    }

    /// The same, meant for a node as well.
    #[must_use]
    pub fn for_node(mut self, node: &'static str) -> Self {
        self.nodes.push(node);
        self
    }

    /// Whether an Endpoints object can say all there is to say of it.
    pub fn fits_endpoints(&self) -> bool {
        let leaves = self.conditions.is_some_and(|[_, _, terminating]| terminating);
        !leaves && self.zones.is_empty() && self.nodes.is_empty()
    }
}

impl Object {
    /// Adds a port. An empty name is left out, as for a Service with one port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        let mut entry = json!({"protocol": protocol, "port": port});
        if !name.is_empty() {
            entry["name"] = name.into();
        }
        self.push(self.ports, entry);
        self
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        let Endpoint { address, node, conditions, zones, nodes } = endpoint;
        let mut entry = if self.value["kind"] == "EndpointSlice" {
            self.value["addressType"] = if address.contains(':') { "IPv6" } else { "IPv4" }.into();
            json!({"addresses": [address]})
        } else {
            json!({"ip": address})
        };
        if let Some(node) = node {
            entry["nodeName"] = json!(node);
        }
        if self.value["kind"] == "Endpoints" {
            let ready = conditions.is_none_or(|[ready, ..]| ready);
            let list = if ready { "/subsets/0/addresses" } else { "/subsets/0/notReadyAddresses" };
            self.push(list, entry);
            return self;
        }
        if let Some([ready, serving, terminating]) = conditions {
            entry["conditions"] = json!({"ready": ready, "serving": serving, "terminating": terminating});
        }
        let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
        for (field, names) in [("forZones", zones), ("forNodes", nodes)] {
            if !names.is_empty() {
                entry["hints"][field] = named(names);
            }
        }
        self.push("/endpoints", entry);
        self
    }

    /// Adds endpoints that are ready.
    #[must_use]
    pub fn ready(self, addresses: &[&str]) -> Self {
        self.endpoints(addresses, true)
    }

    /// Adds endpoints that are not.
    #[must_use]
    pub fn unready(self, addresses: &[&str]) -> Self {
        self.endpoints(addresses, false)
    }

    /// Moves it to another namespace.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        self.with("/metadata", "namespace", namespace)
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.value["metadata"]["labels"][name] = value.into();
        self
    }

    /// Sets `field` of what the JSON pointer `parent` points to; without effect if that is not there.
    #[must_use]
    pub fn with(mut self, parent: &str, field: &str, value: impl Into<Value>) -> Self {
        if let Some(parent) = self.value.pointer_mut(parent) {
            parent[field] = value.into();
        }
        self
    }

    /// The finished object.
    pub fn json(self) -> Value {
        self.value
    }

    fn endpoints(mut self, addresses: &[&str], ready: bool) -> Self {
        for &address in addresses {
            if self.value["kind"] == "EndpointSlice" {
                let is_v6 = address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
                self.value["addressType"] = if is_v6 { "IPv6" } else { "IPv4" }.into();
                let conditions = json!({"ready": ready, "serving": ready, "terminating": false});
                self.push("/endpoints", json!({"addresses": [address], "conditions": conditions}));
            } else {
                let list = if ready { "/subsets/0/addresses" } else { "/subsets/0/notReadyAddresses" };
                self.push(list, json!({"ip": address}));
            }
        }
        self
    }

    fn push(&mut self, list: &str, entry: Value) {
        if let Some(list) = self.value.pointer_mut(list).and_then(Value::as_array_mut) {
            list.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_slices_say_the_same() {
        let endpoints =
            endpoints("web").port("http", "TCP", 80).ready(&["10.1.0.1"]).unready(&["10.1.0.2"]).json();
        assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "10.1.0.1"}]));
        assert_eq!(endpoints["subsets"][0]["notReadyAddresses"], json!([{"ip": "10.1.0.2"}]));
        assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 80);
        let slice = slice("web", "web-6").port("", "UDP", 53).ready(&["2001:db8::1"]).json();
        assert_eq!(slice["addressType"], "IPv6");
        assert_eq!(slice["ports"], json!([{"protocol": "UDP", "port": 53}]));
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    }
}
