//! Services as an apiserver tells of them. The rows are those of kube-proxy's own tests.

use serde_json::Value;
use tests::apiserver::Release;
use tests::objects::{self, Object};
use tests::{Process, Result};

use super::apiserver::{Apiserver, ControlPlane, watching_proxy};
use super::node::{Node, POD_PORT, PROTOCOLS, REFUSED, UNREACHABLE, each};

const ADDRESS: &str = "10.254.0.10";
const TARGET: &str = "10.254.0.10:80";
const PODS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];

/// A node whose proxy watches an apiserver.
struct Site {
    proxy: Process,
    _apiserver: Apiserver,
    cluster: ControlPlane,
    node: Node,
}

fn site(release: Release) -> Result<Site> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, release)?;
    let apiserver = cluster.apiserver(&node)?;
    Ok(Site { proxy: watching_proxy(&node)?, _apiserver: apiserver, cluster, node })
}

fn both(object: Object, port: u16) -> Object {
    object.port("t", "TCP", port).port("u", "UDP", port)
}

fn web() -> Object {
    both(objects::service("web", ADDRESS), 80)
}

fn slice(endpoints: &[&str]) -> Value {
    both(objects::slice("web", "web-1"), POD_PORT).ready(endpoints).json()
}

#[test]
fn every_generation_of_the_api_is_followed() -> Result<()> {
    for release in [Release::Current, Release::Old] {
        let endpoints = |addresses: &[&str]| match release {
            Release::Current => slice(addresses),
            Release::Old => both(objects::endpoints("web"), POD_PORT).ready(addresses).json(),
        };
        let Site { proxy, node, cluster, _apiserver } = site(release)?;
        cluster.put([web().json(), endpoints(&PODS)])?;
        node.await_backends(TARGET, &["pod-1", "pod-2", "pod-3"])?;
        for protocol in PROTOCOLS {
            let report = node.dial(protocol, TARGET, 30)?;
            assert_eq!(report.backends, each(10), "{release:?}, {protocol}: {report:?}");
        }
        cluster.put([endpoints(&PODS[1..])])?;
        node.await_backends(TARGET, &["pod-2", "pod-3"])?;
        cluster.put([endpoints(&[])])?;
        node.await_error(TARGET, REFUSED)?;
        cluster.store.delete(&web().json())?;
        node.await_error(TARGET, UNREACHABLE)?;
        let fell_back = proxy.log()?.contains("no EndpointSlices are served, watching Endpoints");
        assert_eq!(fell_back, release == Release::Old);
    }
    Ok(())
}

/// A3, A4, A5, A12.
#[test]
fn each_protocol_of_a_port_goes_its_own_way() -> Result<()> {
    let Site { mut node, cluster, proxy: _proxy, _apiserver } = site(Release::Current)?;
    node.serve(1, "tcp-pod", 5353)?;
    node.serve(1, "udp-pod", 53)?;
    let dns = objects::service("dns", "10.254.0.53").port("t", "TCP", 53).port("u", "UDP", 53);
    let dns_slice = objects::slice("dns", "dns-1").port("t", "TCP", 5353).port("u", "UDP", 53);
    let plain = objects::service("plain", "10.254.0.80").port("t", "TCP", 80);
    let plain_slice = objects::slice("plain", "plain-1").port("t", "TCP", POD_PORT).ready(&PODS[..1]);
    let empty = both(objects::service("empty", "10.254.0.99"), 80);
    let dns_slice = dns_slice.ready(&PODS[..1]);
    cluster.put([dns, dns_slice, plain, plain_slice, empty].map(Object::json))?;
    node.await_metric("fairway_proxy_frontends", 5.0)?;
    for (protocol, target, answered, error) in [
        ("tcp", "10.254.0.53:53", "tcp-pod", ""),
        ("udp", "10.254.0.53:53", "udp-pod", ""),
        ("tcp", "10.254.0.80:80", "pod-1", ""),
        ("udp", "10.254.0.80:80", "", REFUSED),
        ("connected-udp", "10.254.0.80:80", "", REFUSED),
        ("tcp", "10.254.0.80:81", "", REFUSED),
        ("tcp", "10.254.0.99:80", "", REFUSED),
        ("udp", "10.254.0.99:80", "", REFUSED),
        ("connected-udp", "10.254.0.99:80", "", REFUSED),
    ] {
        let report = node.dial(protocol, target, 3)?;
        let (said, count) =
            if error.is_empty() { (answered, &report.backends) } else { (error, &report.errors) };
        assert_eq!(count.get(said), Some(&3), "{protocol} to {target}: {report:?}");
    }
    Ok(())
}

/// F9 to F12.
#[test]
fn services_that_are_not_ours_are_left_alone() -> Result<()> {
    let Site { node, cluster, proxy: _proxy, _apiserver } = site(Release::Current)?;
    let headless = both(objects::service("headless", "None"), 80);
    cluster.put([headless.json(), web().json(), slice(&PODS[..1])])?;
    node.await_backends(TARGET, &["pod-1"])?;
    node.await_metric("fairway_proxy_frontends", 2.0)?;
    let external = || {
        let object = web().with("/spec", "type", "ExternalName").with("/spec", "externalName", "example.org");
        object.with("/spec", "clusterIP", "").with("/spec", "clusterIPs", Value::Array(Vec::new()))
    };
    for other in [
        web().label("service.kubernetes.io/service-proxy-name", "another"),
        web().label("service.kubernetes.io/headless", ""),
        web().with("/spec", "clusterIP", "None").with("/spec", "clusterIPs", vec!["None"]),
        external(),
    ] {
        cluster.put([other.json()])?;
        node.await_error(TARGET, UNREACHABLE)?;
        cluster.put([web().json()])?;
        node.await_backends(TARGET, &["pod-1"])?;
    }
    let mut marked = slice(&PODS[..1]);
    marked["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    cluster.put([marked])?;
    node.await_error(TARGET, REFUSED)
}

/// F6 and F13.
#[test]
fn objects_may_come_in_any_order_and_come_back_changed() -> Result<()> {
    let Site { node, cluster, proxy: _proxy, _apiserver } = site(Release::Current)?;
    cluster.put([slice(&PODS[..2])])?;
    cluster.put([web().json()])?;
    node.await_backends(TARGET, &["pod-1", "pod-2"])?;
    cluster.store.delete(&web().json())?;
    cluster.put([both(objects::service("web", "10.254.0.11"), 80).json()])?;
    node.await_backends("10.254.0.11:80", &["pod-1", "pod-2"])?;
    node.await_error(TARGET, UNREACHABLE)?;
    // The other way round: the slices went and come back.
    cluster.store.delete(&slice(&[]))?;
    node.await_error("10.254.0.11:80", REFUSED)?;
    cluster.put([slice(&PODS[2..])])?;
    node.await_backends("10.254.0.11:80", &["pod-3"])
}
