//! Where connections go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::Port;

/// One endpoint of a service: the address and port that answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    address: IpAddr,
    port: Port,
}

impl Backend {
    /// An IPv4-mapped IPv6 address is taken for the IPv4 address it stands for.
    pub fn new(address: IpAddr, port: Port) -> Self {
        Self { address: address.to_canonical(), port }
    }

    /// The endpoint's address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The endpoint's port.
    pub const fn port(self) -> Port {
        self.port
    }
}

/// A backend's share of new connections in relation to those of others, 1 to 65535. Endpoints of Kubernetes are all
/// alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// That of whoever is like all others.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// `None` for 0: who takes no connections is no backend.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The weight as a number.
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port.number()).fmt(formatter)
    }
}
