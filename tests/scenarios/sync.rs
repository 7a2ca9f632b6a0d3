//! From the apiserver to the dataplane, through everything that can go wrong on the way.

use std::time::Duration;

use plan::Change;
use proxy::config::Config;
use serde_json::{Value, json};
use tests::apiserver::{Faults, Refuse, Release, Resource, Stub};
use tests::certificates::Authority;
use tests::{Error, Result, objects, wait};

use crate::node::{Node, SOON, Server, frontend_of};

const WEB: &str = "10.254.0.10:80";
const LEFT: &str = "10.1.0.1";
const RIGHT: &str = "10.1.0.2";
const LEFT_8080: &str = "10.1.0.1:8080";
const RIGHT_8080: &str = "10.1.0.2:8080";

fn service(name: &str, address: &str) -> Value {
    objects::service(name, address).port("http", "TCP", 80).json()
}

fn slice(service: &str, ready: &[&str]) -> Value {
    objects::slice(service, &format!("{service}-1")).port("http", "TCP", 8080).ready(ready).json()
}

/// A node in sync with a server that has the service `web` with one endpoint.
fn synced() -> Result<(Server, Node)> {
    let server = Server::start(Release::Current)?;
    server.store.put(service("web", "10.254.0.10"))?;
    server.store.put(slice("web", &[LEFT]))?;
    let node = Node::start(&server)?;
    node.reaches(WEB, &[LEFT_8080])?;
    server.every_kind_is_watched()?;
    Ok((server, node))
}

fn lists(server: &Server) -> usize {
    server.stub().lists(Resource::Services) + server.stub().lists(Resource::EndpointSlices)
}

#[test]
fn endpoints_come_and_go() -> Result<()> {
    let (server, node) = synced()?;
    server.store.put(slice("web", &[LEFT, RIGHT]))?;
    node.reaches(WEB, &[LEFT_8080, RIGHT_8080])?;
    server.store.put(slice("web", &[]))?;
    node.reaches(WEB, &[])?;
    server.store.delete(&service("web", "10.254.0.10"))?;
    node.passes(WEB)
}

#[test]
fn nothing_is_programmed_before_every_kind_is_listed() -> Result<()> {
    let server = Server::start(Release::Current)?;
    server.store.put(service("web", "10.254.0.10"))?;
    server.store.put(slice("web", &[LEFT]))?;
    let slices = Refuse::all("/apis/discovery.k8s.io/v1/endpointslices", 503);
    server.stub().faults(|faults| faults.refusals = vec![slices]);
    let node = Node::start(&server)?;
    wait::until("services are watched and slices asked for", SOON, || {
        let requests = server.stub().requests();
        requests.iter().any(|line| line.contains("/services?") && line.contains("watch=true"))
            && server.stub().lists(Resource::EndpointSlices) >= 2
    })?;
    assert_eq!(node.changes(), []);
    server.stub().faults(|faults| *faults = Faults::default());
    node.reaches(WEB, &[LEFT_8080])
}

#[test]
fn an_old_server_is_asked_for_endpoints() -> Result<()> {
    let server = Server::start(Release::Old)?;
    server.store.put(service("web", "10.254.0.10"))?;
    server.store.put(objects::endpoints("web").port("http", "TCP", 8080).ready(&[LEFT]).json())?;
    let node = Node::start(&server)?;
    node.reaches(WEB, &[LEFT_8080])?;
    server.store.put(objects::endpoints("web").port("http", "TCP", 8080).ready(&[RIGHT]).json())?;
    node.reaches(WEB, &[RIGHT_8080])
}

#[test]
fn what_was_deleted_in_a_forgotten_past_is_removed() -> Result<()> {
    for gone_as_status in [false, true] {
        let (mut server, node) = synced()?;
        server.store.put(service("stale", "10.254.0.66"))?;
        node.reaches("10.254.0.66:80", &[])?;
        server.go();
        server.store.delete(&service("stale", "10.254.0.66"))?;
        server.store.put(slice("web", &[RIGHT]))?;
        server.store.compact();
        server.come()?;
        server.stub().faults(|faults| faults.gone_as_status = gone_as_status);
        node.passes("10.254.0.66:80")?;
        node.reaches(WEB, &[RIGHT_8080])?;
        let web = frontend_of(WEB);
        let removed = node.changes().contains(&Change::RemoveService { frontend: web });
        assert!(!removed, "forwarding went on: {:?}", node.changes());
    }
    Ok(())
}

