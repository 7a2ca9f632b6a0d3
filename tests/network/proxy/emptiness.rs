//! An apiserver comes back empty, as one does that lost its data: nobody who is served loses a Service to it.

use serde_json::Value;
use tests::apiserver::Release;
use tests::objects::{self, Object};
use tests::{Process, Result};

use super::apiserver::{Apiserver, ControlPlane, watching_proxy};
use super::node::{Node, POD_PORT, UNREACHABLE, until};

const PODS: [&str; 2] = ["10.1.0.1", "10.1.0.2"];

fn both(object: Object, port: u16) -> Object {
    object.port("t", "TCP", port).port("u", "UDP", port)
}

fn target(number: u8) -> String {
    format!("10.254.0.{number}:80")
}

/// Service number `number`, and its slice with these pods.
fn service(number: u8, pods: &[&str]) -> [Value; 2] {
    let name = format!("web-{number}");
    let service = both(objects::service(&name, &format!("10.254.0.{number}")), 80);
    [service, both(objects::slice(&name, &format!("{name}-1")), POD_PORT).ready(pods)].map(Object::json)
}

/// What every apiserver has, also one without any data.
fn own() -> [Value; 2] {
    let service = objects::service("kubernetes", "10.254.0.1").port("https", "TCP", 443);
    [service, objects::slice("kubernetes", "kubernetes").port("https", "TCP", 6443).ready(&["10.1.0.100"])]
        .map(Object::json)
}

/// It dies, loses everything but what it makes for itself, and comes back.
fn come_back_empty(cluster: &ControlPlane, apiserver: &mut Apiserver) -> Result<()> {
    apiserver.kill();
    for number in 11..=13 {
        service(number, &[]).iter().try_for_each(|object| cluster.store.delete(object).map(drop))?;
    }
    cluster.store.compact();
    apiserver.start()
}

fn await_held(node: &Node, services: f64, slices: f64, frontends: f64) -> Result<()> {
    for (kind, count) in [("Service", services), ("EndpointSlice", slices), ("frontend", frontends)] {
        node.await_metric(&format!("fairway_proxy_held_back{{kind=\"{kind}\"}}"), count)?;
    }
    Ok(())
}

fn says(proxy: &Process, level: &str, words: &str) -> Result<()> {
    until(&format!("the log says {words:?}"), || {
        Ok(proxy.log()?.lines().any(|line| line.contains(level) && line.contains(words)))
    })
}

#[test]
fn what_an_empty_apiserver_knows_no_more_is_served_until_somebody_lets_it_go() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let mut apiserver = cluster.apiserver(&node)?;
    cluster.put(own().into_iter().chain((11..=13).flat_map(|number| service(number, &PODS))))?;
    let mut proxy = watching_proxy(&node)?;
    let load = node.load(&target(11))?;
    come_back_empty(&cluster, &mut apiserver)?;
    await_held(&node, 3.0, 3.0, 0.0)?;
    says(&proxy, "ERROR", "nearly everything vanished at once")?;
    for number in 11..=13 {
        node.await_backends(&target(number), &["pod-1", "pod-2"])?;
    }
    // Nor does a start believe it: there it is the kernel that knows what was served.
    proxy.kill()?;
    proxy = watching_proxy(&node)?;
    await_held(&node, 0.0, 0.0, 6.0)?;
    says(&proxy, "ERROR", "nearly everything vanished at once")?;
    node.await_backends(&target(13), &["pod-1", "pod-2"])?;
    // Object by object it comes back, as somebody restores it.
    cluster.put(service(11, &["10.1.0.3"]))?;
    node.await_backends(&target(11), &["pod-3"])?;
    await_held(&node, 0.0, 0.0, 4.0)?;
    let (errors, _) = load.stop()?;
    assert_eq!(errors, [""; 0]);
    // Or an operator says that it is gone.
    proxy.signal(nix::sys::signal::Signal::SIGUSR1)?;
    for number in 12..=13 {
        node.await_error(&target(number), UNREACHABLE)?;
    }
    node.await_backends(&target(11), &["pod-3"])?;
    await_held(&node, 0.0, 0.0, 0.0)?;
    says(&proxy, "INFO", "nothing is held back any more")
}

#[test]
fn whoever_does_not_want_it_guarded_has_it_gone() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let mut apiserver = cluster.apiserver(&node)?;
    cluster.put(own().into_iter().chain((11..=13).flat_map(|number| service(number, &PODS))))?;
    let kubeconfig = node.directory().join("kubeconfig").display().to_string();
    let _proxy = node.proxy(&["--kubeconfig", &kubeconfig, "--guard-emptiness=false"])?;
    node.await_backends(&target(12), &["pod-1", "pod-2"])?;
    come_back_empty(&cluster, &mut apiserver)?;
    node.await_error(&target(12), UNREACHABLE)
}
