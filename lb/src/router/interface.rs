//! The interface that the virtual router lives on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use crate::netlink::Netlink;
use crate::packet_socket::MacAddress;

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

/// Tells when any link or address of this network namespace changes; not which, the observer looks for himself.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Socket,
}

impl Monitor {
    const LINKS: u32 = 1 << (libc_group::LINK - 1);
    const ADDRESSES: u32 = 1 << (libc_group::IPV4_IFADDR - 1) | 1 << (libc_group::IPV6_IFADDR - 1);

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
    pub(super) use nix::libc::{
        RTNLGRP_IPV4_IFADDR as IPV4_IFADDR, RTNLGRP_IPV6_IFADDR as IPV6_IFADDR, RTNLGRP_LINK as LINK,
    };
}
