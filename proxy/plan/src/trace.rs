//! Where may this packet go? The plan read by a human, or by a test.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::{Backend, Forwarding, Frontend, Masquerade, Port, Protocol, Service, Weight, WhenEmpty};

/// The first packet of a flow, as its sender sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where the sender is.
    pub source: Source,
    /// The sender's address.
    pub sender: IpAddr,
    /// The address it is sent to.
    pub destination: IpAddr,
    /// The port it is sent to.
    pub port: Port,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Where a sender is, as seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// In a pod of this node.
    Pod,
    /// On the node itself, in its own network.
    Node,
    /// Elsewhere: its packets arrive at the node.
    Outside,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'plan> {
    /// No service of ours: it goes where the network takes it.
    Pass,
    /// A service that nobody serves, or what no service has at an address of theirs: the client is told so at once.
    Refuse,
    /// The client hears nothing: it is not to be served, or not here.
    Drop,
    /// It reaches one of these backends.
    Forward {
        /// Those it may reach.
        backends: &'plan BTreeMap<Backend, Weight>,
        /// Whether the backend sees an address of the node in place of the sender's.
        masqueraded: bool,
    },
}

/// Interprets the plan for one packet.
pub fn trace(forwarding: &Forwarding, packet: Packet) -> Verdict<'_> {
    let met = matching(|frontend| forwarding.get(&frontend), packet);
    let ground = || {
        let mut others = forwarding.range(Frontend::all_at(packet.destination));
        if others.any(|(_, service)| service.rules.exclusive) { Ground::Services } else { Ground::Others }
    };
    verdict(met.map(|(_, service)| service), ground, packet)
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It belongs to services alone ([`Rules::exclusive`](crate::Rules::exclusive)).
    Services,
    /// Cluster addresses come from there (`ServiceCIDR`), and no service has it.
    Unallocated,
    /// Nothing is known of it.
    Others,
}

/// What becomes of a packet that meets this service, or none; then it matters whose its destination is.
pub fn verdict(met: Option<&Service>, ground: impl FnOnce() -> Ground, packet: Packet) -> Verdict<'_> {
    match met.ok_or_else(ground) {
        Ok(service) => service.verdict(packet),
        Err(Ground::Services) => Verdict::Refuse,
        Err(Ground::Unallocated) => Verdict::Drop,
        Err(Ground::Others) => Verdict::Pass,
    }
}

/// The frontend that a packet meets, in a plan that is asked by `find`, and what stands behind it: from outside the one
/// for senders from there, if there is one.
pub fn matching<'plan>(
    find: impl Fn(Frontend) -> Option<&'plan Service>,
    packet: Packet,
) -> Option<(Frontend, &'plan Service)> {
    let everyone = Frontend::new(packet.destination, packet.port, packet.protocol);
    let outside = (packet.source == Source::Outside).then(|| everyone.for_outside());
    outside.into_iter().chain([everyone]).find_map(|frontend| Some((frontend, find(frontend)?)))
}

impl Service {
    /// What becomes of a packet that meets this service.
    fn verdict(&self, packet: Packet) -> Verdict<'_> {
        let Self { rules, backends } = self;
        if !rules.admits(packet.sender) {
            return Verdict::Drop;
        }
        match (backends.is_empty(), rules.when_empty) {
            (true, WhenEmpty::Refuse) => Verdict::Refuse,
            (true, WhenEmpty::Drop) => Verdict::Drop,
            (false, _) => {
                Verdict::Forward { backends, masqueraded: rules.masquerade.concerns(packet.source) }
            }
        }
    }
}

impl Masquerade {
    /// Whether it replaces the address of this sender.
    pub fn concerns(self, source: Source) -> bool {
        match self {
            Self::Never => false,
            Self::FromOutsidePods => source != Source::Pod,
            Self::Always => true,
        }
    }
}