#[test]
fn broken_watches_go_on_where_they_were() -> Result<()> {
    type Fault = (&'static str, fn(&Stub));
    let faults: [Fault; 3] = [
        ("closed", Stub::close_watches),
        ("cut in mid-event", Stub::cut_watches),
        ("reset", Stub::reset_connections),
    ];
    for (name, fault) in faults {
        let (server, node) = synced()?;
        let before = lists(&server);
        fault(server.stub());
        server.store.put(slice("web", &[LEFT, RIGHT]))?;
        node.reaches(WEB, &[LEFT_8080, RIGHT_8080])?;
        assert_eq!(lists(&server), before, "{name}: {:?}", server.stub().requests());
        assert_eq!(node.changes().len(), 2, "{name}: {:?}", node.changes());
    }
    Ok(())
}

#[test]
fn watches_that_end_all_the_time_cost_no_list_and_no_change() -> Result<()> {
    let (server, node) = synced()?;
    server.stub().faults(|faults| faults.watch_lifetime_milliseconds = Some(100));
    server.stub().close_watches();
    let (before, watched) = (lists(&server), server.stub().requests().len());
    wait::until("ten more watches", SOON, || server.stub().requests().len() >= watched + 10)?;
    server.store.put(slice("web", &[LEFT, RIGHT]))?;
    node.reaches(WEB, &[LEFT_8080, RIGHT_8080])?;
    assert_eq!(lists(&server), before, "{:?}", server.stub().requests());
    assert_eq!(node.changes().len(), 2, "{:?}", node.changes());
    Ok(())
}

#[test]
fn a_malformed_object_is_refused_and_the_others_go_on() -> Result<()> {
    let (server, node) = synced()?;
    let mut malformed = service("malformed", "10.254.0.20");
    malformed["spec"]["ports"] = json!("eighty");
    server.store.put(malformed)?;
    node.metric("fairway_proxy_objects_refused_total{kind=\"Service\"}", |count| count >= 1.0)?;
    server.store.put(service("late", "10.254.0.30"))?;
    node.reaches("10.254.0.30:80", &[])?;
    // One that was good and turns bad stays as it was.
    let mut broken = service("web", "10.254.0.10");
    broken["spec"]["ports"] = json!([{"port": "eighty"}]);
    server.store.put(broken)?;
    node.metric("fairway_proxy_objects_refused_total{kind=\"Service\"}", |count| count >= 2.0)?;
    node.reaches(WEB, &[LEFT_8080])
}

#[test]
fn without_an_apiserver_forwarding_goes_on_and_a_metric_says_so() -> Result<()> {
    let (mut server, node) = synced()?;
    let connected = "fairway_proxy_apiserver_connected{kind=\"Service\"}";
    node.metric(connected, |value| value > 0.5)?;
    let before = node.changes();
    server.go();
    node.metric(connected, |value| value < 0.5)?;
    assert_eq!(node.changes(), before);
    server.store.put(slice("web", &[RIGHT]))?;
    server.come()?;
    node.metric(connected, |value| value > 0.5)?;
    node.reaches(WEB, &[RIGHT_8080])?;
    assert_eq!(lists(&server), 0, "the history reaches back: no list is needed");
    Ok(())
}

#[test]
fn a_list_that_expires_half_way_is_begun_again() -> Result<()> {
    let server = Server::start(Release::Current)?;
    for number in 0..1100 {
        let address = format!("10.254.{}.{}", 1 + number / 250, 1 + number % 250);
        server.store.put(service(&format!("web-{number}"), &address))?;
    }
    let expires =
        Refuse { query: "continue=".to_owned(), times: Some(1), ..Refuse::all("/api/v1/services", 410) };
    server.stub().faults(|faults| faults.refusals = vec![expires]);
    let node = Node::start(&server)?;
    wait::until("every service is served", SOON, || node.forwarding().len() == 1100)?;
    let changes = node.changes();
    assert_eq!(changes.len(), 1100, "each was added, and none removed");
    Ok(())
}

#[test]
fn a_refusal_by_the_server_changes_nothing() -> Result<()> {
    for status in [403, 429, 500, 503] {
        let (server, node) = synced()?;
        let before = node.changes();
        server.stub().faults(|faults| faults.refusals = vec![Refuse::all("/api", status)]);
        server.stub().close_watches();
        node.metric("fairway_proxy_watch_errors_total{kind=\"Service\"}", |count| count >= 1.0)?;
        assert_eq!(node.changes(), before, "{status}");
        server.stub().faults(|faults| *faults = Faults::default());
        server.store.put(slice("web", &[LEFT, RIGHT]))?;
        node.reaches(WEB, &[LEFT_8080, RIGHT_8080])?;
    }
    Ok(())
}

/// A thousand events a second, and more: none is lost, none opens a hole, and nobody is written who is not concerned.
#[test]
fn a_storm_of_changes_is_followed_to_its_end() -> Result<()> {
    const SERVICES: u8 = 20;
    let (server, node) = synced()?;
    let name = |number: u8| format!("web-{number}");
    for number in 0..SERVICES {
        server.store.put(service(&name(number), &format!("10.254.1.{number}")))?;
        server.store.put(slice(&name(number), &[LEFT]))?;
    }
    node.reaches("10.254.1.19:80", &[LEFT_8080])?;
    let before = node.changes().len();
    for round in 0..100 {
        for number in 0..SERVICES {
            let pods = if round % 2 == 0 { [LEFT, RIGHT].as_slice() } else { &[RIGHT] };
            server.store.put(slice(&name(number), pods))?;
        }
    }
    for number in 0..SERVICES {
        node.reaches(&format!("10.254.1.{number}:80"), &[RIGHT_8080])?;
    }
    node.metric("kubeproxy_sync_proxy_rules_endpoint_changes_total", |count| count >= 2000.0)?;
    let changes = node.changes().split_off(before);
    let adds_nothing_twice =
        |change: &&Change| matches!(change, Change::RemoveService { .. } | Change::AddService { .. });
    assert_eq!(
        changes.iter().filter(adds_nothing_twice).count(),
        0,
        "no service was taken away: {changes:?}"
    );
    let others = changes.iter().filter(|change| change.frontend() == frontend_of(WEB)).count();
    assert_eq!(others, 0, "a service that nobody changed is left alone");
    Ok(())
}

#[test]
fn a_server_that_says_when_to_come_back_is_left_alone_until_then() -> Result<()> {
    let (server, _node) = synced()?;
    let later = Refuse { retry_after_seconds: Some(2), ..Refuse::all("/api/v1/services", 429) };
    server.stub().faults(|faults| faults.refusals = vec![later]);
    let asked = || server.stub().requests().iter().filter(|line| line.contains("/services?")).count();
    let before = asked();
    server.stub().close_watches();
    wait::until("services are asked for again", SOON, || asked() > before)?;
    let first = asked();
    // The subject is time: a client that does not listen comes back at least twice within a second.
    wait::pace(Duration::from_millis(1500));
    assert_eq!(asked(), first, "{:?}", server.stub().requests());
    Ok(())
}

/// What renews a node's certificate replaces the files and tells nobody.
#[test]
fn a_client_certificate_that_is_renewed_is_shown_without_a_restart() -> Result<()> {
    let home = tempfile::tempdir().map_err(Error::system("make", "a directory"))?;
    let [old, new] = [Authority::new("old")?, Authority::new("new")?];
    let issue =
        |authority: &Authority| authority.client("system:kube-proxy", None)?.write(home.path(), "proxy");
    let mut server = Server::start(Release::Current)?;
    server.admit(&old)?;
    issue(&old)?;
    let file = |extension| home.path().join(format!("proxy.{extension}")).display().to_string();
    let user = format!("client-certificate: {}, client-key: {}", file("crt"), file("key"));
    let node = Node::start_as(&server, &user, Config::default())?;
    server.store.put(service("web", "10.254.0.10"))?;
    node.reaches("10.254.0.10:80", &[])?;
    server.admit(&new)?;
    let refused = format!("{{code=\"<error>\",host=\"{}\",method=\"GET\"}}", server.stub().address());
    node.metric(&format!("rest_client_requests_total{refused}"), |refused| refused > 5.0)?;
    issue(&new)?;
    server.store.put(service("shop", "10.254.0.11"))?;
    node.reaches("10.254.0.11:80", &[])
}
