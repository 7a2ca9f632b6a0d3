//! The kinds of API objects that are understood, and their reading from JSON.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Name, Node, Refusal, Service, ServiceCidr, Slice, node, service_cidr};

/// A kind of API object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` Endpoints, where there are no slices.
    Endpoints,
    /// `v1` Node, of which only this one matters.
    Node,
    /// `networking.k8s.io/v1` `ServiceCIDR`, where there are any.
    ServiceCidr,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Service, Self::EndpointSlice, Self::Endpoints, Self::Node, Self::ServiceCidr];

    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// The kind's name in the API's paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Endpoints => "endpoints",
            Self::Node => "nodes",
            Self::ServiceCidr => "servicecidrs",
        }
    }

    /// The API group; empty for the core.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints | Self::Node => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::ServiceCidr => "networking.k8s.io",
        }
    }

    /// `apiVersion` of its objects.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ServiceCidr => "networking.k8s.io/v1",
        }
    }

    /// The kind that an object says it is of; `None` for one that is none of ours.
    pub fn of(object: &Value) -> Option<Self> {
        let says = |kind: &Self| object["apiVersion"] == kind.api_version() && object["kind"] == kind.name();
        Self::ALL.into_iter().find(says)
    }
}

/// The name that an object of any shape goes by.
pub fn name(object: &Value) -> Result<Name, Refusal> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty()).ok_or(Refusal::NoName)?;
    Ok(Name::new(metadata["namespace"].as_str(), name))
}

/// Reads a Service; `None` where it needs nothing of this proxy.
pub fn service(object: Value) -> Result<Option<Service>, Refusal> {
    Service::read(&decoded::<core::Service>(Kind::Service, object)?)
}

/// Reads an `EndpointSlice`; `None` where it says nothing to this proxy.
pub fn endpoint_slice(object: Value) -> Result<Option<Slice>, Refusal> {
    Slice::read(&decoded::<discovery::EndpointSlice>(Kind::EndpointSlice, object)?)
}

/// Reads an Endpoints object; `None` where it says nothing to this proxy.
pub fn endpoints(object: Value) -> Result<Option<Slice>, Refusal> {
    Slice::read_endpoints(&decoded::<core::Endpoints>(Kind::Endpoints, object)?)
}

/// Reads a Node.
pub fn node(object: Value) -> Result<Option<Node>, Refusal> {
    node::read(object)
}

/// Reads a `ServiceCIDR`.
pub fn service_cidr(object: Value) -> Result<Option<ServiceCidr>, Refusal> {
    service_cidr::read(object)
}

pub(super) fn decoded<T: DeserializeOwned>(kind: Kind, object: Value) -> Result<T, Refusal> {
    serde_json::from_value(object)
        .map_err(|error| Refusal::Shape { kind: kind.name(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_of_the_wrong_shape_is_refused_with_the_reason() {
        let refusal = service(json!({ "spec": { "ports": [{ "port": "http" }] } })).expect_err("refused");
        assert!(
            refusal.to_string().starts_with("not a valid Service: invalid type: string \"http\""),
            "{refusal}"
        );
        for object in [json!(null), json!([]), json!("text"), json!({ "metadata": 5 })] {
            assert!(endpoint_slice(object.clone()).is_err(), "{object}");
            assert_eq!(name(&object), Err(Refusal::NoName));
        }
    }

    #[test]
    fn kinds_are_told_by_version_and_name() {
        let cases = [
            (json!({ "apiVersion": "v1", "kind": "Service" }), Some(Kind::Service)),
            (json!({ "apiVersion": "v1", "kind": "Endpoints" }), Some(Kind::Endpoints)),
            (
                json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice" }),
                Some(Kind::EndpointSlice),
            ),
            (json!({ "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice" }), None),
            (json!({ "apiVersion": "v1", "kind": "Pod" }), None),
            (json!(7), None),
        ];
        for (object, kind) in cases {
            assert_eq!(Kind::of(&object), kind, "{object}");
        }
    }
}
