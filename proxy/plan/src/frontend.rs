//! Where clients knock: an address, a port and a protocol.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// A transport port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// `None` for 0, which names no port.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The port's number in host order.
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The transport protocols a Kubernetes Service may name (`Service.spec.ports[].protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol, IP protocol 6.
    Tcp,
    /// User Datagram Protocol, IP protocol 17.
    Udp,
    /// Stream Control Transmission Protocol, IP protocol 132.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// An address that clients of a service connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Never an IPv4-mapped IPv6 address: see [`Frontend::new`].
    address: IpAddr,
    port: Port,
    protocol: Protocol,
}

impl Frontend {
    /// An IPv4-mapped IPv6 address is taken for the IPv4 address it stands for, so that one frontend has one spelling.
    pub fn new(address: IpAddr, port: Port, protocol: Protocol) -> Self {
        Self { address: address.to_canonical(), port, protocol }
    }

    /// The address clients use.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The port clients use.
    pub const fn port(self) -> Port {
        self.port
    }

    /// The protocol clients speak.
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.protocol, std::net::SocketAddr::new(self.address, self.port.number()))
    }
}
