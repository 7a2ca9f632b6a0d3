//! What the process says of itself to those who ask.

use std::collections::BTreeSet;

use dataplane::{Capacity, Dataplane, Ebpf};
use plan::{Change, Rules, Scheduler};
use serde_json::Value;
use tests::traffic::DialReport;
use tests::{Error, Program, Result, objects};

use super::drift::{frontend, somebody_else};
use super::node::{LIMIT, Node, POD_PORT, until};

const HEALTH_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

fn status(node: &Node, port: u16, path: &str) -> Result<Option<u16>> {
    Ok(node.get(port, path)?.map(|(status, _)| status))
}

/// Services 10.254.0.`number`, each with one endpoint.
fn services(node: &Node, services: &[(u8, &str)]) -> Result<()> {
    let documents = services.iter().flat_map(|(number, endpoint)| {
        let name = format!("web-{number}");
        let service = objects::service(&name, &format!("10.254.0.{number}")).port("t", "TCP", 80);
        let slice = objects::slice(&name, &format!("{name}-1")).port("t", "TCP", POD_PORT);
        [service.json(), slice.ready(&[endpoint]).json()]
    });
    let documents: Vec<String> = documents.map(|document| document.to_string()).collect();
    node.write("services.yaml", &documents.join("\n---\n")).map(drop)
}

/// A6 of the reference, and what upstream's end-to-end tests ask for.
#[test]
fn it_answers_as_kube_proxy_does() -> Result<()> {
    let node = Node::new()?;
    services(&node, &[(1, "10.1.0.1")])?;
    let _proxy = node.proxy_of_files()?;
    for path in ["/healthz", "/livez"] {
        let (status, body) = node.get(HEALTH_PORT, path)?.expect("an answer");
        let body: Value = serde_json::from_str(&body).map_err(Error::json(path))?;
        assert_eq!((status, &body["healthy"]), (200, &true.into()), "{body}");
        assert!(body["lastUpdated"].is_string(), "{body}");
        assert_eq!(body.get("nodeEligible").is_some(), path == "/healthz", "{body}");
    }
    assert_eq!(node.get(METRICS_PORT, "/proxyMode")?, Some((200, "ebpf".to_owned())));
    assert_eq!(node.get(METRICS_PORT, "/healthz")?, Some((200, "ok".to_owned())));
    for (path, told) in [
        ("/statusz", "\nfairway-proxy statusz\nWarning: This endpoint is not meant to be machine parseable"),
        ("/statusz", "\nUp: 0 hr 0"),
        ("/flagz", "\nproxy-mode=ebpf\n"),
        ("/metrics/slis", "\nkubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"),
    ] {
        let (status, body) = node.get(METRICS_PORT, path)?.expect("an answer");
        assert_eq!((status, body.contains(told)), (200, true), "{path}: {body}");
    }
    assert_eq!(status(&node, HEALTH_PORT, "/metrics")?, Some(404));
    let (_, metrics) = node.get(METRICS_PORT, "/metrics")?.expect("an answer");
    let names: BTreeSet<&str> = metrics.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_proxy_healthz_total",
        "fairway_proxy_build_info",
        "kubeproxy_proxy_livez_total",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(names.contains(name), "{name} is missing: {metrics}");
    }
    Ok(())
}

#[test]
fn it_answers_where_it_is_told_to() -> Result<()> {
    let node = Node::new()?;
    let directory = node.directory().display().to_string();
    let start = |arguments: &[&str]| node.program(&[&["--manifests", &directory], arguments].concat());
    let _proxy = start(&["--healthz-bind-address=127.0.0.1:1111", "--metrics-bind-address="])?.spawn()?;
    until("the health port answers", || Ok(status(&node, 1111, "/livez")? == Some(200)))?;
    for port in [HEALTH_PORT, METRICS_PORT] {
        assert_eq!(status(&node, port, "/healthz")?, None, "nobody is to listen at {port}");
    }
    Ok(())
}

