//! Addresses of an interface: put on, taken off, looked at.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::Netlink;

/// An IPv4 address found on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The address with the length of its network.
    pub(crate) network: Ipv4Net,
    /// Whether an earlier address is in the same network.
    pub(crate) secondary: bool,
}

/// Puts `network.addr()` on the interface, and tells whether it was missing. Success if it is there already.
pub(crate) fn add(netlink: &mut Netlink, index: u32, network: Ipv4Net) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewAddress(message(index, network.addr(), Some(network.prefix_len())));
    match netlink.request(message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// Takes `address` off the interface, whatever the length of its network. Success if it, or the interface, is not there.
pub(crate) fn remove(netlink: &mut Netlink, index: u32, address: Ipv4Addr) -> io::Result<()> {
    let gone = [Errno::EADDRNOTAVAIL, Errno::ENODEV].map(|errno| Some(errno as i32));
    match netlink.request(RouteNetlinkMessage::DelAddress(message(index, address, None)), 0) {
        Err(error) if gone.contains(&error.raw_os_error()) => Ok(()),
        answer => answer.map(drop),
    }
}

/// The IPv4 addresses of the interface, in the kernel's order.
pub(crate) fn observe(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Observed>> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(message))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => read(message, index),
            _ => None,
        })
        .collect())
}

/// Without a `length` it matches the address in a network of any length.
fn message(index: u32, address: Ipv4Addr, length: Option<u8>) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.into()));
    if let Some(length) = length {
        message.header.prefix_len = length;
        message.attributes.push(AddressAttribute::Address(address.into()));
    }
    message
}

fn read(message: &AddressMessage, index: u32) -> Option<Observed> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    let network = Ipv4Net::new(address, message.header.prefix_len).ok()?;
    let secondary = message.header.flags.contains(AddressHeaderFlags::Secondary);
    (message.header.index == index).then_some(Observed { network, secondary })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 250);

    fn bytes(message: &AddressMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn an_address_is_added_with_its_length_and_removed_without() {
        // struct ifaddrmsg { family, prefix length, flags, scope, index }, then IFA_LOCAL (2) and IFA_ADDRESS (1).
        let added = [2, 24, 0, 0, 7, 0, 0, 0, 8, 0, 2, 0, 172, 16, 60, 250, 8, 0, 1, 0, 172, 16, 60, 250];
        assert_eq!(bytes(&message(7, ADDRESS, Some(24))), added);
        let removed = [2, 0, 0, 0, 7, 0, 0, 0, 8, 0, 2, 0, 172, 16, 60, 250];
        assert_eq!(bytes(&message(7, ADDRESS, None)), removed);
    }

    #[test]
    fn only_addresses_of_the_interface_are_observed() {
        let found = Observed { network: Ipv4Net::new(ADDRESS, 24).unwrap(), secondary: false };
        assert_eq!(read(&message(7, ADDRESS, Some(24)), 7), Some(found));
        assert_eq!(read(&message(8, ADDRESS, Some(24)), 7), None);
        assert_eq!(read(&AddressMessage::default(), 0), None);
    }
}
