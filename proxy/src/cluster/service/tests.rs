use serde_json::{Value, json};

use super::*;

fn read(metadata: &Value, spec: &Value) -> Result<Option<Service>, Refusal> {
    let object = json!({ "metadata": metadata, "spec": spec });
    Service::read(&serde_json::from_value(object).expect("a Service"))
}

fn addresses(spec: &Value) -> Result<Vec<String>, String> {
    match read(&json!({ "name": "web" }), spec) {
        Ok(service) => {
            let service = service.map(|service| service.addresses).unwrap_or_default();
            Ok(service.iter().map(IpAddr::to_string).collect())
        }
        Err(refusal) => Err(refusal.to_string()),
    }
}

#[test]
fn cluster_addresses_follow_the_families() {
    let cases = [
        (json!({ "clusterIP": "10.0.0.1" }), vec!["10.0.0.1"]),
        (
            json!({ "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"] }),
            vec!["10.0.0.1", "fd00::1"],
        ),
        (
            json!({ "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"] }),
            vec!["10.0.0.1", "fd00::1"],
        ),
        (json!({ "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6"] }), vec!["fd00::1"]),
        (json!({ "clusterIP": "None", "clusterIPs": ["None"] }), vec![]),
        (json!({ "clusterIP": "" }), vec![]),
        (json!({ "type": "ExternalName", "externalName": "example.org", "clusterIP": "10.0.0.1" }), vec![]),
        (json!({}), vec![]),
    ];
    for (spec, expected) in cases {
        assert_eq!(addresses(&spec), Ok(expected.into_iter().map(str::to_owned).collect()), "{spec}");
    }
}

#[test]
fn wrong_services_are_refused_with_the_reason() {
    let port = |port: i64, protocol: &str| json!({ "port": port, "protocol": protocol });
    let cases = [
        (json!({ "clusterIP": "010.0.0.1" }), "spec.clusterIP: \"010.0.0.1\" is not an IP address"),
        (json!({ "clusterIPs": ["10.0.0.1", "x"] }), "spec.clusterIPs: \"x\" is not an IP address"),
        (json!({ "clusterIP": "0.0.0.0" }), "spec.clusterIP: 0.0.0.0 names no host"),
        (
            json!({ "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"] }),
            "spec.clusterIPs: 10.0.0.1 is not of the family in ipFamilies",
        ),
        (json!({ "clusterIP": "10.0.0.1", "ports": [port(0, "TCP")] }), "spec.ports[].port: 0 is not a port"),
        (
            json!({ "clusterIP": "10.0.0.1", "ports": [port(65_536, "TCP")] }),
            "spec.ports[].port: 65536 is not a port",
        ),
        (
            json!({ "clusterIP": "10.0.0.1", "ports": [{ "port": 80, "nodePort": 70_000 }] }),
            "spec.ports[].nodePort: 70000 is not a port",
        ),
        (
            json!({ "clusterIP": "10.0.0.1", "loadBalancerSourceRanges": ["10.0.0.0/8", "x/8"] }),
            "spec.loadBalancerSourceRanges: \"x/8\" is not a network",
        ),
        (
            json!({ "clusterIP": "10.0.0.1", "ports": [port(80, "tcp")] }),
            "spec.ports[].protocol: \"tcp\" is not a known protocol",
        ),
        (
            json!({ "clusterIP": "10.0.0.1", "ports": [port(80, "TCP"), port(80, "")] }),
            "spec.ports: TCP port 80 is there twice",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(addresses(&spec), Err(expected.to_owned()), "{spec}");
    }
}

#[test]
fn labels_hand_a_service_to_somebody_else() {
    let spec = json!({ "clusterIP": "10.0.0.1" });
    for label in [PROXY_NAME_LABEL, HEADLESS_LABEL] {
        let metadata = json!({ "name": "web", "labels": { label: "" } });
        assert_eq!(read(&metadata, &spec), Ok(None), "{label}");
    }
    assert!(matches!(read(&json!({ "name": "web" }), &spec), Ok(Some(_))));
}

