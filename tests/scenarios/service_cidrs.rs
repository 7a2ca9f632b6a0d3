//! The networks that cluster addresses come from.

use tests::apiserver::{Faults, Refuse, Release};
use tests::{Result, objects, wait};

use crate::node::{Node, SOON, Server};

const FIRST: &str = "10.254.0.0/16";
const SECOND: &str = "10.253.0.0/16";

#[test]
fn networks_of_cluster_addresses_come_and_go() -> Result<()> {
    let server = Server::start(Release::Current)?;
    let first = objects::service_cidr("kubernetes", &[FIRST, "fd00:254::/112"]).json();
    server.store.put(first.clone())?;
    let node = Node::start(&server)?;
    node.keeps_service_cidrs(&[FIRST, "fd00:254::/112"])?;
    server.store.put(objects::service_cidr("more", &[SECOND]).json())?;
    node.keeps_service_cidrs(&[FIRST, "fd00:254::/112", SECOND])?;
    // One that is not understood stays as it was.
    server.store.put(objects::service_cidr("more", &["10.253.0.0"]).json())?;
    node.metric("fairway_proxy_objects_refused_total{kind=\"ServiceCIDR\"}", |count| count >= 1.0)?;
    server.store.delete(&first)?;
    node.keeps_service_cidrs(&[SECOND])
}

#[test]
fn a_server_that_knows_no_such_networks_holds_nothing_up() -> Result<()> {
    let server = Server::start(Release::Old)?;
    server.store.put(objects::service("web", "10.254.0.10").port("http", "TCP", 80).json())?;
    let node = Node::start(&server)?;
    node.reaches("10.254.0.10:80", &[])?;
    node.keeps_service_cidrs(&[])
}

/// A role from before there were any.
#[test]
fn who_may_not_see_them_serves_all_the_same() -> Result<()> {
    let server = Server::start(Release::Current)?;
    let refusal = Refuse::all("/apis/networking.k8s.io/v1/servicecidrs", 403);
    server.stub().faults(|faults| faults.refusals = vec![refusal]);
    server.store.put(objects::service_cidr("kubernetes", &[FIRST]).json())?;
    server.store.put(objects::service("web", "10.254.0.10").port("http", "TCP", 80).json())?;
    let node = Node::start(&server)?;
    node.reaches("10.254.0.10:80", &[])?;
    let asked = || server.stub().requests().iter().filter(|line| line.contains("/servicecidrs?")).count();
    wait::until("they are asked for", SOON, || asked() > 0)?;
    node.keeps_service_cidrs(&[])?;
    server.stub().faults(|faults| *faults = Faults::default());
    Ok(())
}
