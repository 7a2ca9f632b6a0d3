//! No cluster at all: Services and slices from files.

use serde_json::Value;
use tests::{Result, objects};

use super::node::{Node, POD_PORT, PROTOCOLS, REFUSED, UNREACHABLE, each};

const V4: &str = "10.254.0.10";
const V6: &str = "fd00:254::10";

fn service(name: &str, address: &str) -> Value {
    objects::service(name, address).port("t", "TCP", 80).port("u", "UDP", 80).json()
}

fn slice(service: &str, endpoints: &[&str]) -> Value {
    let slice = objects::slice(service, &format!("{service}-1"));
    slice.port("t", "TCP", POD_PORT).port("u", "UDP", POD_PORT).ready(endpoints).json()
}

#[test]
fn both_families_and_both_protocols_are_balanced_exactly() -> Result<()> {
    let node = Node::with_pods()?;
    let documents = [
        service("web", V4),
        slice("web", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]),
        service("web6", V6),
        slice("web6", &["fd00:1::1", "fd00:1::2", "fd00:1::3"]),
    ];
    node.write("services.yaml", &documents.map(|document| document.to_string()).join("\n---\n"))?;
    let _proxy = node.proxy_of_files()?;
    for target in [format!("{V4}:80"), format!("[{V6}]:80")] {
        for protocol in PROTOCOLS {
            let report = node.dial(protocol, &target, 30)?;
            assert_eq!(report.backends, each(10), "{protocol} to {target}: {report:?}");
            assert!(report.peers.keys().eq([&target]), "the client sees its service: {protocol}: {report:?}");
        }
    }
    Ok(())
}

/// What people write: names and protocols left out, as they may be for a single port.
#[test]
fn what_the_api_server_would_have_filled_in_may_be_left_out() -> Result<()> {
    let node = Node::with_pods()?;
    node.write(
        "web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
         spec: {clusterIP: 10.254.0.10, ports: [{port: 80}]}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
         addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.0.1]}]\n",
    )?;
    let _proxy = node.proxy_of_files()?;
    let report = node.dial("tcp", "10.254.0.10:80", 3)?;
    assert_eq!(report.backends.get("pod-1"), Some(&3), "{report:?}");
    Ok(())
}

#[test]
fn traffic_follows_the_files() -> Result<()> {
    let node = Node::with_pods()?;
    let proxy = node.proxy_of_files()?;
    let target = format!("{V4}:80");
    node.await_error(&target, UNREACHABLE)?;
    node.write("service.json", &service("web", V4).to_string())?;
    node.await_error(&target, REFUSED)?;
    node.write("endpoints.yaml", &slice("web", &["10.1.0.1"]).to_string())?;
    node.await_backends(&target, &["pod-1"])?;
    node.write("endpoints.yaml", &slice("web", &["10.1.0.2", "10.1.0.3"]).to_string())?;
    node.await_backends(&target, &["pod-2", "pod-3"])?;

    // No YAML, and no Service: what was last understood stays, and the file and the reason are in the log.
    node.write("endpoints.yaml", "apiVersion: {{")?;
    let malformed = objects::service("web", "nowhere").port("t", "TCP", 80).json();
    node.write("service.json", &malformed.to_string())?;
    for file in ["endpoints.yaml", "service.json"] {
        let complains =
            |line: &str| line.contains("WARN") && line.contains(file) && line.contains("stays in force");
        super::node::until("the log names the file", || Ok(proxy.log()?.lines().any(complains)))?;
    }
    node.await_backends(&target, &["pod-2", "pod-3"])?;

    node.write("service.json", &service("web", V4).to_string())?;
    node.remove("endpoints.yaml")?;
    node.await_error(&target, REFUSED)?;
    node.remove("service.json")?;
    node.await_error(&target, UNREACHABLE)
}
