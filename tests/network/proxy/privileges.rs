//! What the manifests grant is enough, and both grant the same.

use std::fs;
use std::path::Path;

use tests::traffic::DialReport;
use tests::{Error, Process, Program, Result, objects};

use super::node::{LIMIT, Node, POD_PORT, until};

const TARGET: &str = "10.254.0.10:80";

/// Of a file in `proxy/deploy`.
fn manifest(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/deploy").join(name);
    fs::read_to_string(&path).map_err(Error::system("read", path.display()))
}

/// The words after `key`, in the order of the alphabet and without `CAP_`.
fn capabilities(text: &str, key: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
    let words = line.unwrap_or_default().split([' ', ',', '[', ']']).filter(|word| !word.is_empty());
    let mut words: Vec<String> = words.map(|word| word.trim_start_matches("CAP_").to_lowercase()).collect();
    words.sort();
    words
}

#[test]
fn the_manifests_grant_the_same_and_nothing_at_large() -> Result<()> {
    let (pod, unit) = (manifest("daemonset.yaml")?, manifest("fairway-proxy.service")?);
    let granted = capabilities(&pod, "add:");
    assert!(!granted.is_empty());
    assert_eq!(granted, capabilities(&unit, "CapabilityBoundingSet="));
    for line in [
        "privileged: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
    ] {
        assert!(pod.lines().any(|found| found.trim() == line), "{line}");
    }
    Ok(())
}

/// With the capabilities of the `DaemonSet` and no other it serves sockets and packets, is adopted by the next, moves the UDP
/// socket of another user's process, and cleans up.
#[test]
fn what_the_daemonset_grants_is_enough() -> Result<()> {
    let node = Node::with_pods()?;
    web(&node, "10.1.0.1")?;
    drop(restricted(&node)?);
    let mut proxy = restricted(&node)?;
    let reaches = |pod: &str| {
        let only = |report: DialReport| report.failed == 0 && report.backends.keys().eq([pod]);
        until(&format!("{pod} is reached"), || Ok(only(node.dial("tcp", TARGET, 3)?)))
    };
    reaches("pod-1")?;
    proxy.wait_for_log("packets served", LIMIT)?;
    // Bash connects the socket; the process that holds it is nobody's.
    let script = "exec 3<>/dev/udp/10.254.0.10/80; echo connected; exec sleep 60";
    let holder = ["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", script];
    let mut holder = node.client(Program::new("setpriv").arguments(holder)).spawn()?;
    holder.wait_for_log("connected", LIMIT)?;
    web(&node, "10.1.0.2")?;
    node.await_metric("fairway_proxy_udp_sockets_moved_total", 1.0)?;
    reaches("pod-2")?;
    assert!(!proxy.log()?.contains("ERROR"), "{}", proxy.log()?);
    proxy.kill()?;
    let (status, log) = with_capabilities(node.cleaner()?)?.run(LIMIT)?;
    assert!(status.success() && node.is_bare()?, "{status}: {log}");
    Ok(())
}

/// The Service with this endpoint, TCP and UDP.
fn web(node: &Node, endpoint: &str) -> Result<()> {
    let service = objects::service("web", "10.254.0.10").port("t", "TCP", 80).port("u", "UDP", 80).json();
    let slice = objects::slice("web", "web-1").port("t", "TCP", POD_PORT).port("u", "UDP", POD_PORT);
    let slice = slice.ready(&[endpoint]).json();
    node.write("web.yaml", &[service, slice].map(|object| object.to_string()).join("\n---\n")).map(drop)
}

/// The proxy as a container of the `DaemonSet` is: root with these capabilities.
fn restricted(node: &Node) -> Result<Process> {
    let directory = node.directory().display().to_string();
    let mut proxy = with_capabilities(node.program(&["--manifests", &directory])?)?.spawn()?;
    node.await_step(&mut proxy)?;
    Ok(proxy)
}

fn with_capabilities(program: Program) -> Result<Program> {
    let granted = capabilities(&manifest("daemonset.yaml")?, "add:");
    let granted: Vec<String> = granted.iter().map(|name| format!("+{name}")).collect();
    Ok(program
        .by("setpriv", ["--no-new-privs".to_owned(), format!("--bounding-set=-all,{}", granted.join(","))]))
}
