//! What Services mean, as data: given these objects, a packet from there to here goes there.
//!
//! The table is checked by `plan::trace` (tier 2), by the programs themselves and through virtual services (tier 3) and,
//! as far as clients in a pod of the node go, by packets of a whole node (tier 4): a scenario names everything a topology
//! needs. Numbers such as A3 are those of upstream's own cases: `proxier_test.go` of
//! kube-proxy's nftables mode and the Services suite of its end-to-end tests.

mod table;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use plan::{Backend, Forwarding, Packet, Port, Protocol, Source, Verdict, trace};
use serde_json::Value;

pub use self::table::table;
use crate::objects::{self, Endpoint, Object};

/// The node of every scenario. Its zone is `az-1`.
pub const NODE: &str = "m1";
/// The node's address; in IPv6 it is `fd00:1::254`.
pub const NODE_ADDRESS: &str = "10.1.0.254";

/// A cluster, and packets sent to its node.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// The Services.
    pub services: Vec<Value>,
    /// What stands behind them.
    pub behind: Vec<Behind>,
    /// What is sent, and where it goes.
    pub packets: Vec<Sent>,
}

/// The endpoints behind a Service.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// The Service's name.
    pub service: &'static str,
    /// Name, protocol and number of each port.
    pub ports: Vec<(&'static str, &'static str, u16)>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A packet, and what is expected to become of it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where its sender is.
    pub source: Source,
    /// Its sender's address.
    pub sender: IpAddr,
    /// Where it is sent.
    pub to: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it goes.
    pub expected: Expected,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Wherever the network takes it.
    Pass,
    /// Back: its sender is told at once that nobody is there.
    Refused,
    /// Nowhere: its sender hears nothing.
    Dropped,
    /// To one of these, and over time to each.
    Reaches {
        /// These.
        endpoints: Vec<SocketAddr>,
        /// Whether they see an address of the node in place of the sender's.
        masqueraded: bool,
    },
}

/// The Node object of every scenario.
pub fn node() -> Value {
    let mut node = objects::node(NODE, NODE_ADDRESS).label("topology.kubernetes.io/zone", "az-1").json();
    if let Some(addresses) = node["status"]["addresses"].as_array_mut() {
        addresses.push(serde_json::json!({"type": "InternalIP", "address": "fd00:1::254"}));
    }
    node
}

impl Scenario {
    /// Its endpoints as `EndpointSlice`s, one per entry of `behind`.
    pub fn slices(&self) -> Vec<Value> {
        let named = self.behind.iter().enumerate();
        named
            .map(|(number, behind)| behind.fill(objects::slice(behind.service, &format!("slice-{number}"))))
            .collect()
    }

    /// Its endpoints as Endpoints objects, as clusters before 1.21 have them: one per Service, with a subset per entry.
    /// `None` where these cannot say the same: they know no hints, nobody who leaves, and one family.
    pub fn endpoints(&self) -> Option<Vec<Value>> {
        let endpoints = || self.behind.iter().flat_map(|behind| &behind.endpoints);
        let of_v6 = endpoints().filter(|endpoint| endpoint.address.contains(':')).count();
        if !endpoints().all(Endpoint::fits_endpoints) || (of_v6 != 0 && of_v6 != endpoints().count()) {
            return None;
        }
        let services: BTreeSet<&str> = self.behind.iter().map(|behind| behind.service).collect();
        let of = |service: &str| {
            let mut object = objects::endpoints(service).json();
            let entries = self.behind.iter().filter(|behind| behind.service == service);
            let subset = |behind: &Behind| behind.fill(objects::endpoints(service))["subsets"][0].clone();
            object["subsets"] = entries.map(subset).collect();
            object
        };
        Some(services.into_iter().map(of).collect())
    }

    /// What `forwarding` gets wrong, as sentences; empty if nothing.
    pub fn disagreements(&self, forwarding: &Forwarding) -> Vec<String> {
        let disagreement = |sent: &Sent| {
            let Sent { source, sender, to, protocol, expected } = sent;
            let Some(port) = Port::new(to.port()) else { return Some(format!("{to} has no port")) };
            let (source, sender) = (*source, *sender);
            let packet = Packet { source, sender, destination: to.ip(), port, protocol: *protocol };
            let found = describe(trace(forwarding, packet));
            let found = (found != *expected).then_some(found)?;
            let name = self.name;
            Some(format!(
                "{name}: {protocol} from {source:?} {sender} to {to}: expected {expected:?}, found {found:?}"
            ))
        };
        self.packets.iter().filter_map(disagreement).collect()
    }
}

