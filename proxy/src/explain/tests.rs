use serde_json::json;

use super::*;
use crate::cluster::{Delta, Name, Update, kind};
use crate::translate::Settings;

/// A Service with an endpoint here and one elsewhere, of which the kernel knows nothing yet.
fn shared() -> SharedView {
    let mut planner = Planner::new("m1", Settings::default());
    let node = json!({ "metadata": {}, "status": { "addresses": [{ "type": "InternalIP", "address": "172.16.60.241" }] } });
    let service = json!({ "metadata": {}, "spec": {
        "type": "NodePort", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local",
        "ports": [{ "name": "http", "port": 80, "nodePort": 30_080 }],
    } });
    let endpoints = json!([
        { "addresses": ["10.1.0.1"], "nodeName": "m1" }, { "addresses": ["10.1.0.2"], "nodeName": "m2" },
        { "addresses": ["10.1.0.3"], "nodeName": "m1", "conditions": { "ready": false } },
    ]);
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints,
    });
    let name = || Name::new(None, "web");
    let node = kind::node(node).expect("valid").expect("ours");
    let service = kind::service(service).expect("valid").expect("ours");
    let slice = kind::endpoint_slice(slice).expect("valid").expect("ours");
    planner.update(Update::Node(Delta::Applied(name(), node)));
    planner.update(Update::Services(Delta::Applied(name(), service)));
    planner.update(Update::Slices(Delta::Applied(name(), slice)));
    planner.settle();
    let view = SharedView::default();
    *view.lock() = View { planner, applied: Some(Observed::default()), live: None };
    view
}

#[test]
fn a_flow_from_outside_is_told_why_it_stays_on_the_node() {
    let answer = shared().answer("sender=172.16.60.10&destination=172.16.60.241:30080/tcp");
    assert_eq!(answer.status, StatusCode::OK);
    let expected = [
        "flow      TCP 172.16.60.241:30080 from 172.16.60.10 (outside, by its address)",
        "verdict   forward",
        "service   default/web port http, node port (TCP 172.16.60.241:30080 from outside)",
        "endpoints policy Local, hints: everywhere",
        "  + 10.1.0.1:8080 on m1: ready",
        "  - 10.1.0.2:8080 on m2: on another node",
        "  - 10.1.0.3:8080 on m1: not ready",
        "rules     round-robin, dropped while there is no backend",
        "kernel    nothing is written for this",
    ];
    assert_eq!(answer.body.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_flow_of_the_node_is_told_that_it_is_masqueraded_and_what_the_kernel_does() {
    let view = shared();
    let wanted = view.lock().planner.forwarding();
    let services = wanted.into_iter().map(|(frontend, service)| (frontend, service.into()));
    view.lock().applied = Some(Observed { services: services.collect() });
    let answer = view.answer("sender=172.16.60.241&destination=172.16.60.241:30080&output=json");
    let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(
        (&body["source"], &body["verdict"], &body["masqueraded"]),
        (&json!("node"), &json!("forward"), &json!(true))
    );
    assert_eq!(body["matched"]["policy"], "Cluster");
    assert_eq!(body["kernel"]["backends"], json!(["10.1.0.1:8080", "10.1.0.2:8080"]));
    assert_eq!(body["kernel"]["asPlanned"], true);
}

#[test]
fn the_source_may_be_said_and_is_found_out_else() {
    let source = |sender: &str| {
        let answer = shared().answer(&format!("sender={sender}&destination=10.0.0.1:80&output=json"));
        serde_json::from_str::<serde_json::Value>(&answer.body).expect("JSON")["source"].clone()
    };
    let cases =
        [("10.1.0.3", "pod"), ("10.1.0.2", "outside"), ("pod:10.1.0.2", "pod"), ("127.0.0.1", "node")];
    for (sender, expected) in cases {
        assert_eq!(source(sender), expected, "{sender}");
    }
}

#[test]
fn what_is_no_question_is_refused_and_what_is_one_is_read_back() {
    let cases = [
        ("", "sender: is required\n"),
        (
            "sender=here&destination=10.0.0.1:80",
            "sender: \"here\" is not an address: invalid IP address syntax\n",
        ),
        ("sender=10.0.0.1&destination=10.0.0.1:0", "destination: \"10.0.0.1:0\" has port 0\n"),
        (
            "sender=10.0.0.1&destination=10.0.0.1:80/ICMP",
            "destination: \"ICMP\" is none of TCP, UDP and SCTP\n",
        ),
    ];
    for (query, expected) in cases {
        let answer = shared().answer(query);
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::BAD_REQUEST, expected), "{query}");
    }
    for query in [
        "sender=pod:10.1.0.9&destination=10.0.0.1:80/TCP&output=json",
        "sender=fd00::9&destination=%5Bfd00::1%5D:53/UDP&output=text",
    ] {
        assert_eq!(query.parse::<Question>().expect("a question").to_string(), query);
    }
}
