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

use std::net::{Ipv4Addr, SocketAddr};

use crate::{Namespace, Plug, Result, Switch};

/// Where clients find the API server.
pub const VIRTUAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 250);
/// And at which port.
pub const FRONT_DOOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIRTUAL_ADDRESS), 8443);
/// Where each apiserver listens.
pub const APISERVER_PORT: u16 = 6443;
/// The `kubernetes` Service.
pub const KUBERNETES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 254, 0, 1)), 443);
/// The Service of the pods.
pub const WEB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 254, 0, 80)), 80);
/// A Service nobody is behind.
pub const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 254, 0, 81)), 80);
/// Where the pods' servers listen.
pub const POD_PORT: u16 = 8080;

/// A master as planned.
#[derive(Clone, Copy, Debug)]
pub struct MasterPlan {
    /// Its name.
    pub name: &'static str,
    /// Its address.
    pub address: Ipv4Addr,
    /// How much it wants the virtual address.
    pub priority: u8,
}

/// The masters.
pub const MASTERS: [MasterPlan; 3] = [
    MasterPlan { name: "m1", address: Ipv4Addr::new(172, 16, 60, 241), priority: 250 },
    MasterPlan { name: "m2", address: Ipv4Addr::new(172, 16, 60, 242), priority: 240 },
    MasterPlan { name: "m3", address: Ipv4Addr::new(172, 16, 60, 243), priority: 230 },
];

/// The pods that serve.
pub const PODS: [(&str, Ipv4Addr); 3] = [
    ("p1", Ipv4Addr::new(10, 42, 1, 11)),
    ("p2", Ipv4Addr::new(10, 42, 1, 12)),
    ("p3", Ipv4Addr::new(10, 42, 1, 13)),
];

const POD_NETWORK: &str = "10.42.1.0/24";
const POD_GATEWAY: &str = "10.42.1.1";
const CLIENT_POD: (&str, Ipv4Addr) = ("cp", Ipv4Addr::new(10, 42, 1, 20));
const WORKER: &str = "172.16.60.10";
const CLIENT: &str = "172.16.60.20";

/// The namespaces and the cables between them.
#[derive(Debug)]
pub struct Network {
    switch: Switch,
    /// The masters' namespaces, and where they are plugged in, in the order of [`MASTERS`].
    pub masters: Vec<(Namespace, Plug)>,
    /// The worker's.
    pub worker: Namespace,
    /// The pods', in the order of [`PODS`].
    pub pods: Vec<Namespace>,
    /// That of a pod that asks.
    pub client_pod: Namespace,
    /// That of a client outside the cluster.
    pub client: Namespace,
}

impl Network {
    /// Builds it. Needs root.
    pub fn new() -> Result<Self> {
        let switch = Switch::new("lan")?;
        let host = |name: &str, address: &str| {
            let namespace = Namespace::new(name)?;
            let plug = switch.attach(&namespace, "eth0", &[&format!("{address}/24")])?;
            Ok((namespace, plug))
        };
        let mut masters = Vec::new();
        for master in MASTERS {
            let (namespace, plug) = host(master.name, &master.address.to_string())?;
            namespace.route(POD_NETWORK, WORKER)?;
            masters.push((namespace, plug));
        }
        let (worker, _) = host("worker", WORKER)?;
        worker.forward()?;
        let (client, _) = host("client", CLIENT)?;
        let pods = PODS.iter().map(|&pod| add_pod(&worker, pod)).collect::<Result<_>>()?;
        let client_pod = add_pod(&worker, CLIENT_POD)?;
        Ok(Self { switch, masters, worker, pods, client_pod, client })
    }

    /// Pulls the cable of a master.
    pub fn unplug(&self, master: usize) -> Result<()> {
        self.switch.unplug(&self.masters[master].1)
    }

    /// Puts it back.
    pub fn plug(&self, master: usize) -> Result<()> {
        self.switch.plug(&self.masters[master].1)
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
