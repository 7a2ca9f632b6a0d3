//! The scenario table by packets through virtual services: what `plan::trace` says of a packet is what becomes of it.
//!
//! ```text
//!   pods 10.1.0.x ---- 10.1.0.254   node   172.16.60.241 ---- 172.16.60.x others
//! ```
//!
//! Everybody has a cable to the node of its own: answers pass it, as IPVS needs it. There is one deviation: what is
//! nobody's, at an address of a Service, is refused here, because the node has the address.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use dataplane::{Dataplane, Ipvs, IpvsSettings, Surroundings};
use plan::{Frontend, Port, Scope, Source};
use tests::scenario::{Expected, NODE_ADDRESS, Scenario, Sent, table};
use tests::{Namespace, Process, traffic};

use crate::ask::{Answer, PATIENCE, SILENCE, ask_for};
use crate::planned::{planned, planner, slices};
use crate::site::apply;

/// What the node is called by those outside.
const NODE_OUTSIDE: &str = "172.16.60.241";
const NODE_V6: &str = "fd00:1::254";

#[test]
fn packets_go_where_the_table_says() {
    let mut site = Site::new();
    let table = table();
    // What is nobody's must fare as on a node without services.
    let nobodys: Vec<io::Result<String>> = table
        .iter()
        .flat_map(|scenario| &scenario.packets)
        .filter(|sent| sent.expected == Expected::Pass)
        .map(|sent| site.ask(sent).map(|answer| answer.name))
        .collect();
    let mut nobodys = nobodys.into_iter();
    let (mut planner, mut wrong) = (planner(), Vec::new());
    for scenario in &table {
        let desired = planned(&mut planner, scenario, slices(scenario));
        site.program(&desired);
        for sent in &scenario.packets {
            let found = match &sent.expected {
                Expected::Pass => {
                    let without = nobodys.next().unwrap();
                    let at_a_service = desired.keys().any(|frontend| frontend.address() == sent.to.ip());
                    if at_a_service {
                        site.is_refused(sent)
                    } else {
                        site.passes(sent, without.as_deref().ok())
                    }
                }
                Expected::Refused => site.is_refused(sent),
                Expected::Dropped => site.is_dropped(sent),
                Expected::Reaches { endpoints, masqueraded } => site.reaches(sent, endpoints, *masqueraded),
            };
            wrong.extend(found.err().map(|found| complaint(scenario, sent, &found)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn complaint(scenario: &Scenario, sent: &Sent, found: &str) -> String {
    let Sent { source, sender, to, protocol, expected } = sent;
    let name = scenario.name;
    format!("{name}: {protocol} from {source:?} {sender} to {to}: expected {expected:?}, found {found}")
}

/// Everybody whom the table knows.
struct Site {
    ipvs: Ipvs,
    servers: Vec<Process>,
    others: BTreeMap<IpAddr, Namespace>,
    node: Namespace,
}

impl Site {
    fn new() -> Self {
        let node = Namespace::new("node").unwrap();
        node.forward().unwrap();
        let mut site = Self { ipvs: open(&node), servers: Vec::new(), others: BTreeMap::new(), node };
        let packets: Vec<Sent> = table().into_iter().flat_map(|scenario| scenario.packets).collect();
        for sent in &packets {
            site.place(sent.sender);
        }
        let reached: BTreeSet<SocketAddr> =
            packets.into_iter().flat_map(|sent| ends(sent.expected)).collect();
        for endpoint in reached {
            let place = site.place(endpoint.ip());
            let name = endpoint.to_string();
            site.servers.push(traffic::serve(&place, &name, &name).unwrap());
        }
        site
    }

    /// Who has this address; the node, or somebody with a cable to it.
    fn place(&mut self, address: IpAddr) -> Namespace {
        if address == NODE_ADDRESS.parse::<IpAddr>().unwrap() {
            return self.node.clone();
        }
        // Pods have an address of each family.
        let (label, addresses) = match address {
            IpAddr::V4(v4) if v4.octets()[0] == 10 => {
                (format!("pod{}", v4.octets()[3]), both(v4.octets()[3]))
            }
            IpAddr::V6(v6) => (format!("pod{}", v6.octets()[15]), both(v6.octets()[15])),
            IpAddr::V4(v4) => (format!("out{}", v4.octets()[3]), vec![(address, NODE_OUTSIDE)]),
        };
        if let Some(place) = self.others.get(&addresses[0].0) {
            return place.clone();
        }
        let place = Namespace::new(&label).unwrap();
        place.cable("eth0", &self.node, &label).unwrap();
        let (mut at_node, mut at_place) = (Vec::new(), Vec::new());
        for (theirs, ours) in &addresses {
            let (length, at_once) = if theirs.is_ipv4() { (32, "") } else { (128, " nodad") };
            at_node.push(format!("address add {ours}/{length} dev {label}{at_once}"));
            at_node.push(format!("route add {theirs}/{length} dev {label}"));
            at_place.push(format!("address add {theirs}/{length} dev eth0{at_once}"));
            at_place.push(format!("route add default via {ours} dev eth0 onlink"));
        }
        self.node.ip_lines(&at_node).unwrap();
        place.ip_lines(&at_place).unwrap();
        self.others.insert(addresses[0].0, place.clone());
        place
    }

    fn program(&mut self, desired: &plan::Forwarding) {
        let found = self.ipvs.observe().unwrap();
        apply(&mut self.ipvs, &plan::diff(&found, desired, &Scope::everything()));
    }

    fn ask(&self, sent: &Sent) -> io::Result<Answer> {
        let patience = match sent.expected {
            Expected::Dropped | Expected::Pass => SILENCE,
            Expected::Refused | Expected::Reaches { .. } => PATIENCE,
        };
        let place = if sent.source == Source::Node { &self.node } else { &self.others[&sent.sender] };
        let port = Port::new(sent.to.port()).unwrap();
        ask_for(place, Frontend::new(sent.to.ip(), port, sent.protocol), patience)
    }

    fn passes(&self, sent: &Sent, without: Option<&str>) -> Result<(), String> {
        let name = self.ask(sent).ok().map(|answer| answer.name);
        if name.as_deref() == without { Ok(()) } else { Err(format!("{name:?} instead of {without:?}")) }
    }

    fn is_refused(&self, sent: &Sent) -> Result<(), String> {
        match self.ask(sent) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn is_dropped(&self, sent: &Sent) -> Result<(), String> {
        match self.ask(sent) {
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn reaches(&self, sent: &Sent, endpoints: &[SocketAddr], masqueraded: bool) -> Result<(), String> {
        let mut met = BTreeSet::new();
        // Each in its turn, wherever the turn begins.
        for _ in endpoints {
            let answer = self.ask(sent).map_err(|error| error.to_string())?;
            let endpoint: SocketAddr = answer.name.parse().map_err(|error| format!("{answer:?}: {error}"))?;
            let by_node = [NODE_ADDRESS, NODE_OUTSIDE, NODE_V6].map(|node| node.parse().unwrap());
            let is_own = endpoint.ip() == sent.sender;
            if by_node.contains(&answer.seen) != (masqueraded || is_own || sent.source == Source::Node) {
                return Err(format!("{endpoint}, which saw {}", answer.seen));
            }
            met.insert(endpoint);
        }
        if met.iter().eq(&endpoints.iter().copied().collect::<BTreeSet<_>>()) {
            Ok(())
        } else {
            Err(format!("{met:?}"))
        }
    }
}

/// The addresses of pod `number`, and those that the node has beside them.
fn both(number: u8) -> Vec<(IpAddr, &'static str)> {
    let address = |text: String| text.parse().unwrap();
    vec![(address(format!("10.1.0.{number}")), NODE_ADDRESS), (address(format!("fd00:1::{number}")), NODE_V6)]
}

fn open(node: &Namespace) -> Ipvs {
    let pods = ["10.1.0.0/24", "fd00:1::/64"].map(|network| network.parse().unwrap()).to_vec();
    let surroundings = Surroundings { pods, ..Surroundings::default() };
    node.run(|| Ipvs::open(IpvsSettings::default(), surroundings).unwrap()).unwrap()
}

fn ends(expected: Expected) -> Vec<SocketAddr> {
    match expected {
        Expected::Reaches { endpoints, .. } => endpoints,
        Expected::Pass | Expected::Refused | Expected::Dropped => Vec::new(),
    }
}
