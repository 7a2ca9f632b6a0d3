//! What `fairway-proxy doctor` finds on a node, and by which exit code.

use std::process::ExitStatus;

use serde_json::Value;
use tests::{Error, Namespace, Program, Result, objects};

use super::node::{LIMIT, Node, POD_PORT};

fn doctor(node: &Node, arguments: &[&str]) -> Result<(ExitStatus, String)> {
    let program = Program::ours("fairway-proxy")?.arguments(["doctor"]).arguments(arguments);
    program.inside(&node.namespace).run(LIMIT)
}

fn run(node: &Node, program: &str, arguments: &[&str]) -> Result<()> {
    let (status, said) = Program::new(program).arguments(arguments).inside(&node.namespace).run(LIMIT)?;
    assert!(status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

/// Fails unless a line says all of this.
fn assert_says(report: &str, words: &[&str]) {
    let says = |line: &str| words.iter().all(|words| line.contains(words));
    assert!(report.lines().any(says), "no line with {words:?} in\n{report}");
}

#[test]
fn the_doctor_tells_a_node_that_is_well_from_one_that_is_not() -> Result<()> {
    let node = Node::with_pods()?;
    node.namespace.forward()?;
    let (status, said) = doctor(&node, &[])?;
    assert_eq!(status.code(), Some(1), "{said}");
    assert_says(&said, &["FAILURE", "no fairway-proxy answers at 127.0.0.1:10249"]);

    let service = objects::service("web", "10.254.0.10").port("t", "TCP", 80);
    let slice = objects::slice("web", "web-1").port("t", "TCP", POD_PORT).ready(&["10.1.0.1"]);
    node.write("web.yaml", &[service.json(), slice.json()].map(|object| object.to_string()).join("\n---\n"))?;
    let _proxy = node.proxy_of_files()?;
    let (status, said) = doctor(&node, &[])?;
    assert_eq!(status.code(), Some(0), "{said}");
    assert_says(&said, &["fine", "all 1 frontends are forwarded as planned"]);
    assert!(!said.contains("FAILURE") && !said.contains("warning"), "{said}");

    // What kube-proxy would leave, an address of a Service on the node, and a filter that drops what comes another way.
    run(&node, "nft", &["add", "table", "ip", "kube-proxy"])?;
    let elsewhere = Namespace::new("elsewhere")?;
    node.namespace.cable("kube-ipvs0", &elsewhere, "eth0")?;
    node.namespace.address("lo", "10.254.0.10/32")?;
    run(&node, "sysctl", &["-w", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.ip_forward=0"])?;
    let (status, said) = doctor(&node, &["--json"])?;
    assert_eq!(status.code(), Some(1), "{said}");
    let json = &said[..said.rfind('}').map_or(said.len(), |end| end + 1)];
    let report: Value = serde_json::from_str(json).map_err(Error::json("the report"))?;
    let findings = report["findings"].as_array().expect("a list");
    for (severity, subject, words) in [
        ("failure", "kube-proxy", "nftables table ip kube-proxy"),
        ("failure", "kube-proxy", "kube-ipvs0"),
        ("failure", "forwarding", "ip_forward is 0"),
        ("warning", "addresses", "10.254.0.10"),
        ("warning", "rp_filter", "eth0"),
    ] {
        let is_it = |finding: &&Value| {
            (&finding["severity"], &finding["subject"]) == (&severity.into(), &subject.into())
                && finding["found"].as_str().is_some_and(|found| found.contains(words))
        };
        assert!(findings.iter().any(|finding| is_it(&finding)), "{severity} {subject} {words}: {said}");
    }
    Ok(())
}

/// Beside a proxy that runs: what is kube-proxy's goes, what is not stays, and clients do not notice.
#[test]
fn what_kube_proxy_left_is_cleared_away_and_nothing_else() -> Result<()> {
    let node = Node::with_pods()?;
    let service = objects::service("web", "10.254.0.10").port("t", "TCP", 80);
    let slice = objects::slice("web", "web-1").port("t", "TCP", POD_PORT).ready(&["10.1.0.1"]);
    node.write("web.yaml", &[service.json(), slice.json()].map(|object| object.to_string()).join("\n---\n"))?;
    let _proxy = node.proxy_of_files()?;
    for table in ["ip kube-proxy", "ip6 kube-proxy", "ip somebody", "ip fairway-proxy"] {
        let [family, name] = table.split(' ').collect::<Vec<_>>()[..] else { panic!("{table}") };
        run(&node, "nft", &["add", "table", family, name])?;
    }
    let clear = || {
        let program = Program::ours("fairway-proxy")?.arguments(["cleanup", "--kube-proxy"]);
        program.inside(&node.namespace).run(LIMIT)
    };
    for attempt in 0..2 {
        let (status, said) = clear()?;
        assert!(status.success(), "{attempt}: {said}");
        let (_, tables) =
            Program::new("nft").arguments(["list", "tables"]).inside(&node.namespace).run(LIMIT)?;
        assert_eq!(tables.lines().collect::<Vec<_>>(), ["table ip somebody", "table ip fairway-proxy"]);
        assert_eq!(node.dial("tcp", "10.254.0.10:80", 3)?.failed, 0);
    }
    Ok(())
}