fn service(spec: &Value) -> Service {
    read(&json!({ "name": "web" }), spec).expect("valid").expect("ours")
}

#[test]
fn whoever_is_outside_finds_it_by_other_addresses() {
    let object = json!({
        "metadata": { "name": "web" },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.1", "nonsense", "0.0.0.0"],
            "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 81, "nodePort": 0 }],
            "loadBalancerSourceRanges": [" 192.0.2.7/24 ", "fd00::/8"],
        },
        "status": { "loadBalancer": { "ingress": [
            { "ip": "192.0.2.2" }, { "ip": "192.0.2.3", "ipMode": "VIP" }, { "ip": "192.0.2.4", "ipMode": "Proxy" },
            { "hostname": "lb.example.org" }, { "ip": "" }, { "ip": "192.0.2.05" },
        ] } },
    });
    let service =
        Service::read(&serde_json::from_value(object).expect("a Service")).expect("valid").expect("ours");
    let texts = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&service.external_addresses), ["192.0.2.1"]);
    assert_eq!(texts(&service.balancer_addresses), ["192.0.2.2", "192.0.2.3"]);
    let ranges: Vec<String> = service.source_ranges.iter().map(IpNet::to_string).collect();
    assert_eq!(ranges, ["192.0.2.0/24", "fd00::/8"]);
    assert_eq!(service.ports.iter().map(|port| port.node_port).collect::<Vec<_>>(), [Port::new(30080), None]);
    let disregarded: Vec<String> = service.disregarded.iter().map(Disregarded::to_string).collect();
    let expected = [
        "spec.externalIPs: \"0.0.0.0\" is no address of a host",
        "spec.externalIPs: \"nonsense\" is no address of a host",
        "status.loadBalancer.ingress[].ip: \"192.0.2.05\" is no address of a host",
    ];
    assert_eq!(disregarded, expected);
}

#[test]
fn a_client_is_remembered_for_three_hours_unless_said_otherwise() {
    let with = |config: Value| json!({ "clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP", "sessionAffinityConfig": config });
    let cases = [
        (json!({ "clusterIP": "10.0.0.1", "sessionAffinity": "None" }), None),
        (with(json!(null)), Some(10_800)),
        (with(json!({ "clientIP": {} })), Some(10_800)),
        (with(json!({ "clientIP": { "timeoutSeconds": 1 } })), Some(1)),
    ];
    for (spec, seconds) in cases {
        assert_eq!(service(&spec).affinity, seconds.map(Duration::from_secs), "{spec}");
    }
    for seconds in [0, -1, 86_401] {
        let spec = with(json!({ "clientIP": { "timeoutSeconds": seconds } }));
        let expected = format!(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not between 1 and 86400"
        );
        assert_eq!(addresses(&spec), Err(expected));
    }
}

#[test]
fn a_health_check_needs_a_balancer_that_asks_for_this_nodes_endpoints() {
    let spec = |kind: &str, policy: &str| json!({ "clusterIP": "10.0.0.1", "type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": 32_000 });
    let cases = [
        (spec("LoadBalancer", "Local"), Port::new(32_000)),
        (spec("LoadBalancer", "Cluster"), None),
        (spec("NodePort", "Local"), None),
    ];
    for (spec, expected) in cases {
        assert_eq!(service(&spec).health_check, expected, "{spec}");
    }
}

#[test]
fn an_annotation_names_the_scheduler() {
    let cases = [("maglev", Some(Scheduler::Maglev), 0), ("rr", None, 1)];
    for (name, scheduler, disregarded) in cases {
        let metadata = json!({ "name": "web", "annotations": { SCHEDULER_ANNOTATION: name } });
        let service = read(&metadata, &json!({ "clusterIP": "10.0.0.1" })).expect("valid").expect("ours");
        assert_eq!((service.scheduler, service.disregarded.len()), (scheduler, disregarded), "{name}");
    }
}
