//! The scenario table by packets: what `plan::trace` says of a packet is what becomes of it on a node.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use plan::{Protocol, Source};
use tests::Result;
use tests::scenario::{self, Expected, NODE, Scenario, Sent, table};
use tests::traffic::DialReport;

use super::node::{Node, REFUSED};

/// More than any service of the table has endpoints, so that each is met.
const DIALS: u32 = 6;

#[test]
fn packets_go_where_the_table_says() -> Result<()> {
    let mut node = Node::new()?;
    for address in servers() {
        node.serve_at(address)?;
    }
    for scenario in from_pods() {
        // A packet that is nobody's must fare as on a node without a proxy.
        let before = dial_all(&node, &scenario)?;
        node.write("scenario.yaml", &documents(&scenario))?;
        let directory = node.directory().display().to_string();
        let proxy = node.proxy(&["--manifests", &directory, "--hostname-override", NODE])?;
        let after = dial_all(&node, &scenario)?;
        for ((Sent { to, protocol, expected, .. }, before), after) in
            scenario.packets.iter().zip(&before).zip(&after)
        {
            let fits = match expected {
                Expected::Pass => (&after.backends, &after.errors) == (&before.backends, &before.errors),
                Expected::Refused => after.errors.get(REFUSED) == Some(&after.attempts),
                Expected::Dropped => after.failed == after.attempts && !after.errors.contains_key(REFUSED),
                Expected::Reaches { endpoints, .. } => {
                    after.failed == 0 && reached(after) == names(endpoints)
                }
            };
            assert!(fits, "{}: {protocol} to {to}: expected {expected:?}, found {after:?}", scenario.name);
        }
        drop(proxy);
        node.clean_up()?;
    }
    Ok(())
}

/// The table without packets that are not sent by pods of the node.
fn from_pods() -> Vec<Scenario> {
    let mut scenarios = table();
    for scenario in &mut scenarios {
        scenario.packets.retain(|sent| sent.source == Source::Pod);
    }
    scenarios.retain(|scenario| !scenario.packets.is_empty());
    scenarios
}

/// Every endpoint that a packet of the table is to reach.
fn servers() -> BTreeSet<SocketAddr> {
    let packets = from_pods().into_iter().flat_map(|scenario| scenario.packets);
    let endpoints = packets.filter_map(|sent| match sent.expected {
        Expected::Reaches { endpoints, .. } => Some(endpoints),
        Expected::Pass | Expected::Refused | Expected::Dropped => None,
    });
    endpoints.flatten().collect()
}

fn documents(scenario: &Scenario) -> String {
    let objects = scenario.services.iter().cloned().chain(scenario.slices()).chain([scenario::node()]);
    objects.map(|object| object.to_string()).collect::<Vec<_>>().join("\n---\n")
}

fn dial_all(node: &Node, scenario: &Scenario) -> Result<Vec<DialReport>> {
    let dial = |sent: &Sent| {
        let protocol = if sent.protocol == Protocol::Udp { "udp" } else { "tcp" };
        node.dial(protocol, &sent.to.to_string(), DIALS)
    };
    scenario.packets.iter().map(dial).collect()
}

fn reached(report: &DialReport) -> BTreeSet<String> {
    report.backends.keys().cloned().collect()
}

fn names(endpoints: &[SocketAddr]) -> BTreeSet<String> {
    endpoints.iter().map(SocketAddr::to_string).collect()
}
