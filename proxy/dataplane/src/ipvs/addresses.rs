//! The addresses of frontends, on a dummy interface: packets to them are for this node, and so for IPVS.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, ParseableParametrized};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::libc;
use plan::Frontend;

use super::netlink::{Answer, Netlink, Request, Traffic};

/// The interface that kube-proxy keeps them on, too: one takes over from the other.
pub(super) const INTERFACE: &str = "kube-ipvs0";

/// Where the addresses of our services are, by which they are known as ours.
#[derive(Debug)]
pub(super) enum Addresses {
    /// On an interface of ours.
    Ours(Interface),
    /// Where somebody else puts them; only these services are ours.
    Elsewhere(BTreeSet<Frontend>),
}

impl Addresses {
    /// Whether a service that was found is ours, where its address is on our interface or our table knows it.
    pub(super) fn own(&self, frontend: Frontend, is_bound: bool, is_known: bool) -> bool {
        match self {
            Self::Ours(_) => is_bound || is_known,
            Self::Elsewhere(frontends) => frontends.contains(&frontend),
        }
    }

    /// The only services that can be ours; `None` where any can.
    pub(super) const fn only(&self) -> Option<&BTreeSet<Frontend>> {
        match self {
            Self::Ours(_) => None,
            Self::Elsewhere(frontends) => Some(frontends),
        }
    }

    /// See [`Interface::restore`].
    pub(super) fn restore(&mut self) -> io::Result<bool> {
        self.interface().map_or(Ok(false), Interface::restore)
    }

    /// See [`Interface::lost`].
    pub(super) fn lost(&mut self) -> io::Result<Option<BTreeSet<IpAddr>>> {
        self.interface().map_or_else(|| Ok(Some(BTreeSet::new())), Interface::lost)
    }

    /// See [`Interface::observe`].
    pub(super) fn observe(&mut self) -> io::Result<Found> {
        match self {
            Self::Ours(interface) => interface.observe(),
            Self::Elsewhere(frontends) => {
                let others = frontends.iter().map(|frontend| frontend.address()).collect();
                Ok(Found { ours: BTreeSet::new(), others })
            }
        }
    }

    /// Which of these are not to be on our interface: see [`Interface::local`].
    pub(super) fn local(&mut self, addresses: &[IpAddr]) -> io::Result<BTreeSet<IpAddr>> {
        self.interface()
            .map_or_else(|| Ok(addresses.iter().copied().collect()), |interface| interface.local(addresses))
    }

    /// See [`Interface::add`].
    pub(super) fn add(&mut self, addresses: &[IpAddr]) -> io::Result<Vec<Result<(), Errno>>> {
        self.interface().map_or_else(|| Ok(Vec::new()), |interface| interface.add(addresses))
    }

    /// See [`Interface::remove`].
    pub(super) fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<Vec<Result<(), Errno>>> {
        self.interface().map_or_else(|| Ok(Vec::new()), |interface| interface.remove(addresses))
    }

    /// What was said and heard about them.
    pub(super) fn traffic(&self) -> Traffic {
        match self {
            Self::Ours(interface) => interface.netlink.traffic(),
            Self::Elsewhere(_) => Traffic::default(),
        }
    }

    const fn interface(&mut self) -> Option<&mut Interface> {
        match self {
            Self::Ours(interface) => Some(interface),
            Self::Elsewhere(_) => None,
        }
    }
}

/// The interface, once there is one.
#[derive(Debug)]
pub(super) struct Interface {
    netlink: Netlink,
    /// Hears of addresses that are removed.
    monitor: Netlink,
    index: u32,
}

/// The node's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// On our interface.
    pub(super) ours: BTreeSet<IpAddr>,
    /// On all others.
    pub(super) others: BTreeSet<IpAddr>,
}

impl Interface {
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
        let on_ours = |payload: &Vec<u8>| read(payload).filter(|(found, _)| *found == index);
        Ok(heard.map(|payloads| payloads.iter().filter_map(on_ours).map(|(_, address)| address).collect()))
    }

    /// Those that are on it, and those that are on others. The kernel gives an IPv6 interface one of its own, which is
    /// none of them.
    pub(super) fn observe(&mut self) -> io::Result<Found> {
        let dump = request(libc::RTM_GETADDR, 0, &AddressMessage::default());
        let mut found = Found::default();
        for payload in self.netlink.dump(&dump)?? {
            match read(&payload) {
                Some((index, address)) if index == self.index => found.ours.insert(address),
                Some((_, address)) => found.others.insert(address),
                None => false,
            };
        }
        Ok(found)
    }

    /// Which of these the node has, on whatever interface. Its cost does not grow with the addresses that there are.
    pub(super) fn local(&mut self, addresses: &[IpAddr]) -> io::Result<BTreeSet<IpAddr>> {
        /// Of `struct rtmsg`.
        const TYPE: usize = 7;
        let requests: Vec<Request> = addresses.iter().map(|address| route_to(*address)).collect();
        let answers = self.netlink.exchange(&requests)?;
        let is_local = |answer: &Answer| {
            let route = answer.as_ref().ok().and_then(|parts| parts.first());
            route.and_then(|route| route.get(TYPE)) == Some(&libc::RTN_LOCAL)
        };
        let answered = addresses.iter().zip(&answers);
        Ok(answered.filter(|(_, answer)| is_local(answer)).map(|(address, _)| *address).collect())
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

fn route_to(address: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    let (family, length, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    (message.header.address_family, message.header.destination_prefix_length) = (family, length);
    message.attributes.push(RouteAttribute::Destination(destination));
    request(libc::RTM_GETROUTE, 0, &message)
}

/// An address and the interface that it is on.
fn read(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) =
        RouteNetlinkMessage::parse_with_param(payload, libc::RTM_NEWADDR).ok()?
    else {
        return None;
    };
    // Of a point-to-point link, `Address` is the other end's.
    let of_kind = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    let address = of_kind(true).or_else(|| of_kind(false))?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (!link_local).then_some((message.header.index, address))
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
        assert_eq!(read(&request.payload), Some((7, address)));
    }

    #[test]
    fn what_the_kernel_gave_itself_is_not_ours() {
        let own = message(7, "fe80::1".parse().unwrap());
        let ours = message(7, "fd00::1".parse().unwrap());
        assert_eq!(read(&request(libc::RTM_NEWADDR, 0, &own).payload), None);
        assert!(read(&request(libc::RTM_NEWADDR, 0, &ours).payload).is_some());
    }
}
