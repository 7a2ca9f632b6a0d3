//! Who may import whom: the picture in ARCHITECTURE.md, checked against what Cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Our crates and which of ours they may depend on, tests and benches excepted.
const PICTURE: &[(&str, &[&str])] = &[
    ("ebpf-abi", &[]),
    ("ebpf-programs", &["ebpf-abi"]),
    ("plan", &[]),
    ("vrrp", &[]),
    ("daemon", &[]),
    ("decisions", &["plan"]),
    ("dataplane", &["ebpf-abi", "plan"]),
    ("proxy", &["daemon", "dataplane", "plan"]),
    ("lb", &["daemon", "dataplane", "plan", "vrrp"]),
];

/// Crates of others that only some of ours may know.
const WALLED: &[(&str, &[&str])] = &[
    ("aya", &["dataplane"]),
    ("aya-obj", &["dataplane"]),
    ("aya-ebpf", &["ebpf-programs"]),
    ("kube", &["proxy"]),
    ("k8s-openapi", &["proxy"]),
    ("rustls", &["lb", "tests"]),
    ("tokio-rustls", &["lb", "tests"]),
];

/// What a crate without I/O may list: nothing that opens, sends, waits or logs.
const PURE: &[(&str, &[&str])] =
    &[("ebpf-abi", &["bytemuck"]), ("plan", &["ipnet", "siphasher"]), ("vrrp", &["thiserror"])];

/// Normal dependencies of every package of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let arguments =
        ["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path", manifest];
    let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a list").iter();
        all.filter(|one| one["kind"].is_null()).map(|one| text(&one["name"])).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list").iter();
    packages.map(|package| (text(&package["name"]), normal(package))).collect()
}

#[test]
fn every_crate_is_in_the_picture() {
    let pictured = PICTURE.iter().map(|(name, _)| *name).chain(["tests", "bench"]);
    let found = dependencies();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), pictured.collect());
}

#[test]
fn our_crates_import_only_whom_they_may() {
    let found = dependencies();
    for (name, allowed) in PICTURE {
        for other in found[*name].iter().filter(|other| found.contains_key(*other)) {
            assert!(allowed.contains(&other.as_str()), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn some_crates_of_others_are_behind_a_wall() {
    for (name, dependencies) in dependencies() {
        for (walled, allowed) in WALLED {
            let crosses = dependencies.contains(*walled) && !allowed.contains(&name.as_str());
            assert!(!crosses, "{name} must not know {walled}: only {allowed:?} may");
        }
    }
}

#[test]
fn pure_crates_list_nothing_that_does_anything() {
    let found = dependencies();
    for (name, allowed) in PURE {
        for other in &found[*name] {
            assert!(allowed.contains(&other.as_str()), "{name} is pure and must not depend on {other}");
        }
    }
}
