//! What the cluster is told by Events.

use std::sync::Arc;

use proxy::config::Config;
use serde_json::Value;
use tests::apiserver::{Faults, Refuse, Release};
use tests::{Result, objects, wait};

use crate::node::{Node, SOON, Server, frontend_of};

const NODE: &str = "box";

fn start(server: &Server) -> Result<Node> {
    Node::start_by(server, Config { hostname_override: Some(NODE.to_owned()), ..Config::default() })
}

fn service(name: &str, address: &str) -> objects::Object {
    objects::service(name, address).port("http", "TCP", 80)
}

/// The events of this reason that were written.
fn events(server: &Server, reason: &str) -> Vec<Arc<Value>> {
    let written = server.store.events();
    written.into_iter().filter(|event| event["reason"] == reason).collect()
}

/// Waits for the one event of this reason.
fn await_event(server: &Server, reason: &str) -> Result<Arc<Value>> {
    wait::until_some(&format!("an event says {reason}"), SOON, || Ok(events(server, reason).pop()))
}

#[test]
fn a_start_is_told_of_the_node() -> Result<()> {
    let server = Server::start(Release::Current)?;
    let _node = start(&server)?;
    let event = await_event(&server, "Starting")?;
    assert_eq!((&event["type"], &event["action"]), (&"Normal".into(), &"StartKubeProxy".into()));
    assert_eq!(
        (&event["reportingController"], &event["reportingInstance"]),
        (&"fairway-proxy".into(), &NODE.into())
    );
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"], &regarding["uid"]),
        (&"Node".into(), &NODE.into(), &NODE.into())
    );
    Ok(())
}

/// Those of 1.19 and 1.20 take none about a Node where later ones want them.
#[test]
fn an_old_server_is_told_of_the_node_where_it_listens() -> Result<()> {
    let server = Server::start(Release::Old)?;
    server.store.put(service("odd", "10.254.0.12").with("/spec", "externalIPs", vec!["nonsense"]).json())?;
    let _node = start(&server)?;
    let event = await_event(&server, "Starting")?;
    assert_eq!(event["metadata"]["namespace"], "kube-system");
    assert_eq!((&event["regarding"]["name"], &event["regarding"]["namespace"]), (&NODE.into(), &Value::Null));
    assert_eq!(await_event(&server, "PartlyServed")?["metadata"]["namespace"], "default");
    Ok(())
}

#[test]
fn whoever_wrote_an_object_is_told_what_is_wrong_with_it() -> Result<()> {
    let server = Server::start(Release::Current)?;
    server.store.put(service("old", "10.254.0.10").json())?;
    server.store.put(service("twin", "10.254.0.10").json())?;
    server.store.put(service("wrong", "010.254.0.11").json())?;
    let ignored = service("odd", "10.254.0.12").with("/spec", "externalIPs", vec!["nonsense"]);
    server.store.put(ignored.json())?;
    let node = start(&server)?;
    node.reaches("10.254.0.10:80", &[])?;
    let rows = [
        ("Refused", "wrong", "spec.clusterIPs: \"010.254.0.11\" is not an IP address"),
        ("AddressTaken", "twin", "TCP 10.254.0.10:80 is that of default/old, which is older"),
        ("PartlyServed", "odd", "spec.externalIPs: \"nonsense\" is no address of a host; the rest is served"),
    ];
    for (reason, service, words) in rows {
        let event = await_event(&server, reason)?;
        let regarding = &event["regarding"];
        assert_eq!((&event["type"], &regarding["name"]), (&"Warning".into(), &service.into()), "{event}");
        assert_eq!(event["metadata"]["namespace"], "default");
        assert!(regarding["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "describe finds it: {event}");
        assert!(event["note"].as_str().is_some_and(|note| note.contains(words)), "{event}");
    }
    // Each is told once, however often it is read.
    server.stub().reset_connections();
    server.store.put(service("wrong", "10.254.0.11").json())?;
    node.reaches("10.254.0.11:80", &[])?;
    assert_eq!(events(&server, "Refused").len(), 1);
    Ok(())
}

#[test]
fn events_that_nobody_takes_hold_up_nothing() -> Result<()> {
    let server = Server::start(Release::Current)?;
    for status in [403, 503] {
        let refusals = vec![Refuse::all("/apis/events.k8s.io", status)];
        server.stub().faults(|faults| *faults = Faults { refusals, ..Faults::default() });
        let node = start(&server)?;
        for number in 1..=100 {
            server.store.put(service(&format!("wrong-{number}"), "nowhere").json())?;
        }
        server.store.put(service("web", "10.254.0.10").json())?;
        node.reaches("10.254.0.10:80", &[])?;
        node.metric("fairway_proxy_events_dropped_total", |dropped| dropped >= 30.0)?;
        assert_eq!(server.store.events().len(), 0);
        server.store.delete(&service("web", "10.254.0.10").json())?;
        node.passes("10.254.0.10:80")?;
        assert!(!node.forwarding().contains_key(&frontend_of("10.254.0.10:80")));
        for number in 1..=100 {
            server.store.delete(&service(&format!("wrong-{number}"), "nowhere").json())?;
        }
    }
    Ok(())
}

/// A server of before 1.19 does not know them.
#[test]
fn an_old_server_is_not_troubled_for_long() -> Result<()> {
    let server = Server::start(Release::Old)?;
    let refusals = vec![Refuse::all("/apis/events.k8s.io", 404)];
    server.stub().faults(|faults| *faults = Faults { refusals, ..Faults::default() });
    server.store.put(service("web", "10.254.0.10").json())?;
    let node = start(&server)?;
    node.reaches("10.254.0.10:80", &[])?;
    node.metric("fairway_proxy_event_failures_total", |failures| failures >= 1.0)
}
