//! Gratuitous ARP: tells the link which interface an address is on now.

use std::io;
use std::net::Ipv4Addr;
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

    /// Announces that `address` is at `mac`.
    ///
    /// As a request, which is the form of RFC 5227 §3 and what keepalived sends, and as a reply, because there are
    /// hosts and switches that learn from replies only. Receivers that take both find the same in both.
    pub(crate) fn announce(&self, mac: MacAddress, address: Ipv4Addr) -> io::Result<()> {
        for operation in [Operation::Request, Operation::Reply] {
            send(self.socket.as_raw_fd(), &gratuitous_arp(operation, mac, address), MsgFlags::empty())?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Request,
    Reply,
}

/// The ethernet frame (RFC 826). Sender and target address are the same: that is what makes it gratuitous.
fn gratuitous_arp(operation: Operation, mac: MacAddress, address: Ipv4Addr) -> [u8; 42] {
    const BROADCAST: MacAddress = [0xff; 6];
    const ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
    /// Ethernet, IPv4, and the lengths of their addresses.
    const KINDS: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
    let (operation, target) = match operation {
        Operation::Request => ([0, 1], [0; 6]),
        // Linux takes a gratuitous reply only if the target is the sender in this field, too.
        Operation::Reply => ([0, 2], mac),
    };
    let address = address.octets();
    let fields: [&[u8]; 9] = [&BROADCAST, &mac, &ARP, &KINDS, &operation, &mac, &address, &target, &address];
    let mut frame = [0; 42];
    for (byte, &value) in frame.iter_mut().zip(fields.into_iter().flatten()) {
        *byte = value;
    }
    frame
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

    const MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x41];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 250);

    #[test]
    fn an_announcement_is_a_broadcast_request_for_its_own_address() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x41, 0x08, 0x06, // to all, from us, ARP
            0, 1, 0x08, 0x00, 6, 4, 0, 1,                                           // ethernet, IPv4, request
            0x02, 0, 0, 0, 0, 0x41, 172, 16, 60, 250,                               // sender
            0, 0, 0, 0, 0, 0, 172, 16, 60, 250,                                     // target
        ];
        assert_eq!(gratuitous_arp(Operation::Request, MAC, ADDRESS), expected);
    }

    #[test]
    fn as_a_reply_it_is_also_addressed_to_its_sender() {
        let [request, reply] =
            [Operation::Request, Operation::Reply].map(|it| gratuitous_arp(it, MAC, ADDRESS));
        assert_eq!(reply[..21], request[..21]);
        assert_eq!(reply[21], 2);
        assert_eq!(reply[22..32], request[22..32]);
        assert_eq!(reply[32..38], MAC);
        assert_eq!(reply[38..], ADDRESS.octets());
    }

    #[test]
    fn a_link_address_names_the_interface() {
        assert_eq!(link_address(7).unwrap().ifindex(), 7);
    }
}
