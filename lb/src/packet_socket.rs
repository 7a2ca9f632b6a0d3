//! Ethernet frames as they are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, send, socket,
};
use socket2::{SockFilter, Socket};

/// The address of an ethernet interface.
pub(crate) type MacAddress = [u8; 6];

/// Sends ethernet frames on one interface, or receives some, without blocking.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// One that only sends. Needs `CAP_NET_RAW`.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        // No protocol: nothing is delivered to it, so nothing can pile up in it.
        Self::bound(index, 0, &[])
    }

    /// One that receives what others send by `protocol`, an `ETH_P_…` of `if_ether.h`, and `filter` lets pass. Needs
    /// `CAP_NET_RAW`.
    pub(crate) fn listen(index: u32, protocol: i32, filter: &[SockFilter]) -> io::Result<Self> {
        Self::bound(index, u16::try_from(protocol).map_err(io::Error::other)?, filter)
    }

    fn bound(index: u32, protocol: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = Socket::from(socket(AddressFamily::Packet, SockType::Raw, flags, None)?);
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        // Delivery begins here, behind the filter.
        bind(socket.as_raw_fd(), &link_address(index, protocol)?)?;
        Ok(Self { socket: socket.into() })
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop).map_err(io::Error::from)
    }

    /// Reads the next frame that waits, as much of it as fits; how long that is, `None` if none waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn link_address(index: u32, protocol: u16) -> io::Result<LinkAddr> {
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let raw = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&raw)).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "neither nix nor socket2 can make a sockaddr_ll")]
    // SAFETY: `raw` is a whole, initialised sockaddr_ll whose family says so, `length` is its size, and it is copied
    // before this function returns.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_names_the_interface() {
        assert_eq!(link_address(7, 0).unwrap().ifindex(), 7);
    }
}
