//! The interface that the virtual router lives on.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use crate::netlink::Netlink;
use crate::packet_socket::MacAddress;
use crate::virtual_address::Observed;

/// An interface as the kernel has it at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its number.
    pub(super) index: u32,
    /// Its address, if it is an ethernet interface.
    pub(super) mac: Option<MacAddress>,
    /// Whether it is up and has a carrier.
    pub(super) up: bool,
}

impl Interface {
    /// The interface called `name`, if there is one.
    pub(super) fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Self>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = match netlink.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(Self::read(&link)),
            _ => None,
        }))
    }

    fn read(link: &LinkMessage) -> Self {
        let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(address) if is_ethernet => MacAddress::try_from(address.as_slice()).ok(),
            _ => None,
        });
        let up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        Self { index: link.header.index, mac, up }
    }
}

/// The address that adverts come from: the first of the interface that is neither virtual nor secondary, for this is
/// the one the kernel uses for what it sends itself.
pub(super) fn primary_address(observed: &[Observed], virtual_addresses: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let own = |address: &&Observed| !virtual_addresses.contains(&address.network.addr());
    let primary = observed.iter().filter(own).find(|address| !address.secondary);
    primary.or_else(|| observed.iter().find(own)).map(|address| address.network.addr())
}

/// Tells when any link or IPv4 address of this network namespace changes; not which, the observer looks for himself.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Socket,
}

impl Monitor {
    const LINKS: u32 = 1 << (libc_group::LINK - 1);
    const ADDRESSES: u32 = 1 << (libc_group::IPV4_IFADDR - 1);

    /// Needs no privilege.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, Self::LINKS | Self::ADDRESSES))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Forgets the changes so far. Look after this, not before.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Changes were lost: the observer is about to look anyway.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Numbers of `rtnetlink.h`.
mod libc_group {
    pub(super) use nix::libc::{RTNLGRP_IPV4_IFADDR as IPV4_IFADDR, RTNLGRP_LINK as LINK};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_come_from_the_first_address_that_is_neither_virtual_nor_secondary() {
        let observed = |text: &str, secondary| Observed { network: text.parse().unwrap(), secondary };
        let virtual_addresses = [Ipv4Addr::new(10, 0, 0, 250)];
        let cases: [(&[Observed], Option<&str>); 5] = [
            (&[], None),
            (&[observed("10.0.0.250/32", false)], None),
            (&[observed("10.0.0.250/32", false), observed("10.0.0.1/24", false)], Some("10.0.0.1")),
            (&[observed("10.0.0.2/24", true), observed("10.0.0.1/24", false)], Some("10.0.0.1")),
            (&[observed("10.0.0.250/24", false), observed("10.0.0.2/24", true)], Some("10.0.0.2")),
        ];
        for (addresses, expected) in cases {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(primary_address(addresses, &virtual_addresses), expected, "{addresses:?}");
        }
    }
}
