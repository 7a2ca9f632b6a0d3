//! Where clients knock: an address, a port and a protocol.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

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

/// Whose packets a frontend is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// Everyone, unless there is a frontend of their own for them.
    #[default]
    Everyone,
    /// Those whose packets arrive from outside of the node. Its pods and its own processes are treated otherwise:
    /// `externalTrafficPolicy: Local` binds the former and not the latter.
    Outside,
}

/// An address that clients of a service connect to.
///
/// A packet from outside meets the frontend for [`Audience::Outside`] and, where there is none, that for everyone. In a
/// sound plan who serves somebody from outside serves everyone: a frontend for outside with backends stands beside one
/// for everyone with backends that admits the same clients (`source_ranges`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Never an IPv4-mapped IPv6 address: see [`Frontend::new`].
    address: IpAddr,
    port: Port,
    protocol: Protocol,
    audience: Audience,
}

impl Frontend {
    /// For everyone. An IPv4-mapped IPv6 address is taken for the IPv4 address it stands for, so that one frontend has
    /// one spelling.
    pub fn new(address: IpAddr, port: Port, protocol: Protocol) -> Self {
        Self { address: address.to_canonical(), port, protocol, audience: Audience::Everyone }
    }

    /// The same for packets from outside.
    #[must_use]
    pub const fn for_outside(self) -> Self {
        Self { audience: Audience::Outside, ..self }
    }

    /// From the first frontend that there can be at an address to the last, in their order.
    pub fn all_at(address: IpAddr) -> RangeInclusive<Self> {
        let (address, audience) = (address.to_canonical(), Audience::Everyone);
        let first = Self { address, port: Port(NonZeroU16::MIN), protocol: Protocol::Tcp, audience };
        first..=Self { port: Port(NonZeroU16::MAX), protocol: Protocol::Sctp, ..first }.for_outside()
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

    /// Whose packets it is for.
    pub const fn audience(self) -> Audience {
        self.audience
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}",
            self.protocol,
            std::net::SocketAddr::new(self.address, self.port.number())
        )?;
        formatter.write_str(match self.audience {
            Audience::Everyone => "",
            Audience::Outside => " from outside",
        })
    }
}
