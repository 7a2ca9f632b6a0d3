//! Who is where.
//!
//! ```text
//!     m1 .241      m2 .242      m3 .243       client .20
//!   fairway-lb   fairway-lb   fairway-lb     outside the cluster
//!    apiserver    apiserver    apiserver         |
//!        |            |            |             |
//!   -----+------------+------------+-------------+------ 172.16.60.0/24, virtual IP .250
//!                              |
//!                         worker .10, fairway-proxy
//!                              |
//!          +-----------+-------+---+-------------+------ 10.42.1.0/24, one cable each
//!      pod p1 .11  pod p2 .12  pod p3 .13   client pod .20
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::topology::{Host, Link};
use crate::{Namespace, Result};

/// Where each apiserver listens.
pub(crate) const APISERVER_PORT: u16 = 6443;
/// The `kubernetes` Service.
pub(crate) const KUBERNETES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 254, 0, 1)), 443);
/// The Service of the pods.
pub(crate) const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 254, 0, 80)), 80);
/// A Service nobody is behind.
pub(crate) const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 254, 0, 81)), 80);
/// Where the pods' servers listen.
pub(crate) const POD_PORT: u16 = 8080;

/// The masters, in the order of their addresses.
pub(crate) const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
/// The pods that serve.
pub(crate) const PODS: [(&str, Ipv4Addr); 3] = [
    ("p1", Ipv4Addr::new(10, 42, 1, 11)),
    ("p2", Ipv4Addr::new(10, 42, 1, 12)),
    ("p3", Ipv4Addr::new(10, 42, 1, 13)),
];

const POD_NETWORK: &str = "10.42.1.0/24";
const POD_GATEWAY: &str = "10.42.1.1";
const CLIENT_POD: (&str, Ipv4Addr) = ("cp", Ipv4Addr::new(10, 42, 1, 20));
const WORKER: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 10);
const STORE: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 230);

/// The namespaces and the cables between them.
#[derive(Debug)]
pub(crate) struct Network {
    /// The masters and a client outside the cluster.
    pub link: Link,
    /// Where etcd runs if there is one: no master's death takes it along.
    pub store: Host,
    /// The worker.
    pub worker: Namespace,
    /// The pods', in the order of [`PODS`].
    pub pods: Vec<Namespace>,
    /// That of a pod that asks.
    pub client_pod: Namespace,
}

impl Network {
    /// Builds it. Needs root.
    pub(crate) fn new() -> Result<Self> {
        let link = Link::new(3)?;
        for master in link.masters() {
            master.namespace().route(POD_NETWORK, &WORKER.to_string())?;
        }
        let store = link.host("etcd", STORE)?;
        let worker = link.host("worker", WORKER)?.namespace().clone();
        worker.forward()?;
        let pods = PODS.iter().map(|&pod| add_pod(&worker, pod)).collect::<Result<_>>()?;
        let client_pod = add_pod(&worker, CLIENT_POD)?;
        Ok(Self { link, store, worker, pods, client_pod })
    }

    /// One of the masters.
    pub(crate) fn master(&self, position: usize) -> &Host {
        &self.link.masters()[position]
    }
}

/// A pod: a namespace with a cable to its node and nothing else in reach, as network plugins that route lay it.
fn add_pod(worker: &Namespace, (name, address): (&str, Ipv4Addr)) -> Result<Namespace> {
    let pod = Namespace::new(name)?;
    let (near, address) = (format!("pod-{name}"), address.to_string());
    worker.cable(&near, &pod, "eth0")?;
    worker.ip(&["address", "add", POD_GATEWAY, "peer", &address, "dev", &near])?;
    pod.ip(&["address", "add", &address, "peer", POD_GATEWAY, "dev", "eth0"])?;
    pod.route("default", POD_GATEWAY)?;
    Ok(pod)
}
