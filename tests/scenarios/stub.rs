//! The stub answers as an apiserver does.

use std::net::TcpListener;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Value, json};
use tests::apiserver::{Faults, Options, Refuse, Release, Resource, Store, Stub};
use tests::certificates::Authority;
use tests::{Api, Error, Result, WatchEnd, objects, wait};

const SOON: Duration = Duration::from_secs(5);

struct Cluster {
    stub: Stub,
    store: Store,
    api: Api,
    authority: Authority,
}

fn cluster(adjust: impl FnOnce(&mut Options)) -> Result<Cluster> {
    let authority = Authority::new("test")?;
    let store = Store::default();
    let mut options = Options::new("one", authority.server("one", &["127.0.0.1"])?);
    adjust(&mut options);
    let stub = Stub::serve(TcpListener::bind("127.0.0.1:0").expect("a port"), options, &store)?;
    let api = Api::new(stub.address(), authority.pem())?;
    Ok(Cluster { stub, store, api, authority })
}

fn web(address: &str) -> Value {
    objects::service("web", address).port("http", "TCP", 80).json()
}

/// The type and `resourceVersion` of each event until `count` came.
fn collect(api: &Api, path: &str, count: usize) -> Result<(Vec<(String, String)>, WatchEnd)> {
    let mut seen = Vec::new();
    let end = api.watch(path, SOON, |event| {
        let version = event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        seen.push((event["type"].as_str().unwrap_or_default().to_owned(), version));
        if seen.len() == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((seen, end))
}

fn pairs<const N: usize>(events: [(&str, &str); N]) -> Vec<(String, String)> {
    events.map(|(kind, version)| (kind.to_owned(), version.to_owned())).to_vec()
}

#[test]
fn objects_are_written_read_and_removed() -> Result<()> {
    let Cluster { api, stub: _stub, .. } = cluster(|_| {})?;
    let made = api.apply(&web("10.254.0.1"))?;
    assert_eq!(made["metadata"]["resourceVersion"], "2");
    let changed = api.apply(&web("10.254.0.2"))?;
    assert_eq!(changed["metadata"]["resourceVersion"], "3");
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(api.get("/api/v1/namespaces/default/services/web")?, changed);
    let again = api.request("POST", "/api/v1/namespaces/default/services", Some(&web("10.254.0.2")))?;
    assert_eq!(again.status, 409);
    let stale = api.request("PUT", "/api/v1/namespaces/default/services/web", Some(&made))?;
    assert_eq!(stale.status, 409);
    api.delete(&changed)?;
    let gone = api.get("/api/v1/namespaces/default/services/web").expect_err("it is gone");
    assert!(matches!(gone, Error::Refused { status: 404, .. }), "{gone:?}");
    Ok(())
}

#[test]
fn a_list_comes_in_pages_that_expire() -> Result<()> {
    let Cluster { api, store, stub, .. } = cluster(|_| {})?;
    for number in 0..5 {
        store.put(objects::service(&format!("web-{number}"), "10.254.0.1").json())?;
    }
    let first = api.get("/api/v1/services?limit=2")?;
    assert_eq!(
        (first["kind"].as_str(), first["items"].as_array().map(Vec::len)),
        (Some("ServiceList"), Some(2))
    );
    assert_eq!(first["items"][0]["kind"], Value::Null, "items of a list have no kind");
    let token = first["metadata"]["continue"].as_str().expect("there is more").replace('/', "%2F");
    store.put(objects::service("web-9", "10.254.0.1").json())?;
    let next = format!("/api/v1/services?limit=500&continue={token}");
    let second = api.get(&next)?;
    assert_eq!(second["items"].as_array().map(Vec::len), Some(3), "the page is of the first page's moment");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["continue"], Value::Null);
    store.compact();
    let expired = api.request("GET", &next, None)?;
    let status: Value = serde_json::from_str(&expired.body).expect("a Status");
    assert_eq!((expired.status, &status["reason"]), (410, &json!("Expired")));
    let whole = api.get("/api/v1/services?limit=2&resourceVersion=0")?;
    assert_eq!(whole["items"].as_array().map(Vec::len), Some(6), "the watch cache knows no pages");
    assert_eq!(api.request("GET", "/api/v1/services?resourceVersion=99", None)?.status, 504);
    assert_eq!(stub.lists(Resource::Services), 3, "{:?}", stub.requests());
    Ok(())
}

#[test]
fn a_watch_goes_on_where_the_last_one_stopped() -> Result<()> {
    let Cluster { api, store, stub: _stub, .. } = cluster(|_| {})?;
    store.put(web("10.254.0.1"))?;
    store.put(web("10.254.0.2"))?;
    store.delete(&web("10.254.0.2"))?;
    let (seen, _) = collect(&api, "/api/v1/services?watch=true&resourceVersion=1", 3)?;
    assert_eq!(seen, pairs([("ADDED", "2"), ("MODIFIED", "3"), ("DELETED", "4")]));
    store.put(web("10.254.0.3"))?;
    let (seen, _) = collect(&api, "/api/v1/services?watch=true&resourceVersion=4", 1)?;
    assert_eq!(seen, pairs([("ADDED", "5")]));
    let (seen, _) = collect(&api, "/api/v1/services?watch=true", 1)?;
    assert_eq!(seen, pairs([("ADDED", "5")]), "without a version the state comes first");
    Ok(())
}

#[test]
fn a_watch_tells_what_happens_while_it_lasts() -> Result<()> {
    let Cluster { api, store, stub: _stub, .. } = cluster(|_| {})?;
    let mut events = Vec::new();
    let end = api.watch("/api/v1/services?watch=true&resourceVersion=1&timeoutSeconds=1", SOON, |event| {
        events.push(event["object"]["spec"]["clusterIP"].clone());
        ControlFlow::Continue(())
    });
    assert_eq!(end?, WatchEnd::Closed);
    assert_eq!(events, Vec::<Value>::new());
    let writer = std::thread::spawn({
        let store = store.clone();
        move || {
            wait::pace(Duration::from_millis(50));
            store.put(web("10.254.0.7")).map(drop)
        }
    });
    let (seen, _) = collect(&api, "/api/v1/services?watch=true&resourceVersion=1", 1)?;
    assert_eq!(seen, pairs([("ADDED", "2")]));
    writer.join().expect("it does not panic")
}

#[test]
fn bookmarks_come_to_those_who_allow_them() -> Result<()> {
    let Cluster { api, store, stub: _stub, .. } =
        cluster(|options| options.bookmark_every = Duration::from_millis(20))?;
    let (seen, _) =
        collect(&api, "/api/v1/services?watch=true&resourceVersion=1&allowWatchBookmarks=true", 1)?;
    assert_eq!(seen, pairs([("BOOKMARK", "1")]));
    // A change of another resource moves the bookmark on.
    store.put(objects::node("node-1", "192.0.2.1").json())?;
    let (seen, _) = collect(&api, "/api/v1/services?watch=1&resourceVersion=1&allowWatchBookmarks=true", 1)?;
    assert_eq!(seen, pairs([("BOOKMARK", "2")]));
    let (seen, end) = collect(&api, "/api/v1/services?watch=true&resourceVersion=2&timeoutSeconds=1", 1)?;
    assert_eq!((seen, end), (Vec::new(), WatchEnd::Closed));
    Ok(())
}

#[test]
fn a_forgotten_past_is_gone_in_both_ways() -> Result<()> {
    let Cluster { api, store, stub, .. } = cluster(|_| {})?;
    store.put(web("10.254.0.1"))?;
    store.compact();
    let path = "/api/v1/services?watch=true&resourceVersion=2";
    let mut code = Value::Null;
    let end = api.watch(path, SOON, |event| {
        assert_eq!(event["type"], "ERROR");
        code = event["object"]["code"].clone();
        ControlFlow::Continue(())
    })?;
    assert_eq!((code, end), (json!(410), WatchEnd::Closed));
    stub.faults(|faults| faults.gone_as_status = true);
    assert_eq!(api.request("GET", path, None)?.status, 410);
    assert_eq!(api.get("/api/v1/services")?["metadata"]["resourceVersion"], "3");
    Ok(())
}

#[test]
fn a_selector_is_evaluated_by_the_server() -> Result<()> {
    let Cluster { api, store, stub: _stub, .. } = cluster(|_| {})?;
    store.put(objects::service("headless", "None").json())?;
    store.put(
        objects::service("foreign", "10.254.0.2")
            .label("service.kubernetes.io/service-proxy-name", "x")
            .json(),
    )?;
    store.put(objects::service("web", "10.254.0.3").namespace("shop").json())?;
    for (query, names) in [
        ("", vec!["foreign", "headless", "web"]),
        ("?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name", vec!["headless", "web"]),
        ("?fieldSelector=spec.clusterIP%21%3DNone", vec!["foreign", "web"]),
        ("?fieldSelector=metadata.name%3Dweb", vec!["web"]),
    ] {
        let list = api.get(&format!("/api/v1/services{query}"))?;
        let items = list["items"].as_array().expect("items").iter();
        let found: Vec<_> = items.filter_map(|item| item["metadata"]["name"].as_str()).collect();
        assert_eq!(found, names, "{query}");
    }
    let shop = api.get("/api/v1/namespaces/shop/services")?;
    assert_eq!(shop["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn an_old_release_serves_no_slices() -> Result<()> {
    for (release, code) in [(Release::Current, 200), (Release::Old, 404)] {
        let Cluster { api, stub: _stub, .. } = cluster(|options| options.release = release)?;
        for path in [
            "/apis/discovery.k8s.io/v1",
            "/apis/discovery.k8s.io/v1/endpointslices",
            "/apis/discovery.k8s.io",
        ] {
            assert_eq!(api.request("GET", path, None)?.status, code, "{release:?} {path}");
        }
        let groups = api.get("/apis")?["groups"].as_array().map(Vec::len);
        assert_eq!(groups, Some(usize::from(code == 200)));
        assert!(api.get("/version")?["minor"].is_string());
        assert_eq!(api.get("/api/v1")?["resources"].as_array().map(Vec::len), Some(3));
    }
    Ok(())
}

#[test]
fn only_those_with_a_token_or_a_certificate_are_let_in() -> Result<()> {
    let clients = Authority::new("clients")?;
    let client_authority = clients.pem().to_owned();
    let Cluster { api, authority, stub: _stub, .. } = cluster(|options| {
        options.tokens = vec!["secret".to_owned()];
        options.client_authority = Some(client_authority);
    })?;
    let certified = api.clone().with_identity(authority.pem(), &clients.client("proxy", None)?)?;
    for (client, code) in [
        (&api, 401),
        (&api.clone().with_token("wrong"), 401),
        (&api.clone().with_token("secret"), 200),
        (&certified, 200),
    ] {
        assert_eq!(client.request("GET", "/api/v1/services", None)?.status, code);
        assert_eq!(client.request("GET", "/readyz", None)?.status, 200, "health is for everybody");
    }
    Ok(())
}

#[test]
fn an_unready_server_is_alive_and_serves() -> Result<()> {
    let Cluster { api, stub, .. } = cluster(|_| {})?;
    stub.faults(|faults| faults.unready = true);
    for (path, code) in [("/readyz", 500), ("/livez", 200), ("/healthz", 200), ("/api/v1/services", 200)] {
        assert_eq!(api.request("GET", path, None)?.status, code, "{path}");
    }
    stub.faults(|faults| *faults = Faults::default());
    assert_eq!(api.request("GET", "/readyz", None)?.status, 200);
    Ok(())
}

#[test]
fn requests_are_refused_as_told() -> Result<()> {
    let Cluster { api, stub, .. } = cluster(|_| {})?;
    let refusal =
        Refuse { retry_after_seconds: Some(1), times: Some(1), ..Refuse::all("/api/v1/services", 429) };
    stub.faults(|faults| faults.refusals = vec![refusal, Refuse::all("/api/v1/nodes", 403)]);
    let first = api.request("GET", "/api/v1/services", None)?;
    assert_eq!((first.status, first.retry_after.as_deref()), (429, Some("1")));
    assert_eq!(api.request("GET", "/api/v1/services", None)?.status, 200);
    let forbidden: Value =
        serde_json::from_str(&api.request("GET", "/api/v1/nodes", None)?.body).expect("a Status");
    assert_eq!(forbidden["reason"], "Forbidden");
    Ok(())
}

#[test]
fn watches_end_closed_cut_and_reset() -> Result<()> {
    type Fault = fn(&Stub);
    let faults: [(Fault, WatchEnd); 3] = [
        (Stub::close_watches, WatchEnd::Closed),
        (Stub::cut_watches, WatchEnd::Broken),
        (Stub::reset_connections, WatchEnd::Broken),
    ];
    for (fault, expected) in faults {
        let Cluster { api, store, stub, .. } = cluster(|_| {})?;
        store.put(web("10.254.0.1"))?;
        let end = api.watch("/api/v1/services?watch=true", SOON, |_| {
            fault(&stub);
            ControlFlow::Continue(())
        })?;
        assert_eq!(end, expected);
    }
    let Cluster { api, stub, .. } = cluster(|_| {})?;
    stub.faults(|faults| faults.watch_lifetime_milliseconds = Some(20));
    let end = api.watch("/api/v1/services?watch=true", SOON, |_| ControlFlow::Continue(()))?;
    assert_eq!(end, WatchEnd::Closed);
    Ok(())
}

#[test]
fn stubs_over_one_store_agree_and_one_can_die() -> Result<()> {
    let Cluster { api, store, stub, authority } = cluster(|_| {})?;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second =
        Stub::serve(listener, Options::new("two", authority.server("two", &["127.0.0.1"])?), &store)?;
    let other = Api::new(second.address(), authority.pem())?;
    api.apply(&web("10.254.0.1"))?;
    assert_eq!(other.get("/api/v1/services")?, api.get("/api/v1/services")?);
    let address = stub.address();
    drop(stub);
    assert!(api.get("/api/v1/services").is_err());
    other.apply(&web("10.254.0.2"))?;
    let listener = TcpListener::bind(address).expect("its port is free again");
    let _revived =
        Stub::serve(listener, Options::new("one", authority.server("one", &["127.0.0.1"])?), &store)?;
    assert_eq!(api.get("/api/v1/services")?, other.get("/api/v1/services")?);
    Ok(())
}

#[test]
fn everything_can_be_told_over_the_wire() -> Result<()> {
    let Cluster { api, stub, .. } = cluster(|_| {})?;
    let tell = |command: &str, body: Option<&Value>| {
        api.request("POST", &format!("/fairway-test/{command}"), body).map(|answer| answer.status)
    };
    assert_eq!(tell("faults", Some(&json!({"unready": true})))?, 200);
    assert!(stub.faults(|faults| faults.unready));
    assert_eq!(tell("faults", Some(&json!({"unredy": true})))?, 422);
    assert_eq!(tell("put", Some(&web("10.254.0.1")))?, 200);
    assert_eq!(api.get("/api/v1/services")?["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(tell("delete", Some(&web("10.254.0.1")))?, 200);
    assert_eq!(tell("compact", None)?, 200);
    assert_eq!(tell("close-watches", None)?, 200);
    assert_eq!(tell("fly", None)?, 404);
    assert_eq!(api.get("/fairway-test/requests")?, json!(["GET /api/v1/services"]));
    Ok(())
}
