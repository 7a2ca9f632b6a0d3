use super::facts::{FrontendState, Running, is_chain_of_kube_proxy};
use super::*;

fn frontend(address: &str, in_force: bool) -> FrontendState {
    let address = address.parse().expect("an address");
    FrontendState { name: format!("TCP {address}:80"), address, in_force }
}

/// A node on which everything is as it should be.
fn well() -> Facts {
    let metrics = "fairway_proxy_apiserver_connected{kind=\"Node\"} 1\n\
                   fairway_proxy_held_back{kind=\"Service\"} 0\nfairway_proxy_frontends_left_out 0\n";
    let frontends = vec![frontend("10.254.0.1", true)];
    let running = Running { frontends, metrics: metrics.into(), mode: "ebpf".into() };
    let sysctls = [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "2")];
    Facts {
        running: Some(running),
        sysctls: sysctls.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
        lacking: Some(BTreeSet::new()),
        own_addresses: ["172.16.0.1".parse().expect("an address")].into(),
        ..Facts::default()
    }
}

fn with_metric(line: &str) -> Facts {
    let mut facts = well();
    facts.running.as_mut().expect("it runs").metrics.push_str(line);
    facts
}

fn with_sysctl(path: &str, value: &str) -> Facts {
    let mut facts = well();
    facts.sysctls.insert(path.into(), value.into());
    facts
}

fn with_frontend(address: &str, in_force: bool) -> Facts {
    let mut facts = well();
    facts.running.as_mut().expect("it runs").frontends.push(frontend(address, in_force));
    facts
}

#[test]
fn a_node_that_is_well_gives_no_reason_to_act() {
    let report = diagnose(&well());
    assert!(report.is_well());
    assert!(
        report.findings.iter().all(|it| it.severity == Severity::Fine && it.advice.is_empty()),
        "{report}"
    );
}

#[test]
fn each_trouble_is_found_by_name() {
    use Severity::{Failure, Unknown, Warning};
    let silent = Facts { running: None, unreachable: "no fairway-proxy answers".into(), ..well() };
    let cases = [
        (silent, Failure, "proxy", "no fairway-proxy answers"),
        (with_frontend("10.254.0.2", false), Failure, "plan", "1 frontends are not forwarded as planned"),
        (
            with_metric("fairway_proxy_held_back{kind=\"EndpointSlice\"} 7\n"),
            Failure,
            "emptiness",
            "7 objects",
        ),
        (with_metric("fairway_proxy_frontends_left_out 2\n"), Failure, "left out", "2 frontends"),
        (with_metric("fairway_proxy_drift_repaired_total 3\n"), Warning, "foreign writers", "3 times"),
        (with_metric("fairway_proxy_dataplane_restored_total 1\n"), Warning, "foreign writers", "1 programs"),
        (
            with_metric("fairway_proxy_apiserver_connected{kind=\"Service\"} 0\n"),
            Warning,
            "API server",
            "for Service",
        ),
        (with_sysctl("net/ipv4/ip_forward", "0"), Failure, "forwarding", "ip_forward is 0"),
        (with_frontend("fd00::1", true), Unknown, "forwarding", "could not be read"),
        (with_sysctl("net/ipv4/conf/all/rp_filter", "1"), Severity::Fine, "rp_filter", "no interface"),
        (with_sysctl("net/ipv4/conf/eth0/rp_filter", "0"), Severity::Fine, "rp_filter", "no interface"),
        (with_frontend("172.16.0.1", true), Warning, "addresses", "172.16.0.1 of services"),
        (
            Facts { leftovers: vec!["the interface kube-ipvs0".into()], ..well() },
            Failure,
            "kube-proxy",
            "kube-ipvs0 is still there",
        ),
        (Facts { lacking: None, ..well() }, Unknown, "features", "did not say"),
        (
            Facts { lacking: Some([Feature::SetRetval].into()), ..well() },
            Warning,
            "features",
            "the kernel lacks bpf_set_retval in connect and sendmsg hooks (Linux 6.1): a datagram",
        ),
        (Facts { unseen: vec!["nft"], ..well() }, Unknown, "kube-proxy", "nft is not installed"),
    ];
    for (facts, severity, subject, words) in cases {
        let report = diagnose(&facts);
        let found = report.findings.iter().find(|it| it.subject == subject && it.found.contains(words));
        assert_eq!(found.map(|it| it.severity), Some(severity), "{subject}, {words}: {report}");
        assert_eq!(report.is_well(), severity != Failure, "{report}");
    }
}

#[test]
fn the_stricter_of_all_and_its_own_filters_an_interface() {
    for (all, own, strict) in [("0", "1", true), ("1", "0", true), ("2", "1", false), ("0", "2", false)] {
        let mut facts = with_sysctl("net/ipv4/conf/eth0/rp_filter", own);
        facts.sysctls.insert("net/ipv4/conf/all/rp_filter".into(), all.into());
        assert_eq!(facts.strict_interfaces().eq(["eth0"]), strict, "{all} {own}");
    }
}

#[test]
fn chains_of_kube_proxy_are_told_from_those_of_the_kubelet() {
    for (line, expected) in [
        (":KUBE-SERVICES - [0:0]", true),
        (":KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]", true),
        (":KUBE-PROXY-CANARY - [0:0]", true),
        (":KUBE-KUBELET-CANARY - [0:0]", false),
        (":KUBE-FIREWALL - [0:0]", false),
        ("-A OUTPUT -j KUBE-SERVICES", false),
    ] {
        assert_eq!(is_chain_of_kube_proxy(line), expected, "{line}");
    }
}
