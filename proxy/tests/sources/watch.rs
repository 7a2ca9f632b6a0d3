//! From an API server, and what becomes of it when that misbehaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use plan::Change;
use proxy::config::{Access, Config, Source};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::{Answer, Api, discovery, event, list, service, silence, slice, status};
use crate::window::{Window, frontend, quiet, with_proxy};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn config(api: &Api) -> Config {
    quiet(Source::Cluster(Access { kubeconfig: None, master: Some(api.url()) }))
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Discovery,
    ListServices,
    WatchServices,
    ListSlices,
    WatchSlices,
    ListEndpoints,
    WatchEndpoints,
}

fn asked(target: &str) -> Asked {
    let watch = target.contains("watch=true");
    let path = target.split('?').next().unwrap();
    match (path, watch) {
        ("/apis/discovery.k8s.io/v1", _) => Asked::Discovery,
        ("/api/v1/services", false) => Asked::ListServices,
        ("/api/v1/services", true) => Asked::WatchServices,
        ("/apis/discovery.k8s.io/v1/endpointslices", false) => Asked::ListSlices,
        ("/apis/discovery.k8s.io/v1/endpointslices", true) => Asked::WatchSlices,
        ("/api/v1/endpoints", false) => Asked::ListEndpoints,
        ("/api/v1/endpoints", true) => Asked::WatchEndpoints,
        other => panic!("nobody asks for {other:?}"),
    }
}

