//! What Services mean, as data: given these objects, a packet to there goes here.
//!
//! The table is checked by `plan::trace` (tier 2) and by packets (tier 4): a scenario names everything a topology needs. Numbers such as A3 are those of upstream's own cases: `proxier_test.go` of kube-proxy's nftables mode and
//! the Services suite of its end-to-end tests.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use plan::{Backend, Forwarding, Packet, Port, Protocol, Source, Verdict, trace};
use serde_json::Value;

use crate::objects::{self, Object};

/// A cluster, and packets sent in it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// The Services.
    pub services: Vec<Value>,
    /// What stands behind them.
    pub behind: Vec<Behind>,
    /// What is sent, and where it goes.
    pub packets: Vec<(SocketAddr, Protocol, Expected)>,
}

/// The endpoints behind a Service.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// The Service's name.
    pub service: &'static str,
    /// Name, protocol and number of each port.
    pub ports: Vec<(&'static str, &'static str, u16)>,
    /// The addresses that are ready.
    pub ready: Vec<&'static str>,
    /// Those that are not.
    pub unready: Vec<&'static str>,
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
    Reaches(Vec<SocketAddr>),
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
    pub fn endpoints(&self) -> Vec<Value> {
        let services: BTreeSet<&str> = self.behind.iter().map(|behind| behind.service).collect();
        let of = |service: &str| {
            let mut object = objects::endpoints(service).json();
            let entries = self.behind.iter().filter(|behind| behind.service == service);
            let subset = |behind: &Behind| behind.fill(objects::endpoints(service))["subsets"][0].clone();
            object["subsets"] = entries.map(subset).collect();
            object
        };
        services.into_iter().map(of).collect()
    }

    /// What `forwarding` gets wrong, as sentences; empty if nothing.
    pub fn disagreements(&self, forwarding: &Forwarding) -> Vec<String> {
        let disagreement = |(to, protocol, expected): &(SocketAddr, Protocol, Expected)| {
            let Some(port) = Port::new(to.port()) else { return Some(format!("{to} has no port")) };
            let sender = to.ip();
            let packet =
                Packet { source: Source::Pod, sender, destination: to.ip(), port, protocol: *protocol };
            let found = describe(trace(forwarding, packet));
            let found = (found != *expected).then_some(found)?;
            Some(format!("{}: {protocol} to {to}: expected {expected:?}, found {found:?}", self.name))
        };
        self.packets.iter().filter_map(disagreement).collect()
    }
}

impl Behind {
    fn fill(&self, object: Object) -> Value {
        let ports = self.ports.iter();
        let object = ports.fold(object, |object, (name, protocol, port)| object.port(name, protocol, *port));
        object.ready(&self.ready).unready(&self.unready).json()
    }
}

fn describe(verdict: Verdict<'_>) -> Expected {
    match verdict {
        Verdict::Pass => Expected::Pass,
        Verdict::Refuse => Expected::Refused,
        Verdict::Drop => Expected::Dropped,
        Verdict::Forward { backends, .. } => {
            let address = |backend: &Backend| SocketAddr::new(backend.address(), backend.port().number());
            Expected::Reaches(backends.iter().map(address).collect())
        }
    }
}

/// All scenarios.
pub fn table() -> Vec<Scenario> {
    [addresses(), ports(), endpoints(), others()].concat()
}

const LEFT: &str = "10.1.0.1";
const RIGHT: &str = "10.1.0.2";
const LEFT_V6: &str = "fd00:1::1";
const HTTP: (&str, &str, u16) = ("http", "TCP", 8080);

