//! What clients learn of the server before they ask for objects.

use serde_json::{Value, json};

use super::Release;
use super::resource::Resource;

/// `/version`.
pub(super) fn version(release: Release) -> Value {
    let minor = match release {
        Release::Old => "20",
        Release::Current => "36",
    };
    json!({
        "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0+fairway-stub"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub(super) fn legacy_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(super) fn groups(release: Release) -> Value {
    let groups = if release.has_slices() { vec![group()] } else { Vec::new() };
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/discovery.k8s.io`.
pub(super) fn group() -> Value {
    let version = json!({"groupVersion": "discovery.k8s.io/v1", "version": "v1"});
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": "discovery.k8s.io", "versions": [version],
        "preferredVersion": version,
    })
}

/// The resources below `root`.
pub(super) fn resources(root: &str) -> Value {
    let served = || Resource::ALL.into_iter().filter(|resource| resource.root() == root);
    let group_version = served().next().map_or("v1", Resource::api_version);
    let resources: Vec<Value> = served()
        .map(|resource| {
            json!({
                "name": resource.plural(), "singularName": "", "namespaced": resource.is_namespaced(),
                "kind": resource.kind(), "verbs": ["create", "delete", "get", "list", "update", "watch"],
            })
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}
