//! The raw socket that adverts come and go through.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, recvfrom, sendmsg};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use vrrp::{GROUP, LONGEST, PROTOCOL, TIME_TO_LIVE};

/// Sends adverts to the VRRP group or to peers on one interface, and hears both, without blocking.
#[derive(Debug)]
pub(crate) struct AdvertSocket {
    socket: Socket,
    buffer: Box<[u8]>,
    /// What adverts are sent by: the interface and the address they come from.
    origin: in_pktinfo,
}

impl AdvertSocket {
    /// Internetwork control, as keepalived marks its adverts: they must not wait behind other traffic.
    const TYPE_OF_SERVICE: u32 = 0xc0;

    /// Joins the group on the interface, also where only peers are sent to: a router that was told of no peers shall be
    /// seen. Adverts will come from `local`, an address of it. Needs `CAP_NET_RAW`.
    pub(crate) fn open(interface: &str, index: u32, local: Ipv4Addr) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_all_v4(false)?;
        socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index))?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_multicast_ttl_v4(u32::from(TIME_TO_LIVE))?;
        socket.set_ttl_v4(u32::from(TIME_TO_LIVE))?;
        socket.set_tos_v4(Self::TYPE_OF_SERVICE)?;
        // One byte more than an advert can have, so that a longer packet is seen to be too long.
        let buffer = vec![0; LONGEST + 1].into_boxed_slice();
        Ok(Self { socket, buffer, origin: origin(index, local)? })
    }

    /// Sends a message; the kernel puts the IPv4 header in front of it.
    pub(crate) fn send(&self, message: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let (to, message) = (SockaddrIn::from(SocketAddrV4::new(to, 0)), [IoSlice::new(message)]);
        let origin = [ControlMessage::Ipv4PacketInfo(&self.origin)];
        let flags = MsgFlags::empty();
        sendmsg(self.socket.as_raw_fd(), &message, &origin, flags, Some(&to))
            .map(drop)
            .map_err(io::Error::from)
    }

    /// The next waiting packet with its IPv4 header, and its sender; `None` if none is waiting.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(Ipv4Addr, &[u8])>> {
        loop {
            match recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, from)) => {
                    let from = from.map_or(Ipv4Addr::UNSPECIFIED, |address| address.ip());
                    return Ok(Some((from, &self.buffer[..length])));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Without it the kernel could choose a virtual address as source.
fn origin(index: u32, local: Ipv4Addr) -> io::Result<in_pktinfo> {
    let index = i32::try_from(index).map_err(|_negative| io::ErrorKind::InvalidInput)?;
    let local = in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
    Ok(in_pktinfo { ipi_ifindex: index, ipi_spec_dst: local, ipi_addr: in_addr { s_addr: 0 } })
}

impl AsFd for AdvertSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