fn addresses() -> Vec<Scenario> {
    let dual = objects::service("web", "10.254.0.10")
        .with("/spec", "clusterIPs", vec!["10.254.0.10", "fd00:254::10"])
        .with("/spec", "ipFamilies", vec!["IPv4", "IPv6"])
        .with("/spec", "ipFamilyPolicy", "RequireDualStack");
    vec![
        scenario("A1: a service with one endpoint reaches it")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("10.254.0.11", 80, Protocol::Tcp, Expected::Pass)
            .packet(LEFT, 8080, Protocol::Tcp, Expected::Pass),
        scenario("A1 over IPv6")
            .service(objects::service("web", "fd00:254::10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT_V6])
            .packet("fd00:254::10", 80, Protocol::Tcp, reaches(&[(LEFT_V6, 8080)])),
        scenario("a service of both families reaches the endpoints of each by its own address")
            .service(dual.port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .behind("web", &[HTTP], &[LEFT_V6])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("fd00:254::10", 80, Protocol::Tcp, reaches(&[(LEFT_V6, 8080)])),
    ]
}

fn ports() -> Vec<Scenario> {
    let dns = objects::service("dns", "10.254.0.2").port("dns-tcp", "TCP", 53).port("dns", "UDP", 53);
    vec![
        scenario("A3: the endpoint's port is the slice's, not the service's")
            .service(objects::service("web", "10.254.0.10").port("https", "TCP", 443))
            .behind("web", &[("https", "TCP", 8443)], &[LEFT])
            .packet("10.254.0.10", 443, Protocol::Tcp, reaches(&[(LEFT, 8443)]))
            .packet("10.254.0.10", 8443, Protocol::Tcp, Expected::Pass),
        scenario("A4: one number for two protocols is two ports")
            .service(dns)
            .behind("dns", &[("dns-tcp", "TCP", 5353), ("dns", "UDP", 53)], &[LEFT])
            .packet("10.254.0.2", 53, Protocol::Tcp, reaches(&[(LEFT, 5353)]))
            .packet("10.254.0.2", 53, Protocol::Udp, reaches(&[(LEFT, 53)])),
        scenario("A5: a TCP port is no UDP port")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Udp, Expected::Pass),
        scenario("each port finds the endpoint's port of its name")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80).port("admin", "TCP", 81))
            .behind("web", &[HTTP, ("admin", "TCP", 9090)], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("10.254.0.10", 81, Protocol::Tcp, reaches(&[(LEFT, 9090)])),
    ]
}

fn endpoints() -> Vec<Scenario> {
    let web = || objects::service("web", "10.254.0.10").port("http", "TCP", 80);
    vec![
        scenario("A2: a service with two endpoints reaches both")
            .service(web())
            .behind("web", &[HTTP], &[LEFT, RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080), (RIGHT, 8080)])),
        scenario("A12: a service without endpoints refuses").service(web()).packet(
            "10.254.0.10",
            80,
            Protocol::Tcp,
            Expected::Refused,
        ),
        scenario("endpoints that are not ready are not reached")
            .service(web())
            .behind_unready("web", &[HTTP], &[LEFT], &[RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)])),
        scenario("a service whose endpoints are all unready refuses")
            .service(web())
            .behind_unready("web", &[HTTP], &[], &[LEFT, RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Refused),
        scenario("the endpoints of all slices count, and each once")
            .service(web())
            .behind("web", &[HTTP], &[LEFT])
            .behind("web", &[HTTP], &[LEFT, RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080), (RIGHT, 8080)])),
        scenario("A14: an endpoint may be a node's own address")
            .service(web())
            .behind("web", &[("http", "TCP", 9000)], &["172.16.60.242"])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[("172.16.60.242", 9000)])),
        scenario("endpoints of no service serve nobody")
            .service(web())
            .behind("other", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Refused),
    ]
}

fn others() -> Vec<Scenario> {
    let web = |name| objects::service(name, "10.254.0.10").port("http", "TCP", 80);
    let external =
        web("web").with("/spec", "type", "ExternalName").with("/spec", "externalName", "example.org");
    vec![
        scenario("a headless service is not ours")
            .service(objects::service("web", "None").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet(LEFT, 80, Protocol::Tcp, Expected::Pass),
        scenario("a service of another proxy is not ours")
            .service(web("web").label("service.kubernetes.io/service-proxy-name", "other"))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Pass),
        scenario("an external name is not ours").service(external).behind("web", &[HTTP], &[LEFT]).packet(
            "10.254.0.10",
            80,
            Protocol::Tcp,
            Expected::Pass,
        ),
    ]
}

fn scenario(name: &'static str) -> Scenario {
    Scenario { name, services: Vec::new(), behind: Vec::new(), packets: Vec::new() }
}

fn reaches(endpoints: &[(&str, u16)]) -> Expected {
    let endpoint =
        |(address, port): &(&str, u16)| address.parse().map(|address: IpAddr| (address, *port).into());
    Expected::Reaches(endpoints.iter().filter_map(|pair| endpoint(pair).ok()).collect())
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
        self.behind_unready(service, ports, ready, &[])
    }

    fn behind_unready(
        mut self,
        service: &'static str,
        ports: &[(&'static str, &'static str, u16)],
        ready: &[&'static str],
        unready: &[&'static str],
    ) -> Self {
        let (ports, ready, unready) = (ports.to_vec(), ready.to_vec(), unready.to_vec());
        self.behind.push(Behind { service, ports, ready, unready });
        self
    }

    fn packet(mut self, to: &str, port: u16, protocol: Protocol, expected: Expected) -> Self {
        if let Ok(address) = to.parse::<IpAddr>() {
            self.packets.push(((address, port).into(), protocol, expected));
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
            for (_, _, expected) in scenario.packets {
                assert_ne!(expected, Expected::Reaches(Vec::new()), "{}", scenario.name);
            }
        }
    }
}
