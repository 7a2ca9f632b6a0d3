//! The configuration changes while the proxy runs.

use plan::{Change, Masquerade, Scheduler, Scope};
use proxy::config::Config;
use proxy::translate::NodePortAddresses;
use tests::apiserver::Release;
use tests::{Result, admin, objects, wait};

use crate::node::{Node, SOON, Server, free_address, frontend_of};

const WEB: &str = "10.254.0.10:80";
const LEFT_8080: &str = "10.1.0.1:8080";

fn synced() -> Result<(Server, Node)> {
    let server = Server::start(Release::Current)?;
    let web = objects::service("web", "10.254.0.10").port("http", "TCP", 80);
    server.store.put(web.with("/spec/ports/0", "nodePort", 30_080).json())?;
    server.store.put(objects::slice("web", "web-1").port("http", "TCP", 8080).ready(&["10.1.0.1"]).json())?;
    let config = Config { hostname_override: Some("box".to_owned()), ..Config::default() };
    server.store.put(objects::node("box", "192.0.2.1").json())?;
    let node = Node::start_by(&server, config)?;
    node.reaches(WEB, &[LEFT_8080])?;
    node.reaches("192.0.2.1:30080", &[LEFT_8080])?;
    server.every_kind_is_watched()?;
    Ok((server, node))
}

#[test]
fn how_services_are_served_is_changed_in_place_and_nobody_is_taken_away() -> Result<()> {
    let (server, mut node) = synced()?;
    let asked = || server.stub().requests().iter().filter(|line| line.starts_with("GET ")).count();
    let asked_before = asked();
    let before = node.changes().len();
    node.configure(|config| {
        config.serving.scheduler = Scheduler::Maglev;
        config.serving.masquerade_all = true;
    });
    let rules = |node: &Node| node.forwarding().get(&frontend_of(WEB)).map(|service| service.rules.clone());
    wait::until("services are served by the new scheduler", SOON, || {
        rules(&node).is_some_and(|rules| rules.scheduler == Scheduler::Maglev)
    })?;
    assert_eq!(rules(&node).map(|rules| rules.masquerade), Some(Masquerade::Always));
    let changes = node.changes().split_off(before);
    let keeps = |change: &Change| matches!(change, Change::SetRules { .. });
    assert!(changes.iter().all(keeps), "{changes:?}");

    let within = "127.0.0.0/8".parse().expect("a network");
    node.configure(|config| config.serving.node_port_addresses = NodePortAddresses::Within(vec![within]));
    node.passes("192.0.2.1:30080")?;
    node.configure(|config| config.serving.node_port_addresses = NodePortAddresses::Primary);
    node.reaches("192.0.2.1:30080", &[LEFT_8080])?;
    assert_eq!(asked(), asked_before, "the API server is asked again: {:?}", server.stub().requests());
    Ok(())
}

#[test]
fn what_is_left_to_others_from_now_on_is_not_touched() -> Result<()> {
    let (server, mut node) = synced()?;
    let excluded = "10.254.0.0/24".parse().expect("a network");
    node.configure(|config| config.scope = Scope::AllBut(vec![excluded]));
    server.store.put(objects::service("late", "10.254.1.20").port("http", "TCP", 80).json())?;
    node.reaches("10.254.1.20:80", &[])?;
    server.store.delete(&objects::service("web", "10.254.0.10").json())?;
    node.passes("192.0.2.1:30080")?;
    node.reaches(WEB, &[LEFT_8080])
}

#[test]
fn addresses_that_are_served_move_with_the_configuration() -> Result<()> {
    let (_server, mut node) = synced()?;
    let [old, new, health] = [free_address()?, free_address()?, free_address()?];
    node.configure(|config| config.metrics = Some(old));
    node.metric("fairway_proxy_frontends", |count| count >= 2.0)?;
    node.configure(|config| {
        config.metrics = Some(new);
        config.healthz = Some(health);
        config.document["metricsBindAddress"] = new.to_string().into();
    });
    node.metric("fairway_proxy_frontends", |count| count >= 2.0)?;
    assert!(admin::ask_at(old, "/metrics", SOON).is_err(), "the old address is given up");
    assert!(admin::ask_at(new, "/configz", SOON).is_ok_and(|page| page.contains(&new.to_string())));
    assert!(admin::ask_at(new, "/flagz", SOON).is_ok_and(|page| page.contains(&new.to_string())));
    wait::until("health is told at the new address", SOON, || {
        admin::ask_at(health, "/livez", SOON).is_ok_and(|answer| answer.contains(" 200 "))
    })
}
