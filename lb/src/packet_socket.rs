//! Ethernet frames as they are.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send, socket,
};

/// The address of an ethernet interface.
pub(crate) type MacAddress = [u8; 6];

/// Sends ethernet frames on one interface, and receives none.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Needs `CAP_NET_RAW`.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // No protocol: nothing is delivered to it, so nothing can pile up in it.
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        bind(socket.as_raw_fd(), &link_address(index)?)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop).map_err(io::Error::from)
    }
}

fn link_address(index: u32) -> io::Result<LinkAddr> {
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let raw = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: 0,
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
        assert_eq!(link_address(7).unwrap().ifindex(), 7);
    }
}
