//! What a load balancer is told when the node does not keep up: row H4 of the catalogue.

use std::io;
use std::time::Duration;

use plan::Port;
use proxy::config::Config;
use tests::apiserver::Release;
use tests::objects::{self, Endpoint};
use tests::{Result, admin, wait};

use crate::node::{Node, SOON, Server, free_address};

const NODE: &str = "box";

#[test]
fn a_node_whose_rules_cannot_be_written_asks_for_no_traffic() -> Result<()> {
    let server = Server::start(Release::Current)?;
    let check = free_address()?;
    let port = Port::new(check.port()).expect("a port");
    let service = objects::service("web", "10.254.0.10").port("http", "TCP", 80);
    let service =
        service.with("/spec", "type", "LoadBalancer").with("/spec", "externalTrafficPolicy", "Local");
    server.store.put(objects::node(NODE, "127.0.0.1").json())?;
    server.store.put(service.with("/spec", "healthCheckNodePort", port.number()).json())?;
    let slice = |pods: &[&'static str]| {
        let slice = objects::slice("web", "web-1").port("http", "TCP", 8080);
        let here = pods.iter().map(|pod| Endpoint::ready(pod).on(NODE));
        here.fold(slice, |slice, endpoint| slice.endpoint(&endpoint)).json()
    };
    server.store.put(slice(&["10.1.0.1"]))?;
    let config = Config {
        hostname_override: Some(NODE.to_owned()),
        sync_period: Duration::from_millis(200),
        ..Config::default()
    };
    let node = Node::start_by(&server, config)?;
    let told = |status: &str, words: &str| {
        wait::until(&format!("a load balancer is told {status}"), SOON, || {
            let answer: io::Result<String> = admin::ask_at(check, "/", SOON);
            answer.is_ok_and(|answer| answer.contains(&format!(" {status} ")) && answer.contains(words))
        })
    };
    told("200", "\"serviceProxyHealthy\":true")?;
    node.fails(true);
    server.store.put(slice(&["10.1.0.1", "10.1.0.2"]))?;
    told(
        "503",
        "\"localEndpoints\":2,\"service\":{\"name\":\"web\",\"namespace\":\"default\"},\"serviceProxyHealthy\":false",
    )?;
    node.fails(false);
    told("200", "\"localEndpoints\":2")
}
