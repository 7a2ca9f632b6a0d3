//! The configuration file changes while the process runs.

use std::fs;

use tests::{Error, Result, objects};

use super::node::{LIMIT, Node, POD_PORT, until};

const TARGET: &str = "10.254.0.10:80";

fn configuration(node: &Node, rest: &str) -> Result<String> {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    Ok(node.write("config.conf", &format!("{head}{rest}\n"))?.display().to_string())
}

/// kube-proxy ends for its supervisor too; but it ends for a file that its next start refuses as well.
#[test]
fn a_changed_configuration_ends_it_and_a_mistaken_one_does_not() -> Result<()> {
    let node = Node::with_pods()?;
    let both = |object: objects::Object, port| object.port("t", "TCP", port).port("u", "UDP", port);
    let service = both(objects::service("web", "10.254.0.10"), 80).json();
    let slice = both(objects::slice("web", "web-1"), POD_PORT).ready(&["10.1.0.1"]).json();
    node.write("web.yaml", &format!("{service}\n---\n{slice}\n"))?;
    let manifests = node.directory().display().to_string();
    let config = configuration(&node, "healthzBindAddress: 127.0.0.1:10256\noomScoreAdj: 500")?;
    let start = || node.proxy(&["--config", &config, "--manifests", &manifests]);

    let mut proxy = start()?;
    let oom_score = format!("/proc/{}/oom_score_adj", proxy.id());
    let oom_score = fs::read_to_string(&oom_score).map_err(Error::system("read", &oom_score))?;
    assert_eq!(oom_score, "500\n");
    configuration(&node, "healthzBindAddress: nowhere")?;
    proxy.wait_for_log("configuration file not usable, the one in force stays", LIMIT)?;
    configuration(&node, "healthzBindAddress: 127.0.0.1:10256 # as it was\noomScoreAdj: 500")?;
    proxy.wait_for_log("configuration file is as it was", LIMIT)?;
    assert_eq!(proxy.ended()?, None);

    configuration(&node, "healthzBindAddress: 127.0.0.1:1111")?;
    assert_eq!(proxy.wait(LIMIT)?.code(), Some(1), "for the supervisor to start it again");
    let log = proxy.log()?;
    assert!(log.contains("config.conf has changed, starting again applies it"), "{log}");
    node.await_backends(TARGET, &["pod-1"])?;

    let _proxy = start()?;
    until("the new address is served", || Ok(node.get(1111, "/livez")?.is_some()))?;
    assert_eq!(node.get(10_256, "/livez")?, None);
    node.await_backends(TARGET, &["pod-1"])
}

#[test]
fn init_only_puts_the_programs_in_place_and_ends() -> Result<()> {
    let node = Node::new()?;
    let manifests = node.directory().display().to_string();
    let (status, said) = node.program(&["--manifests", &manifests, "--init-only=true"])?.run(LIMIT)?;
    assert!(status.success(), "{said}");
    assert!(!node.is_bare()?, "{said}");
    let _proxy = node.proxy_of_files()?;
    Ok(())
}
