//! What the Node object says about this node's future.

use serde::Deserialize;
use serde_json::Value;

use super::{Delta, Kind, Refusal};

/// The cluster autoscaler's announcement that it will take a node away (kube-proxy's `ToBeDeletedTaint`).
pub const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

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
    pub fn after(self, news: &Delta<Self>) -> Self {
        match news {
            Delta::Applied(_, standing) => *standing,
            Delta::Removed(_) => Self::Leaving,
            Delta::Listed { objects, refused } => match (objects.values().next(), self) {
                (Some(standing), _) => *standing,
                (None, Self::Staying | Self::Leaving) if refused.is_empty() => Self::Leaving,
                (None, known) => known,
            },
        }
    }
}

/// As much of a Node as matters here.
#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
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

/// Reads what a Node says about its standing.
pub fn standing(object: Value) -> Result<Option<Standing>, Refusal> {
    let node: Node = super::kind::decoded(Kind::Node, object)?;
    let tainted = node.spec.taints.unwrap_or_default().iter().any(|taint| taint.key == TO_BE_DELETED_TAINT);
    let leaving = tainted || node.metadata.deletion_timestamp.is_some();
    Ok(Some(if leaving { Standing::Leaving } else { Standing::Staying }))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

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
            assert_eq!(standing(object.clone()), Ok(Some(expected)), "{object}");
        }
        for object in [json!(7), json!({ "metadata": {}, "spec": { "taints": "all" } })] {
            assert!(standing(object.clone()).is_err(), "{object}");
        }
    }

    #[test]
    fn only_what_was_seen_can_be_missed() {
        use Standing::{Leaving, Staying, Unknown};
        let name = || Name::new(None, "n1");
        let listed = |objects: &[Standing], refused: bool| Delta::Listed {
            objects: objects.iter().map(|standing| (name(), *standing)).collect::<BTreeMap<_, _>>(),
            refused: refused.then(name).into_iter().collect::<BTreeSet<_>>(),
        };
        let cases = [
            (Unknown, listed(&[], false), Unknown),
            (Staying, listed(&[], false), Leaving),
            (Staying, listed(&[], true), Staying),
            (Leaving, listed(&[Staying], false), Staying),
            (Unknown, listed(&[Leaving], false), Leaving),
            (Staying, Delta::Removed(name()), Leaving),
            (Leaving, Delta::Applied(name(), Staying), Staying),
            (Staying, Delta::Applied(name(), Leaving), Leaving),
        ];
        for (before, news, expected) in cases {
            assert_eq!(before.after(&news), expected, "{before:?} {news:?}");
        }
    }
}