impl Behind {
    fn fill(&self, object: Object) -> Value {
        let ports = self.ports.iter();
        let object = ports.fold(object, |object, (name, protocol, port)| object.port(name, protocol, *port));
        self.endpoints.iter().fold(object, Object::endpoint).json()
    }
}

impl Expected {
    /// The same, with an address of the node in place of the sender's.
    #[must_use]
    pub fn masqueraded(self) -> Self {
        match self {
            Self::Reaches { endpoints, masqueraded: _ } => Self::Reaches { endpoints, masqueraded: true },
            other @ (Self::Pass | Self::Refused | Self::Dropped) => other,
        }
    }
}

fn describe(verdict: Verdict<'_>) -> Expected {
    match verdict {
        Verdict::Pass => Expected::Pass,
        Verdict::Refuse => Expected::Refused,
        Verdict::Drop => Expected::Dropped,
        Verdict::Forward { backends, masqueraded } => {
            let address = |backend: &Backend| SocketAddr::new(backend.address(), backend.port().number());
            Expected::Reaches { endpoints: backends.keys().map(address).collect(), masqueraded }
        }
    }
}

fn reaches(endpoints: &[(&str, u16)]) -> Expected {
    let endpoint =
        |(address, port): &(&str, u16)| address.parse().map(|address: IpAddr| (address, *port).into());
    let endpoints = endpoints.iter().filter_map(|pair| endpoint(pair).ok()).collect();
    Expected::Reaches { endpoints, masqueraded: false }
}

fn scenario(name: &'static str) -> Scenario {
    Scenario { name, services: Vec::new(), behind: Vec::new(), packets: Vec::new() }
}

impl Scenario {
    fn service(mut self, object: Object) -> Self {
        self.services.push(object.json());
        self
    }

    fn behind(
        self,
        service: &'static str,
        ports: &[(&'static str, &'static str, u16)],
        ready: &[&'static str],
    ) -> Self {
        self.behind_these(service, ports, ready.iter().map(|address| Endpoint::ready(address)))
    }

    fn behind_these(
        mut self,
        service: &'static str,
        ports: &[(&'static str, &'static str, u16)],
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Self {
        let endpoints = endpoints.into_iter().collect();
        self.behind.push(Behind { service, ports: ports.to_vec(), endpoints });
        self
    }

    /// A packet of a pod of the node.
    fn packet(self, to: &str, port: u16, protocol: Protocol, expected: Expected) -> Self {
        self.sent((Source::Pod, [10, 1, 0, 9]), (to, port), protocol, expected)
    }

    /// A TCP packet from somewhere else.
    fn from(self, source: Source, to: (&str, u16), expected: Expected) -> Self {
        let sender = match source {
            Source::Pod => [10, 1, 0, 9],
            Source::Node => [10, 1, 0, 254],
            Source::Outside => [172, 16, 60, 10],
        };
        self.sent((source, sender), to, Protocol::Tcp, expected)
    }

    fn sent(
        mut self,
        (source, sender): (Source, [u8; 4]),
        (to, port): (&str, u16),
        protocol: Protocol,
        expected: Expected,
    ) -> Self {
        if let Ok(address) = to.parse::<IpAddr>() {
            let to = (address, port).into();
            self.packets.push(Sent { source, sender: sender.into(), to, protocol, expected });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_says_something_and_no_two_the_same() {
        let table = table();
        let names: BTreeSet<&str> = table.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), table.len());
        for scenario in table {
            assert!(!scenario.packets.is_empty(), "{}", scenario.name);
            for Sent { expected, .. } in scenario.packets {
                let nobody = matches!(expected, Expected::Reaches { endpoints, .. } if endpoints.is_empty());
                assert!(!nobody, "{}", scenario.name);
            }
        }
    }
}
