//! As a pod of the cluster it serves: the files and variables of its service account are all it is told.

use tests::apiserver::Release;
use tests::{Program, Result, binary, objects};

use super::apiserver::{ADDRESS, ControlPlane, PORT, TOKEN};
use super::node::{Node, POD_PORT};

/// Where the kubelet puts the files of a service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn a_pod_finds_the_api_server_by_its_service_account() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let _apiserver = cluster.apiserver(&node)?;
    cluster.put([
        objects::service("web", "10.254.0.10").port("t", "TCP", 80).json(),
        objects::slice("web", "web-1").port("t", "TCP", POD_PORT).ready(&["10.1.0.2"]).json(),
    ])?;
    node.write("token", TOKEN)?;
    node.write("namespace", "kube-system")?;

    // In a mount namespace of its own, so that nobody else has such an account.
    let script = "mount -t tmpfs tmpfs /run && mkdir -p \"$ACCOUNT\" && \
                  cp \"$FILES\"/* \"$ACCOUNT\" && exec \"$@\"";
    let settings = node.settings();
    let program = Program::new("unshare")
        .arguments(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arguments([binary("fairway-proxy")?])
        .arguments(["--cgroup".as_ref(), settings.cgroup.as_path(), "--bpf-fs".as_ref(), &settings.bpf_fs])
        .environment("ACCOUNT", ACCOUNT)
        .environment("FILES", node.directory())
        .environment("KUBERNETES_SERVICE_HOST", ADDRESS)
        .environment("KUBERNETES_SERVICE_PORT", PORT.to_string())
        .inside(&node.namespace);
    let mut proxy = program.spawn()?;
    node.await_step(&mut proxy)?;

    let report = node.dial("tcp", "10.254.0.10:80", 6)?;
    assert_eq!(report.backends.get("pod-2"), Some(&6), "{report:?}");
    Ok(())
}