/// Services that the maps have no room for keep nobody else waiting, and are served when there is room.
#[test]
fn a_full_map_is_said_loudly_and_holds_up_nothing_else() -> Result<()> {
    let node = Node::with_pods()?;
    // Maps that are pinned keep their size.
    let room = Capacity { services: 2, backends: 16 };
    drop(Ebpf::open_sized(&node.settings(), room).expect("maps of our own size"));
    services(&node, &[(1, "10.1.0.1"), (2, "10.1.0.1")])?;
    let proxy = node.proxy_of_files()?;
    services(&node, &[(1, "10.1.0.1"), (2, "10.1.0.1"), (3, "10.1.0.1")])?;
    until("it was tried more than once", || {
        Ok(node.metric("fairway_proxy_sync_failures_total")?.is_some_and(|failures| failures > 1.0))
    })?;
    let log = proxy.log()?;
    let complaint = ["ERROR", "add TCP 10.254.0.3:80 ", ": map ", " is full at "];
    assert!(log.lines().any(|line| complaint.iter().all(|words| line.contains(words))), "{log}");
    // What there is follows its endpoints.
    services(&node, &[(1, "10.1.0.1"), (2, "10.1.0.2"), (3, "10.1.0.1")])?;
    let reaches = |target: &str, pod: &str| {
        let pods = |report: DialReport| report.failed == 0 && report.backends.keys().eq([pod]);
        until(&format!("{target} reaches {pod}"), || Ok(pods(node.dial("tcp", target, 3)?)))
    };
    reaches("10.254.0.1:80", "pod-1")?;
    reaches("10.254.0.2:80", "pod-2")?;
    assert_eq!(node.dial("tcp", "10.254.0.3:80", 3)?.failed, 3);
    services(&node, &[(2, "10.1.0.2"), (3, "10.1.0.3")])?;
    reaches("10.254.0.3:80", "pod-3")?;
    assert_eq!(node.dial("tcp", "10.254.0.1:80", 3)?.failed, 3);
    Ok(())
}

/// What somebody else wrote over is seen before anything has compared it: the maps themselves are looked at.
#[test]
fn the_running_proxy_tells_what_the_maps_hold_now() -> Result<()> {
    let node = Node::new()?;
    services(&node, &[(1, "10.1.0.1"), (2, "10.1.0.2")])?;
    let directory = node.directory().display().to_string();
    let _proxy = node.proxy(&["--manifests", &directory, "--iptables-sync-period=1h"])?;
    let ask = |arguments: &[&str]| {
        Program::ours("fairway-proxy")?.arguments(arguments).inside(&node.namespace).run(LIMIT)
    };
    let (_, told) = ask(&["explain", "10.1.0.9", "10.254.0.2:80"])?;
    assert!(told.contains("kernel    as planned: 10.1.0.2:8080 (round-robin, exclusive)"), "{told}");
    // In place: that entries come or go is seen every second.
    let rules = Rules { scheduler: Scheduler::Random, exclusive: true, ..Rules::default() };
    let change = Change::SetRules { frontend: frontend("10.254.0.2:80"), rules };
    assert!(somebody_else(&node)?.apply(&[change]).is_empty());
    let (_, told) = ask(&["explain", "10.1.0.9", "10.254.0.2:80"])?;
    assert!(told.contains("kernel    NOT as planned: 10.1.0.2:8080 (random, exclusive)"), "{told}");
    let (status, told) = ask(&["doctor"])?;
    let finding = "FAILURE  plan: 1 frontends are not forwarded as planned, TCP 10.254.0.2:80 first";
    assert!(!status.success() && told.contains(finding), "{told}");
    Ok(())
}

/// The whole way: the command, the server it asks, the plan, and what was written for it.
#[test]
fn the_running_proxy_explains_a_flow() -> Result<()> {
    let node = Node::new()?;
    let service = objects::service("web", "10.254.0.10").port("http", "TCP", 80).json();
    let slice = objects::slice("web", "web-1").port("http", "TCP", 8080);
    let slice = slice.ready(&["10.1.0.1"]).unready(&["10.1.0.2"]).json();
    node.write("web.yaml", &[service, slice].map(|object| object.to_string()).join("\n---\n"))?;
    let _proxy = node.proxy_of_files()?;
    let explain = |arguments: &[&str]| {
        let program = Program::ours("fairway-proxy")?.arguments(["explain"]).arguments(arguments);
        program.inside(&node.namespace).run(LIMIT)
    };
    let (status, told) = explain(&["pod:10.1.0.9", "10.254.0.10:80"])?;
    assert!(status.success(), "{told}");
    for line in [
        "verdict   forward",
        "service   default/web port http, cluster address (TCP 10.254.0.10:80)",
        "  + 10.1.0.1:8080 on nowhere in particular: ready",
        "  - 10.1.0.2:8080 on nowhere in particular: not ready",
        "kernel    as planned: 10.1.0.1:8080 (round-robin, exclusive)",
    ] {
        assert!(told.lines().any(|told| told == line), "no line {line:?} in\n{told}");
    }
    let (_, told) = explain(&["pod:10.1.0.9", "10.254.0.10:81"])?;
    assert!(told.contains("verdict   refuse\nservice   none has this address and port"), "{told}");
    let (status, told) =
        explain(&["pod:10.1.0.9", "10.254.0.10:80", "--metrics-bind-address", "127.0.0.1:1"])?;
    assert!(!status.success() && told.contains("no fairway-proxy answers at 127.0.0.1:1"), "{told}");
    Ok(())
}
