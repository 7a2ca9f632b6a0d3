//! Addresses of an interface: put on, taken off, looked at.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use vrrp::Family;

use crate::netlink::Netlink;

/// An address found on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The address with the length of its network.
    pub(crate) network: IpNet,
    /// Whether an earlier address is in the same network (IPv4), or it is a temporary one (IPv6).
    pub(crate) secondary: bool,
    /// Whether packets may be sent from it: over IPv6 only when nobody else on the link claims it (RFC 4862 §5.4).
    pub(crate) usable: bool,
}

/// Puts `network.addr()` on the interface, and tells whether it was missing. Success if it is there already.
pub(crate) fn add(netlink: &mut Netlink, index: u32, network: IpNet) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewAddress(addition(index, network));
    match netlink.request(message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if is(&error, Errno::EEXIST) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// Takes the addresses of `networks`, which are of one family, off the interface, even where the length of the network is
/// another. Success if they, or the interface, are not there. Each is tried, even after one has failed.
pub(crate) fn remove(netlink: &mut Netlink, index: u32, networks: &[IpNet]) -> io::Result<()> {
    let mut outcome = Ok(());
    let mut missing = Vec::new();
    for &network in networks {
        match netlink.request(RouteNetlinkMessage::DelAddress(removal(index, network)), 0) {
            Err(error) if is(&error, Errno::ENODEV) => return Ok(()),
            Err(error) if is(&error, Errno::EADDRNOTAVAIL) => missing.push(network.addr()),
            answer => outcome = answer.map(drop).and(outcome),
        }
    }
    // Over IPv6 the kernel looks for address and length.
    if missing.first().is_some_and(IpAddr::is_ipv6) {
        for Observed { network, .. } in observe(netlink, index, Family::Ipv6)? {
            if missing.contains(&network.addr()) {
                let removed = netlink.request(RouteNetlinkMessage::DelAddress(removal(index, network)), 0);
                outcome = removed.map(drop).and(outcome);
            }
        }
    }
    outcome
}

/// Whether packets to `address` come to this node. Over IPv6 the kernel sees to that some time after it has the address.
pub(crate) fn arrives(netlink: &mut Netlink, address: IpAddr) -> io::Result<bool> {
    let mut message = RouteMessage::default();
    let (family, length, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    (message.header.address_family, message.header.destination_prefix_length) = (family, length);
    message.attributes.push(RouteAttribute::Destination(destination));
    match netlink.request(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => Ok(answers.iter().any(|answer| {
            matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
        })),
        Err(error) if is(&error, Errno::ENETUNREACH) || is(&error, Errno::EHOSTUNREACH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The addresses of the interface that are of `family`, in the kernel's order.
pub(crate) fn observe(netlink: &mut Netlink, index: u32, family: Family) -> io::Result<Vec<Observed>> {
    let mut message = AddressMessage::default();
    message.header.family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(message))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => read(message, index),
            _ => None,
        })
        .collect())
}

/// Over IPv6 nobody is asked whether the address is taken, for the former master may still be answering for it, and the
/// node does not use it for connections of its own, which would not survive its move: keepalived does the latter for
/// networks of one address only.
fn addition(index: u32, network: IpNet) -> AddressMessage {
    let mut message = message(index, network);
    message.header.prefix_len = network.prefix_len();
    message.attributes.push(AddressAttribute::Address(network.addr()));
    if network.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

/// Over IPv4 it matches the address in a network of any length.
fn removal(index: u32, network: IpNet) -> AddressMessage {
    let mut message = message(index, network);
    if network.addr().is_ipv6() {
        message.header.prefix_len = network.prefix_len();
    }
    message
}

fn message(index: u32, network: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match network {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(network.addr()));
    message
}

/// With a peer the address is the local one; over IPv6 without a peer there is no local one.
fn read(message: &AddressMessage, index: u32) -> Option<Observed> {
    let local = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = || message.attributes.iter();
    let address = attributes().find_map(local).or_else(|| attributes().find_map(any))?;
    let network = IpNet::new(address, message.header.prefix_len).ok()?;
    let flags = message.header.flags;
    let secondary = flags.contains(AddressHeaderFlags::Secondary);
    let usable = !flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed);
    (message.header.index == index).then_some(Observed { network, secondary, usable })
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn network(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn bytes(message: &AddressMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn an_ipv4_address_is_added_with_its_length_and_removed_without() {
        // struct ifaddrmsg { family, prefix length, flags, scope, index }, then IFA_LOCAL (2) and IFA_ADDRESS (1).
        let added = [2, 24, 0, 0, 7, 0, 0, 0, 8, 0, 2, 0, 172, 16, 60, 250, 8, 0, 1, 0, 172, 16, 60, 250];
        assert_eq!(bytes(&addition(7, network("172.16.60.250/24"))), added);
        let removed = [2, 0, 0, 0, 7, 0, 0, 0, 8, 0, 2, 0, 172, 16, 60, 250];
        assert_eq!(bytes(&removal(7, network("172.16.60.250/24"))), removed);
    }

    #[test]
    fn an_ipv6_address_is_usable_at_once_and_never_preferred() {
        let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa];
        let local = [&[20, 0, 2, 0][..], &address].concat();
        // Flag IFA_F_NODAD (2), and IFA_CACHEINFO (6) with a preferred lifetime of 0 and a valid one without end.
        let header = [10, 64, 2, 0, 7, 0, 0, 0];
        let lifetimes = [20, 0, 6, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
        let added = [&header[..], &local, &[20, 0, 1, 0], &address, &lifetimes].concat();
        assert_eq!(bytes(&addition(7, network("fd00::fa/64"))), added);
        let removed = [&[10, 64, 0, 0, 7, 0, 0, 0][..], &local].concat();
        assert_eq!(bytes(&removal(7, network("fd00::fa/64"))), removed);
    }

    #[test]
    fn only_addresses_of_the_interface_are_observed() {
        let ipv4 = network("172.16.60.250/24");
        let found = Observed { network: ipv4, secondary: false, usable: true };
        assert_eq!(read(&addition(7, ipv4), 7), Some(found));
        assert_eq!(read(&addition(7, ipv4), 8), None);
        assert_eq!(read(&AddressMessage::default(), 0), None);
    }

    #[test]
    fn an_address_that_others_may_claim_is_not_usable_yet() {
        let mut message = addition(7, network("fe80::1/64"));
        // So the kernel shows it.
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Local(_)));
        let expected = Observed { network: network("fe80::1/64"), secondary: false, usable: true };
        assert_eq!(read(&message, 7), Some(expected));
        for flag in [AddressHeaderFlags::Tentative, AddressHeaderFlags::Dadfailed] {
            message.header.flags = AddressHeaderFlags::Permanent | flag;
            assert_eq!(read(&message, 7).map(|it| it.usable), Some(false), "{flag:?}");
        }
    }
}
