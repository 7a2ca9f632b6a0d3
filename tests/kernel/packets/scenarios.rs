//! The scenario table by the programs themselves: what `plan::trace` says of a packet is what they say to the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use dataplane::{Dataplane, PacketSettings};
use plan::{Protocol, Scope, Source};
use tests::scenario::{Expected, NODE_ADDRESS, Sent, table};

use super::frame::{Frame, TCP, UDP};
use super::{DROP, PASS, Router, SEND};
use crate::node::apply;
use crate::planned::{planned, planner, slices};

/// More than any service of the table has endpoints, so that each is met.
const CLIENTS: u16 = 6;

#[test]
fn the_programs_say_what_the_table_says() {
    let pods = ["10.1.0.0/24", "fd00:1::/64"].map(|network| network.parse().unwrap()).to_vec();
    let mut router = Router::new("scenarios", PacketSettings { pods, ..PacketSettings::default() });
    router.node.namespace().route("default", "172.16.60.1").unwrap();
    let (mut planner, mut port, mut tried) = (planner(), 10_000, 0);
    for scenario in table() {
        let desired = planned(&mut planner, &scenario, slices(&scenario));
        let found = router.ebpf.observe().unwrap();
        apply(&mut router.ebpf, &plan::diff(&found, &desired, &Scope::everything()));
        // The node's own packets are translated at their sockets.
        for sent in scenario.packets.iter().filter(|sent| sent.source != Source::Node) {
            let ports = port..port + CLIENTS;
            port = ports.end;
            let outcomes = || ports.map(|port| outcome(&router, sent, port)).collect::<Result<Vec<_>, _>>();
            let outcomes = router.node.run(outcomes);
            let met = outcomes.unwrap_or_else(|found| panic!("{}: {sent:?}: {found}", scenario.name));
            if let Expected::Reaches { endpoints, .. } = &sent.expected {
                let met: BTreeSet<SocketAddr> = met.into_iter().flatten().collect();
                assert_eq!(met, endpoints.iter().copied().collect(), "{}: {sent:?}", scenario.name);
            }
            tried += 1;
        }
    }
    assert!(tried > 50, "only {tried} packets were tried");
}

/// Sends one packet as `sent` says, from this port. The endpoint that it is on its way to, if any, or what was not as
/// expected.
fn outcome(router: &Router, sent: &Sent, port: u16) -> Result<Option<SocketAddr>, String> {
    let Sent { sender, to, protocol, expected, .. } = sent;
    // The table's senders are of IPv4.
    let sender: IpAddr = if to.is_ipv4() { *sender } else { "fd00:1::9".parse().unwrap() };
    let from = SocketAddr::new(sender, port);
    let protocol = if *protocol == Protocol::Udp { UDP } else { TCP };
    let frame = Frame::new(protocol, &from.to_string(), &to.to_string()).bytes();
    let (verdict, left) = router.arrives(&frame);
    let (source, destination) = ends(&left);
    let as_expected = match expected {
        Expected::Pass => verdict == PASS && left == frame,
        Expected::Refused => verdict == SEND && destination.ip() == sender && source.ip() == to.ip(),
        Expected::Dropped => verdict == DROP && left == frame,
        Expected::Reaches { masqueraded, .. } => {
            // Who is on both ends is masqueraded whatever the plan says, and who goes up to the node itself is not.
            let by_node = ["172.16.60.241", NODE_ADDRESS, "fd00:1::254"].map(|node| node.parse().unwrap());
            let seen_by_node = by_node.contains(&source.ip());
            let fits = seen_by_node == (*masqueraded || destination.ip() == sender);
            (verdict == SEND && fits) || (verdict == PASS && left != frame)
        }
    };
    if !as_expected {
        return Err(format!("verdict {verdict}, {source} to {destination}"));
    }
    Ok(matches!(expected, Expected::Reaches { .. }).then_some(destination))
}

/// Source and destination of a packet without options.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = &frame[14..];
    let (addresses, ports) = if packet[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) };
    let (source, destination) = packet[addresses.clone()].split_at(addresses.len() / 2);
    let address = |octets: &[u8]| match <[u8; 4]>::try_from(octets) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
    };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ((address(source), port(ports)).into(), (address(destination), port(ports + 2)).into())
}
