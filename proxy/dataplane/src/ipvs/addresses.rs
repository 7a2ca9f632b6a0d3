//! The addresses of frontends, on a dummy interface: packets to them are for this node, and so for IPVS.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, ParseableParametrized};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::libc;

use super::netlink::{Answer, Netlink, Request};

/// The interface that kube-proxy keeps them on, too: one takes over from the other.
pub(super) const INTERFACE: &str = "kube-ipvs0";

/// The interface, once there is one.
#[derive(Debug)]
pub(super) struct Addresses {
    netlink: Netlink,
    /// Hears of addresses that are removed.
    monitor: Netlink,
    index: u32,
}

impl Addresses {
    /// Finds the interface, or makes it. It stays down: its addresses are local all the same, and nobody is told of
    /// them. The kernel's refusal is `EOPNOTSUPP` where it has no dummy interfaces.
    pub(super) fn open() -> io::Result<Self> {
        let monitor = Netlink::route_monitor(&[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR])?;
        let mut netlink = Netlink::route()?;
        let index = create(&mut netlink)?;
        Ok(Self { netlink, monitor, index })
    }

    /// Makes the interface anew where somebody removed it, and says whether that was so.
    pub(super) fn restore(&mut self) -> io::Result<bool> {
        if nix::net::if_::if_nametoindex(INTERFACE) == Ok(self.index) {
            return Ok(false);
        }
        self.index = create(&mut self.netlink)?;
        Ok(true)
    }

    /// Which addresses were removed from it since this was last asked, by us or by others; `None` when too much happened
    /// to tell.
    pub(super) fn lost(&mut self) -> io::Result<Option<BTreeSet<IpAddr>>> {
        let index = self.index;
        let heard = self.monitor.heard(libc::RTM_DELADDR)?;
        Ok(heard.map(|payloads| payloads.iter().filter_map(|payload| read(payload, index)).collect()))
    }

    /// Those that are on it. The kernel gives an IPv6 interface one of its own, which is none of them.
    pub(super) fn observe(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        let dump = request(libc::RTM_GETADDR, 0, &AddressMessage::default());
        let found = self.netlink.dump(&dump)??;
        let address = |payload: &Vec<u8>| read(payload, self.index);
        Ok(found.iter().filter_map(address).collect())
    }

    /// Puts them on; those that are there already are success.
    pub(super) fn add(&mut self, addresses: &[IpAddr]) -> io::Result<Vec<Result<(), Errno>>> {
        let add = |address: &IpAddr| {
            request(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message(self.index, *address))
        };
        let requests: Vec<Request> = addresses.iter().map(add).collect();
        Ok(outcomes(self.netlink.exchange(&requests)?, Errno::EEXIST))
    }

    /// Takes them off; those that are not there are success.
    pub(super) fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<Vec<Result<(), Errno>>> {
        let remove = |address: &IpAddr| request(libc::RTM_DELADDR, 0, &message(self.index, *address));
        let requests: Vec<Request> = addresses.iter().map(remove).collect();
        Ok(outcomes(self.netlink.exchange(&requests)?, Errno::EADDRNOTAVAIL))
    }

    /// Removes the interface with all its addresses; success where there is none.
    pub(super) fn cleanup() -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(INTERFACE.to_owned()));
        match only(Netlink::route()?.exchange(&[request(libc::RTM_DELLINK, 0, &link)])?) {
            Ok(_) | Err(Errno::ENODEV) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

fn create(netlink: &mut Netlink) -> io::Result<u32> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(INTERFACE.to_owned()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]));
    let create = request(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link);
    match only(netlink.exchange(&[create])?) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    Ok(nix::net::if_::if_nametoindex(INTERFACE)?)
}

fn outcomes(answers: Vec<Answer>, expected: Errno) -> Vec<Result<(), Errno>> {
    let outcome = |answer: Answer| match answer {
        Ok(_) => Ok(()),
        Err(refusal) if refusal == expected => Ok(()),
        Err(refusal) => Err(refusal),
    };
    answers.into_iter().map(outcome).collect()
}

fn only(answers: Vec<Answer>) -> Answer {
    answers.into_iter().next().unwrap_or(Err(Errno::ENODATA))
}

fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request { kind, flags, payload }
}

fn message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    // Nobody else is asked whether he has it: it is this node's by decree.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn read(payload: &[u8], index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewAddress(message) =
        RouteNetlinkMessage::parse_with_param(payload, libc::RTM_NEWADDR).ok()?
    else {
        return None;
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (message.header.index == index && !link_local).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_only_one_of_its_network() {
        let address: IpAddr = [10, 254, 0, 1].into();
        let request = request(libc::RTM_NEWADDR, 0, &message(7, address));
        // struct ifaddrmsg { family, prefix length, flags, scope, index }, then IFA_LOCAL (2) and IFA_ADDRESS (1).
        let expected = [2, 32, 2, 0, 7, 0, 0, 0, 8, 0, 2, 0, 10, 254, 0, 1, 8, 0, 1, 0, 10, 254, 0, 1];
        assert_eq!(request.payload, expected);
        assert_eq!(read(&request.payload, 7), Some(address));
        assert_eq!(read(&request.payload, 8), None, "of another interface");
    }

    #[test]
    fn what_the_kernel_gave_itself_is_not_ours() {
        let own = message(7, "fe80::1".parse().unwrap());
        let ours = message(7, "fd00::1".parse().unwrap());
        assert_eq!(read(&request(libc::RTM_NEWADDR, 0, &own).payload, 7), None);
        assert!(read(&request(libc::RTM_NEWADDR, 0, &ours).payload, 7).is_some());
    }
}
