//! fairway-proxy watches a real apiserver.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tests::kube_apiserver::{ControlPlane, KubeApiserver, PROXY_TOKEN, assets};
use tests::objects::{self, Object};
use tests::{Api, Error, Namespace, Process, Result, kubeconfig};

use crate::node::{Node, POD_PORT, PROTOCOLS, REFUSED, UNREACHABLE, each, until};

const ADDRESS: &str = "10.254.0.10";
const TARGET: &str = "10.254.0.10:80";
const PODS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const ETCD: SocketAddr = at(100, 2379);
/// What the `DaemonSet` is allowed.
const ROLE: &str = include_str!("../../proxy/deploy/rbac.yaml");
const USER: &str = "system:serviceaccount:kube-system:fairway-proxy";

const fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 1, 0, host)), port)
}

/// A node with pods, and hosts with an etcd and apiservers on its link.
struct Site {
    plane: ControlPlane,
    node: Node,
    hosts: [Namespace; 2],
}

fn site() -> Result<Site> {
    let node = Node::with_pods()?;
    let hosts = [Namespace::new("m1")?, Namespace::new("m2")?];
    for (host, address) in hosts.iter().zip(["10.1.0.100/24", "10.1.0.101/24"]) {
        node.switch.attach(host, "eth0", &[address])?;
    }
    let plane = ControlPlane::start(&assets()?, ETCD, &hosts[0])?;
    Ok(Site { plane, node, hosts })
}

impl Site {
    fn first(&self) -> Result<KubeApiserver> {
        self.plane.apiserver("m1", at(100, 6443), &[], &self.hosts[0])
    }

    fn second(&self) -> Result<KubeApiserver> {
        self.plane.apiserver("m2", at(101, 6443), &[], &self.hosts[1])
    }

    /// Starts the proxy; it need not be in step.
    fn proxy(&self, kubeconfig: &str) -> Result<Process> {
        let file = self.node.write("kubeconfig", kubeconfig)?.display().to_string();
        self.node.program(&["--kubeconfig", &file])?.spawn()
    }
}

fn both(object: Object, port: u16) -> Object {
    object.port("t", "TCP", port).port("u", "UDP", port)
}

fn web() -> Value {
    both(objects::service("web", ADDRESS), 80).json()
}

/// The endpoints of the service, as controllers of this release write them.
fn endpoints(api: &Api, pods: &[&str]) -> Result<Value> {
    let has_slices = api.request("GET", "/apis/discovery.k8s.io/v1", None)?.status == 200;
    let object = if has_slices { objects::slice("web", "web-1") } else { objects::endpoints("web") };
    let object = both(object, POD_PORT).ready(pods);
    // A subset must not be empty.
    Ok(if pods.is_empty() { object.with("", "subsets", Vec::<Value>::new()) } else { object }.json())
}

/// Grants the rights of the `DaemonSet`: the object of this kind.
fn grant(api: &Api, kind: &str, plural: &str) -> Result<()> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(ROLE).map_err(|error| Error::Object { reason: error.to_string() })?;
    let role = documents.into_iter().find(|document| document["kind"] == kind);
    let answer =
        api.request("POST", &format!("/apis/rbac.authorization.k8s.io/v1/{plural}"), role.as_ref())?;
    assert_eq!(answer.status, 201, "{kind}: {answer:?}");
    Ok(())
}