/// A watch that sends what the test sends; the first request for it gets it, later ones are silent.
fn watched() -> (mpsc::Sender<Value>, impl FnMut() -> Answer) {
    let (sender, lines) = mpsc::channel(16);
    let mut lines = Some(lines);
    (sender, move || lines.take().map_or_else(silence, Answer::Lines))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_listed_and_changes_followed() {
    let (services, mut watch_services) = watched();
    let (slices, mut watch_slices) = watched();
    let api = Api::start(ANYWHERE, move |target| match asked(target) {
        Asked::Discovery => discovery(),
        Asked::ListServices if target.contains("continue=") => list(&[service("two", 2)], ""),
        Asked::ListServices => {
            assert!(target.contains("limit=500"), "{target}");
            assert!(target.contains("service-proxy-name"), "{target}");
            list(&[service("one", 1)], "page-2")
        }
        Asked::ListSlices => list(&[slice("one", &[1, 2])], ""),
        Asked::WatchServices => watch_services(),
        Asked::WatchSlices => watch_slices(),
        Asked::ListEndpoints | Asked::WatchEndpoints => panic!("slices are served"),
    })
    .await;
    let window = Window::new();
    with_proxy(config(&api), window.clone(), async || {
        window.until(2, Some(0)).await;
        assert_eq!(window.backends(1), Some(2));
        slices.send(event("ADDED", &slice("two", &[3]))).await.unwrap();
        window.until(2, Some(1)).await;
        slices.send(event("MODIFIED", &slice("one", &[1]))).await.unwrap();
        window.until(1, Some(1)).await;
        slices.send(event("DELETED", &slice("one", &[1]))).await.unwrap();
        window.until(1, Some(0)).await;
        services.send(event("DELETED", &service("one", 1))).await.unwrap();
        window.until(1, None).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_object_is_refused_and_the_rest_goes_on() {
    let (services, mut watch_services) = watched();
    let hostile = [
        json!({ "metadata": { "name": 5 } }),
        json!("text"),
        json!({ "metadata": { "name": "odd", "labels": [] }, "spec": { "ports": "http" } }),
        json!({ "metadata": { "name": "octal" }, "spec": { "clusterIP": "010.0.0.3", "ports": [{ "port": 80 }] } }),
    ];
    let api = Api::start(ANYWHERE, move |target| match asked(target) {
        Asked::Discovery => discovery(),
        Asked::ListServices => list(&[&hostile[..], &[service("one", 1)]].concat(), ""),
        Asked::ListSlices => list(&[json!({ "metadata": null }), slice("one", &[1])], ""),
        Asked::WatchServices => watch_services(),
        Asked::WatchSlices => silence(),
        Asked::ListEndpoints | Asked::WatchEndpoints => panic!("slices are served"),
    })
    .await;
    let window = Window::new();
    with_proxy(config(&api), window.clone(), async || {
        window.until(1, Some(1)).await;
        let mut broken = service("one", 1);
        broken["spec"]["clusterIP"] = json!("010.0.0.9");
        services.send(event("MODIFIED", &broken)).await.unwrap();
        services.send(event("ADDED", &service("two", 2))).await.unwrap();
        window.until(2, Some(0)).await;
        assert_eq!(window.backends(1), Some(1), "what was known of it stays");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_servers_have_endpoints_instead_of_slices() {
    let mut endpoints = json!({ "metadata": { "name": "one", "namespace": "shop", "resourceVersion": "7" } });
    endpoints["subsets"] = json!([{ "addresses": [{ "ip": "10.1.0.1" }], "ports": [{ "port": 8080 }] }]);
    let api = Api::start(ANYWHERE, move |target| match asked(target) {
        Asked::Discovery => status(404),
        Asked::ListServices => list(&[service("one", 1)], ""),
        Asked::ListEndpoints => list(&[endpoints.clone()], ""),
        Asked::WatchServices | Asked::WatchEndpoints => silence(),
        Asked::ListSlices | Asked::WatchSlices => panic!("no slices are served"),
    })
    .await;
    let window = Window::new();
    with_proxy(config(&api), window.clone(), async || window.until(1, Some(1)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_version_leads_to_a_new_list_and_breaks_nothing() {
    let gone_event =
        event("ERROR", &json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410 }));
    for by_event in [false, true] {
        let (lists, gone_event) = (Arc::new(AtomicUsize::new(0)), gone_event.clone());
        let counted = Arc::clone(&lists);
        let api = Api::start(ANYWHERE, move |target| match asked(target) {
            Asked::Discovery => discovery(),
            Asked::ListServices if counted.fetch_add(1, Ordering::SeqCst) == 0 => {
                list(&[service("one", 1), service("gone", 2)], "")
            }
            Asked::ListServices => {
                let mut malformed = service("one", 1);
                malformed["spec"]["clusterIP"] = json!("010.0.0.1");
                list(&[malformed, service("new", 3)], "")
            }
            Asked::WatchServices if counted.load(Ordering::SeqCst) > 1 => silence(),
            Asked::WatchServices if by_event => {
                let (sender, lines) = mpsc::channel(1);
                sender.try_send(gone_event.clone()).unwrap();
                Answer::Lines(lines)
            }
            Asked::WatchServices => status(410),
            Asked::ListSlices => list(&[slice("one", &[1])], ""),
            Asked::WatchSlices => silence(),
            Asked::ListEndpoints | Asked::WatchEndpoints => panic!("slices are served"),
        })
        .await;
        let window = Window::new();
        with_proxy(config(&api), window.clone(), async || {
            window.until(3, Some(0)).await;
            window.until(2, None).await;
        })
        .await;
        let one = frontend(1);
        let about_one = window.take_changes().into_iter().filter(|change| change.frontend() == one).count();
        assert_eq!(about_one, 1, "it was added with its backend and then left alone, malformed as it became");
        assert_eq!(lists.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_every_kind_has_been_listed() {
    let ready = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicUsize::new(0));
    let (is_ready, refusals) = (Arc::clone(&ready), Arc::clone(&refused));
    let api = Api::start(ANYWHERE, move |target| match asked(target) {
        Asked::Discovery => discovery(),
        Asked::ListServices => list(&[service("one", 1)], ""),
        Asked::ListSlices if is_ready.load(Ordering::SeqCst) => list(&[slice("one", &[1])], ""),
        Asked::ListSlices => {
            refusals.fetch_add(1, Ordering::SeqCst);
            status(500)
        }
        Asked::WatchServices | Asked::WatchSlices => silence(),
        Asked::ListEndpoints | Asked::WatchEndpoints => panic!("slices are served"),
    })
    .await;
    let window = Window::new();
    with_proxy(config(&api), window.clone(), async || {
        while refused.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(window.take_changes(), []);
        ready.store(true, Ordering::SeqCst);
        window.until(1, Some(1)).await;
        assert!(matches!(window.take_changes()[..], [Change::AddService { .. }]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_goes_on_while_the_server_is_away_and_follows_when_it_is_back() {
    let script = |last| {
        move |target: &str| match asked(target) {
            Asked::Discovery => discovery(),
            Asked::ListServices => list(&[service("one", 1)], ""),
            Asked::ListSlices => list(&[slice("one", &[1])], ""),
            Asked::WatchServices => silence(),
            Asked::WatchSlices => {
                let (sender, lines) = mpsc::channel(1);
                sender.try_send(event("MODIFIED", &slice("one", &[1, last]))).unwrap();
                tokio::spawn(async move { sender.closed().await });
                Answer::Lines(lines)
            }
            Asked::ListEndpoints | Asked::WatchEndpoints => panic!("slices are served"),
        }
    };
    let api = Api::start(ANYWHERE, script(1)).await;
    let metrics = std::net::TcpListener::bind(ANYWHERE).unwrap().local_addr().unwrap();
    let window = Window::new();
    let address = api.address;
    with_proxy(Config { metrics: Some(metrics), ..config(&api) }, window.clone(), async || {
        window.until(1, Some(1)).await;
        until_metric(metrics, "fairway_proxy_apiserver_connected{kind=\"Service\"} 1").await;
        drop(api);
        until_metric(metrics, "fairway_proxy_apiserver_connected{kind=\"Service\"} 0").await;
        until_metric(metrics, "fairway_proxy_apiserver_connected{kind=\"EndpointSlice\"} 0").await;
        assert_eq!(window.backends(1), Some(1));
        let api = Api::start(address, script(2)).await;
        window.until(1, Some(2)).await;
        until_metric(metrics, "fairway_proxy_apiserver_connected{kind=\"Service\"} 1").await;
        drop(api);
    })
    .await;
}

/// Asks for the metrics until they have `line`.
async fn until_metric(address: SocketAddr, line: &str) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            pause.tick().await;
            if let Ok(body) = fetched(address).await
                && body.lines().any(|found| found == line)
            {
                return;
            }
        }
    });
    assert!(found.await.is_ok(), "no {line} in 20 s");
}

async fn fetched(address: SocketAddr) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut body = String::new();
    stream.read_to_string(&mut body).await?;
    Ok(body)
}
