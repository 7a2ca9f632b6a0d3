//! Where connections go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

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

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port.number()).fmt(formatter)
    }
}
