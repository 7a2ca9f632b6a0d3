//! The node this process runs on: what its Node object says, and what the machine itself does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::{Delta, Family, Kind, Refusal, refusal};

/// The cluster autoscaler's announcement that it will take a node away (kube-proxy's `ToBeDeletedTaint`).
pub const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Names the zone of a node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What the plan needs to know of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Its name, by which endpoints say where they are.
    pub name: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// The addresses of its Node object, the most important first.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its interfaces; read only where node ports depend on them.
    pub interfaces: BTreeSet<IpAddr>,
}

impl Here {
    /// The address by which others know the node in this family.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// What a Node object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether it stays.
    pub standing: Standing,
    /// Its zone.
    pub zone: Option<String>,
    /// Its addresses: internal ones before external ones, as kube-proxy prefers them.
    pub addresses: Vec<IpAddr>,
}

/// Whether load balancers outside of the cluster should send new connections to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// No Node object was seen: nothing speaks against it.
    #[default]
    Unknown,
    /// The node stays.
    Staying,
    /// The node is to be taken away, or its object is gone.
    Leaving,
}

impl Standing {
    /// `nodeEligible` of `/healthz`.
    pub const fn is_eligible(self) -> bool {
        match self {
            Self::Unknown | Self::Staying => true,
            Self::Leaving => false,
        }
    }

    /// The standing after news of this node's object; what could not be read changes nothing.
    #[must_use]
    pub fn after(self, news: &Delta<Node>) -> Self {
        match news {
            Delta::Applied(_, node) => node.standing,
            Delta::Removed(_) => Self::Leaving,
            Delta::Listed { objects, refused } => match (objects.values().next(), self) {
                (Some(node), _) => node.standing,
                (None, Self::Staying | Self::Leaving) if refused.is_empty() => Self::Leaving,
                (None, known) => known,
            },
        }
    }
}

/// As much of a Node object as matters here.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct Spec {
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
}

#[derive(Default, Deserialize)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Reads what a Node says. An address that is none, such as a host name, is read past.
pub(super) fn read(object: Value) -> Result<Option<Node>, Refusal> {
    let Object { metadata, spec, status } = super::kind::decoded(Kind::Node, object)?;
    let tainted = spec.taints.unwrap_or_default().iter().any(|taint| taint.key == TO_BE_DELETED_TAINT);
    let leaving = tainted || metadata.deletion_timestamp.is_some();
    let listed = status.addresses.unwrap_or_default();
    let of_kind = |kind: &'static str| {
        let of_kind = listed.iter().filter(move |entry| entry.kind == kind);
        of_kind.filter_map(|entry| refusal::address("", &entry.address).ok())
    };
    Ok(Some(Node {
        standing: if leaving { Standing::Leaving } else { Standing::Staying },
        zone: metadata
            .labels
            .and_then(|mut labels| labels.remove(ZONE_LABEL))
            .filter(|zone| !zone.is_empty()),
        addresses: of_kind("InternalIP").chain(of_kind("ExternalIP")).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::Name;

    #[test]
    fn taint_and_deletion_say_that_a_node_leaves() {
        let other = json!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" });
        let taint = json!({ "key": TO_BE_DELETED_TAINT, "value": "1", "effect": "NoSchedule" });
        let cases = [
            (json!({ "metadata": {} }), Standing::Staying),
            (json!({ "metadata": {}, "spec": { "taints": null } }), Standing::Staying),
            (json!({ "metadata": {}, "spec": { "taints": [other] } }), Standing::Staying),
            (json!({ "metadata": {}, "spec": { "taints": [other, taint] } }), Standing::Leaving),
            (json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), Standing::Leaving),
        ];
        for (object, expected) in cases {
            let node = read(object.clone()).expect("valid").expect("a node");
            assert_eq!(node.standing, expected, "{object}");
        }
        for object in [json!(7), json!({ "metadata": {}, "spec": { "taints": "all" } })] {
            assert!(read(object.clone()).is_err(), "{object}");
        }
    }

    #[test]
    fn the_first_internal_address_of_a_family_is_the_nodes() {
        let address = |kind: &str, address: &str| json!({ "type": kind, "address": address });
        let addresses = [
            address("Hostname", "n1"),
            address("ExternalIP", "192.0.2.1"),
            address("InternalIP", "10.0.0.1"),
            address("InternalIP", "10.0.0.2"),
            address("ExternalIP", "2001:db8::1"),
        ];
        let object =
            json!({ "metadata": { "labels": { ZONE_LABEL: "az-1" } }, "status": { "addresses": addresses } });
        let node = read(object).expect("valid").expect("a node");
        assert_eq!(node.zone.as_deref(), Some("az-1"));
        let here = Here { addresses: node.addresses, ..Here::default() };
        let primary = Family::ALL.map(|family| here.primary(family).map(|address| address.to_string()));
        assert_eq!(primary, [Some("10.0.0.1".to_owned()), Some("2001:db8::1".to_owned())]);
    }

    #[test]
    fn only_what_was_seen_can_be_missed() {
        use Standing::{Leaving, Staying, Unknown};
        let name = || Name::new(None, "n1");
        let node = |standing| Node { standing, ..Node::default() };
        let listed = |objects: &[Standing], refused: bool| Delta::Listed {
            objects: objects.iter().map(|standing| (name(), node(*standing))).collect::<BTreeMap<_, _>>(),
            refused: refused.then(name).into_iter().collect::<BTreeSet<_>>(),
        };
        let cases = [
            (Unknown, listed(&[], false), Unknown),
            (Staying, listed(&[], false), Leaving),
            (Staying, listed(&[], true), Staying),
            (Leaving, listed(&[Staying], false), Staying),
            (Unknown, listed(&[Leaving], false), Leaving),
            (Staying, Delta::Removed(name()), Leaving),
            (Leaving, Delta::Applied(name(), node(Staying)), Staying),
            (Staying, Delta::Applied(name(), node(Leaving)), Leaving),
        ];
        for (before, news, expected) in cases {
            assert_eq!(before.after(&news), expected, "{before:?} {news:?}");
        }
    }
}