#[test]
#[cfg_attr(not(real_apiserver), ignore = "KUBEBUILDER_ASSETS is not set: there is no real apiserver")]
fn the_rights_of_the_daemon_set_are_enough_to_follow_everything() -> Result<()> {
    let site = site()?;
    let (server, node) = (site.first()?, &site.node);
    let admin = server.admin();
    let identity = site.plane.authority().client(USER, None)?;
    identity.write(node.directory(), "proxy")?;
    let file = |name: &str| node.directory().join(name).display().to_string();
    let user = format!("{{client-certificate: {}, client-key: {}}}", file("proxy.crt"), file("proxy.key"));
    let kubeconfig = kubeconfig("10.1.0.100:6443", &site.plane.authority_file(), "unused");
    let kubeconfig = kubeconfig.replace("{token: \"unused\"}", &user);
    let proxy = site.proxy(&kubeconfig)?;

    // Without rights it says so, stays, and needs no restart to get them.
    until("it says that it has no right to watch", || {
        let log = proxy.log()?;
        Ok(["Service", "EndpointSlice"].iter().all(|kind| {
            let complains = |line: &str| line.contains("WARN") && line.contains(kind) && line.contains("403");
            log.lines().any(complains) || *kind == "EndpointSlice" && log.contains("watching Endpoints")
        }))
    })?;
    admin.apply(&web())?;
    admin.apply(&endpoints(&admin, &PODS)?)?;
    grant(&admin, "ClusterRole", "clusterroles")?;
    grant(&admin, "ClusterRoleBinding", "clusterrolebindings")?;
    node.await_backends(TARGET, &["pod-1", "pod-2", "pod-3"])?;
    for protocol in PROTOCOLS {
        let report = node.dial(protocol, TARGET, 30)?;
        assert_eq!(report.backends, each(10), "{protocol}: {report:?}");
    }
    let frontends = node.metric("fairway_proxy_frontends")?;
    // `kubernetes`, which the apiserver itself writes, and ours by TCP and UDP.
    assert_eq!(frontends, Some(3.0));
    admin.apply(&endpoints(&admin, &PODS[1..])?)?;
    node.await_backends(TARGET, &["pod-2", "pod-3"])?;
    admin.apply(&endpoints(&admin, &[])?)?;
    node.await_error(TARGET, REFUSED)?;
    admin.delete(&web())?;
    node.await_error(TARGET, UNREACHABLE)?;

    // And to tell the author of a Service what is wrong with it.
    let odd = objects::service("odd", "10.254.0.11").port("t", "TCP", 80);
    let odd = odd.with("/metadata", "annotations", json!({ "fairway.dev/scheduler": "nonsense" }));
    let uid = admin.apply(&odd.json())?["metadata"]["uid"].clone();
    until("an event tells of it", || {
        let events = admin.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let tells = |event: &Value| event["reason"] == "PartlyServed" && event["regarding"]["uid"] == uid;
        Ok(events["items"].as_array().is_some_and(|events| events.iter().any(tells)))
    })
}

#[test]
#[cfg_attr(not(real_apiserver), ignore = "KUBEBUILDER_ASSETS is not set: there is no real apiserver")]
fn what_another_apiserver_was_told_while_ours_was_dead_is_caught_up() -> Result<()> {
    let site = site()?;
    let (mut first, second, node) = (site.first()?, site.second()?, &site.node);
    let admin = second.admin();
    admin.apply(&web())?;
    admin.apply(&endpoints(&admin, &PODS[..2])?)?;
    let config = kubeconfig("10.1.0.100:6443", &site.plane.authority_file(), PROXY_TOKEN);
    let proxy = site.proxy(&config)?;
    node.await_backends(TARGET, &["pod-1", "pod-2"])?;
    until("an event tells of the start", || {
        // In `default` or, up to 1.20, in `kube-system`.
        let events = admin.get("/apis/events.k8s.io/v1/events")?;
        let tells = |event: &Value| event["reason"] == "Starting" && event["regarding"]["kind"] == "Node";
        Ok(events["items"].as_array().is_some_and(|events| events.iter().any(tells)))
    })?;
    let load = node.load(TARGET)?;
    first.process().kill()?;
    node.await_metric("fairway_proxy_apiserver_connected{kind=\"Service\"}", 0.0)?;
    // Deleted unseen, and changed unseen. A new apiserver knows nothing of what was before it began.
    let other = both(objects::service("other", "10.254.0.11"), 80).json();
    admin.apply(&other)?;
    admin.delete(&other)?;
    admin.apply(&endpoints(&admin, &PODS[2..])?)?;
    load.await_more(50)?;
    let _again = site.first()?;
    node.await_backends(TARGET, &["pod-3"])?;
    node.await_metric("fairway_proxy_frontends", 3.0)?;
    let (errors, backends) = load.stop()?;
    assert_eq!(errors, [""; 0], "{}", proxy.log()?);
    assert_eq!(backends.len(), 3, "{backends:?}");
    Ok(())
}
