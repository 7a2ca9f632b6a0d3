//! Where may this packet go? The plan read by a human, or by a test.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::{Backend, Forwarding, Frontend, Port, Protocol};

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The address it is sent to.
    pub destination: IpAddr,
    /// The port it is sent to.
    pub port: Port,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'plan> {
    /// No service of ours: it goes where the network takes it.
    Pass,
    /// A service without backends: the client is told so at once.
    Refuse,
    /// It reaches one of these backends.
    Forward(&'plan BTreeSet<Backend>),
}

/// Interprets the plan for one packet.
pub fn trace(forwarding: &Forwarding, packet: Packet) -> Verdict<'_> {
    match forwarding.get(&Frontend::new(packet.destination, packet.port, packet.protocol)) {
        None => Verdict::Pass,
        Some(service) if service.backends.is_empty() => Verdict::Refuse,
        Some(service) => Verdict::Forward(&service.backends),
    }
}
