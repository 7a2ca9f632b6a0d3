//! The Node that the proxy runs on: what `/healthz` says of it, and that forwarding does not wait for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proxy::config::{Access, Config, Source};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::api::{Answer, Api, discovery, event, list, service, silence, slice, status};
use crate::window::{Window, quiet, with_proxy};

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(anywhere()).unwrap().local_addr().unwrap()
}

/// An API server with one Service, where `nodes` answers for Nodes; it is told whether a watch is asked for.
async fn api(mut nodes: impl FnMut(bool) -> Answer + Send + 'static) -> Api {
    Api::start_with_nodes(anywhere(), move |target| {
        let watch = target.contains("watch=true");
        match target.split('?').next().unwrap() {
            "/apis/discovery.k8s.io/v1" => discovery(),
            "/api/v1/nodes" => {
                assert!(target.contains("fieldSelector=metadata.name%3Dn1"), "{target}");
                nodes(watch)
            }
            _ if watch => silence(),
            "/api/v1/services" => list(&[service("one", 1)], ""),
            _ => list(&[slice("one", &[1])], ""),
        }
    })
    .await
}

fn config(api: &Api) -> Config {
    let source = Source::Cluster(Access { kubeconfig: None, master: Some(api.url()) });
    Config {
        hostname_override: Some("n1".into()),
        healthz: Some(free_address()),
        metrics: Some(free_address()),
        bind_address_hard_fail: true,
        ..quiet(source)
    }
}

fn node(taints: &[&str], version: u32) -> Value {
    let taint = |key: &&str| json!({ "key": key, "effect": "NoSchedule" });
    let taints: Vec<Value> = taints.iter().map(taint).collect();
    json!({ "metadata": { "name": "n1", "resourceVersion": version.to_string() }, "spec": { "taints": taints } })
}

/// The status and the body of an answer; none where nobody listens yet.
async fn answer(address: SocketAddr, path: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap()))
}

/// Waits until `/healthz` answers so; `/livez` is to be well all along.
async fn until_healthz(config: &Config, expected: u16) {
    let address = config.healthz.unwrap();
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    let answered = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            pause.tick().await;
            if let Some((status, body)) = answer(address, "/healthz").await
                && status == expected
            {
                assert_eq!(body["nodeEligible"], expected == 200, "{body}");
                return;
            }
        }
    });
    assert!(answered.await.is_ok(), "/healthz is not {expected} in 20 s");
    let (status, body) = answer(address, "/livez").await.unwrap();
    assert_eq!((status, body.get("nodeEligible")), (200, None), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_are_turned_away_from_a_node_that_is_to_go() {
    const TAINT: &str = "ToBeDeletedByClusterAutoscaler";
    let (events, lines) = mpsc::channel(4);
    let mut lines = Some(lines);
    let api = api(move |watch| match (watch, lines.take()) {
        (true, Some(lines)) => Answer::Lines(lines),
        (true, None) => status(500),
        (false, unused) => {
            lines = unused;
            list(&[node(&["other"], 1)], "")
        }
    })
    .await;
    let (config, window) = (config(&api), Window::new());
    with_proxy(config.clone(), window.clone(), async || {
        until_healthz(&config, 200).await;
        events.send(event("MODIFIED", &node(&["other", TAINT], 2))).await.unwrap();
        until_healthz(&config, 503).await;
        events.send(event("MODIFIED", &node(&["other"], 3))).await.unwrap();
        until_healthz(&config, 200).await;
        let mut going = node(&[], 4);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        events.send(event("MODIFIED", &going)).await.unwrap();
        until_healthz(&config, 503).await;
        window.until(1, Some(1)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_node_the_proxy_forwards_and_is_well() {
    for missing in [status(403), list(&[], ""), status(500)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let Answer::Body(code, body) = missing else { panic!("a whole answer") };
        let api = api(move |watch| {
            counted.fetch_add(1, Ordering::SeqCst);
            if watch { status(500) } else { Answer::Body(code, body.clone()) }
        })
        .await;
        let (config, window) = (config(&api), Window::new());
        with_proxy(config.clone(), window.clone(), async || {
            window.until(1, Some(1)).await;
            while asked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            until_healthz(&config, 200).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_force_can_be_asked_for() {
    let api = api(|_| list(&[], "")).await;
    let config = config(&api);
    with_proxy(config.clone(), Window::new(), async || {
        until_healthz(&config, 200).await;
        let (status, body) = loop {
            match answer(config.metrics.unwrap(), "/configz").await {
                Some(answered) => break answered,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(status, 200);
        let configuration = &body["kubeproxy.config.k8s.io"];
        assert_eq!(configuration["apiVersion"], "kubeproxy.config.k8s.io/v1alpha1");
        assert_eq!(configuration["kind"], "KubeProxyConfiguration");
        assert_eq!(configuration["iptables"]["syncPeriod"], "30s");
    })
    .await;
}
