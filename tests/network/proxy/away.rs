//! The apiserver goes away, with and without a word, and comes back.

use std::time::Duration;

use tests::apiserver::Release;
use tests::objects::{self, Object};
use tests::{Process, Result, kubeconfig, wait};

use super::apiserver::{ADDRESS, ControlPlane, PORT, TOKEN, watching_proxy};
use super::node::{LIMIT, Node, POD_PORT, until};

const TARGET: &str = "10.254.0.10:80";
const KINDS: [&str; 4] = ["Service", "EndpointSlice", "Node", "ServiceCIDR"];

fn both(object: Object, port: u16) -> Object {
    object.port("t", "TCP", port).port("u", "UDP", port)
}

/// The service, with these pods behind it.
fn web(cluster: &ControlPlane, pods: &[&str]) -> Result<()> {
    let service = both(objects::service("web", "10.254.0.10"), 80);
    cluster.put([service, both(objects::slice("web", "web-1"), POD_PORT).ready(pods)].map(Object::json))
}

fn await_connected(node: &Node, connected: f64) -> Result<()> {
    for kind in KINDS {
        node.await_metric(&format!("fairway_proxy_apiserver_connected{{kind=\"{kind}\"}}"), connected)?;
    }
    Ok(())
}

/// How many lines of the log say so.
fn lines(proxy: &Process, text: &str) -> Result<usize> {
    Ok(proxy.log()?.lines().filter(|line| line.contains(text)).count())
}

/// P7: the certificate of the authority and the token are replaced in their files, and nobody starts the proxy anew. Until then
/// a server of the new authority is not believed. Both files are read once a minute.
#[test]
fn what_its_files_say_of_the_apiserver_is_read_anew_without_a_restart() -> Result<()> {
    const READ_EVERY: Duration = Duration::from_mins(1);
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let mut apiserver = cluster.apiserver(&node)?;
    let token = node.write("token", TOKEN)?;
    let kubeconfig = kubeconfig(&format!("{ADDRESS}:{PORT}"), &node.directory().join("ca.crt"), TOKEN);
    let by_file = format!("tokenFile: {:?}", token.display().to_string());
    node.write("kubeconfig", &kubeconfig.replace(&format!("token: \"{TOKEN}\""), &by_file))?;
    web(&cluster, &["10.1.0.1"])?;
    let mut proxy = watching_proxy(&node)?;
    await_connected(&node, 1.0)?;
    apiserver.kill();
    let authority = apiserver.change_secrets("another-token")?;
    apiserver.start()?;
    web(&cluster, &["10.1.0.2"])?;
    await_connected(&node, 0.0)?;
    let errors = || node.metric("fairway_proxy_watch_errors_total{kind=\"Service\"}");
    let before = errors()?;
    until("it was tried and not believed", || Ok(errors()? > before))?;
    assert!(node.dial("tcp", TARGET, 3)?.backends.keys().eq(["pod-1"]));
    node.write("ca.crt", &authority)?;
    node.write("token", "another-token")?;
    wait::until_some("what it was not told before is in force", READ_EVERY + LIMIT, || {
        Ok(node.dial("tcp", TARGET, 3)?.backends.keys().eq(["pod-2"]).then_some(()))
    })?;
    await_connected(&node, 1.0)?;
    assert_eq!(proxy.ended()?, None);
    Ok(())
}

/// P11.
#[test]
fn forwarding_goes_on_without_the_apiserver_and_catches_up_with_it() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let mut apiserver = cluster.apiserver(&node)?;
    web(&cluster, &["10.1.0.1", "10.1.0.2"])?;
    let proxy = watching_proxy(&node)?;
    await_connected(&node, 1.0)?;
    let load = node.load(TARGET)?;
    apiserver.kill();
    await_connected(&node, 0.0)?;
    web(&cluster, &["10.1.0.3"])?;
    // However often it is tried, the log says it once for each kind.
    until("it was tried again and again", || {
        let errors = "fairway_proxy_watch_errors_total{kind=\"Service\"}";
        Ok(node.metric(errors)?.is_some_and(|errors| errors >= 4.0))
    })?;
    assert_eq!(lines(&proxy, "apiserver does not answer, forwarding goes on as it is")?, KINDS.len());
    let (errors, backends) = load.stop()?;
    assert_eq!(errors, [""; 0]);
    assert!(backends.keys().eq(["pod-1", "pod-2"]), "{backends:?}");
    apiserver.start()?;
    node.await_backends(TARGET, &["pod-3"])?;
    await_connected(&node, 1.0)?;
    assert_eq!(lines(&proxy, "apiserver answers again")?, KINDS.len());
    Ok(())
}

/// The front door's address fails over: the server behind every connection is gone without a word, and another one
/// has the address. Nothing but the proxy's own questions can tell it.
#[test]
fn a_server_that_vanishes_without_a_word_is_given_up_and_its_successor_found() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let first = cluster.apiserver(&node)?;
    web(&cluster, &["10.1.0.1"])?;
    let proxy = watching_proxy(&node)?;
    first.vanish(&node)?;
    web(&cluster, &["10.1.0.2"])?;
    await_connected(&node, 0.0)?;
    assert_eq!(lines(&proxy, "apiserver does not answer, forwarding goes on as it is")?, KINDS.len());
    node.await_backends(TARGET, &["pod-1"])?;
    let _second = cluster.apiserver(&node)?;
    // What a new master announces.
    node.namespace.ip(&["neighbour", "flush", "dev", "eth0"])?;
    node.await_backends(TARGET, &["pod-2"])?;
    await_connected(&node, 1.0)
}

/// P13: clients in the cluster find the apiserver by a Service that this proxy serves; the proxy itself by the address that it is
/// told, on a node where nothing is served yet as on one where that Service leads nowhere.
#[test]
fn the_apiserver_is_found_by_its_own_address_and_not_by_its_service() -> Result<()> {
    let node = Node::with_pods()?;
    let cluster = ControlPlane::new(&node, Release::Current)?;
    let _apiserver = cluster.apiserver(&node)?;
    let kubernetes = objects::service("kubernetes", "10.254.0.1").port("https", "TCP", 443);
    // Where nobody is.
    let slice = objects::slice("kubernetes", "kubernetes").port("https", "TCP", PORT).ready(&["10.1.0.99"]);
    cluster.put([kubernetes, slice].map(Object::json))?;
    web(&cluster, &["10.1.0.1"])?;
    let mut proxy = watching_proxy(&node)?;
    node.await_backends(TARGET, &["pod-1"])?;
    for (is_cold, pods, answers) in [(false, "10.1.0.2", "pod-2"), (true, "10.1.0.3", "pod-3")] {
        proxy.kill()?;
        if is_cold {
            assert!(node.clean_up()?.0.success());
        }
        web(&cluster, &[pods])?;
        proxy = watching_proxy(&node)?;
        node.await_backends(TARGET, &[answers])?;
    }
    Ok(())
}
