//! The raw socket that adverts come and go through.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvfrom, recvmsg, sendmsg,
    setsockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use vrrp::{
    GROUP_IPV4, GROUP_IPV6, Header, LONGEST, PROTOCOL, Received, Rejected, Settings, TIME_TO_LIVE, decode,
    decode_message,
};

/// Sends adverts to the VRRP group or to peers on one interface, and hears both, without blocking.
#[derive(Debug)]
pub(crate) struct AdvertSocket {
    socket: Socket,
    buffer: Box<[u8]>,
    /// The control messages of IPv6.
    ancillary: Vec<u8>,
    origin: Origin,
}

/// What adverts are sent by: the interface and the address they come from. Without it the kernel could choose a virtual
/// address as source.
#[derive(Debug)]
enum Origin {
    Ipv4(in_pktinfo),
    Ipv6(in6_pktinfo),
}

/// A packet that has arrived.
#[derive(Debug)]
pub(crate) struct Arrival<'socket> {
    /// Its sender.
    pub(crate) from: IpAddr,
    content: Content<'socket>,
}

#[derive(Debug)]
enum Content<'socket> {
    /// Header and all.
    Ipv4(&'socket [u8]),
    /// What follows the header, and the header as far as the kernel has told it.
    Ipv6(Option<Header>, &'socket [u8]),
}

impl Arrival<'_> {
    /// What it says to the router of `settings`.
    pub(crate) fn read(&self, settings: &Settings) -> Result<Received, Rejected> {
        match self.content {
            Content::Ipv4(packet) => decode(settings, packet),
            Content::Ipv6(None, _) => Err(Rejected::Header),
            Content::Ipv6(Some(header), message) => decode_message(settings, header, message),
        }
    }
}

impl AdvertSocket {
    /// Internetwork control, as keepalived marks its adverts: they must not wait behind other traffic.
    const TYPE_OF_SERVICE: u32 = 0xc0;

    /// Joins the group on the interface, also where only peers are sent to: a router that was told of no peers shall be
    /// seen. Adverts will come from `local`, an address of it. Needs `CAP_NET_RAW`.
    pub(crate) fn open(interface: &str, index: u32, local: IpAddr) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let kind = Type::RAW.nonblocking().cloexec();
        let (socket, origin) = match local {
            IpAddr::V4(local) => {
                let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
                socket.bind_device(Some(interface.as_bytes()))?;
                prepare_ipv4(&socket, index)?;
                (socket, Origin::Ipv4(origin_ipv4(index, local)?))
            }
            IpAddr::V6(local) => {
                let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
                socket.bind_device(Some(interface.as_bytes()))?;
                prepare_ipv6(&socket, index)?;
                (socket, Origin::Ipv6(origin_ipv6(index, local)))
            }
        };
        // One byte more than an advert can have, so that a longer packet is seen to be too long.
        let buffer = vec![0; LONGEST + 1].into_boxed_slice();
        Ok(Self { socket, buffer, ancillary: nix::cmsg_space!(in6_pktinfo, c_int), origin })
    }

    /// Sends a message; the kernel puts the IP header in front of it.
    pub(crate) fn send(&self, message: &[u8], to: IpAddr) -> io::Result<()> {
        let (socket, message, flags) = (self.socket.as_raw_fd(), [IoSlice::new(message)], MsgFlags::empty());
        let sent = match (&self.origin, to) {
            (Origin::Ipv4(origin), IpAddr::V4(to)) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendmsg(socket, &message, &[ControlMessage::Ipv4PacketInfo(origin)], flags, Some(&to))
            }
            (Origin::Ipv6(origin), IpAddr::V6(to)) => {
                // Of a link-local address the kernel wants to know which link it is on.
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, origin.ipi6_ifindex));
                sendmsg(socket, &message, &[ControlMessage::Ipv6PacketInfo(origin)], flags, Some(&to))
            }
            (Origin::Ipv4(_), IpAddr::V6(_)) | (Origin::Ipv6(_), IpAddr::V4(_)) => Err(Errno::EAFNOSUPPORT),
        };
        sent.map(drop).map_err(io::Error::from)
    }

    /// The next waiting packet; `None` if none is waiting.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Arrival<'_>>> {
        let socket = self.socket.as_raw_fd();
        let received = loop {
            let received = match self.origin {
                Origin::Ipv4(_) => receive_ipv4(socket, &mut self.buffer),
                Origin::Ipv6(_) => receive_ipv6(socket, &mut self.buffer, &mut self.ancillary),
            };
            if !matches!(received, Err(Errno::EINTR)) {
                break received;
            }
        };
        match received {
            Ok((from, length, header)) => {
                let bytes = self.buffer.get(..length).unwrap_or_default();
                let content = match self.origin {
                    Origin::Ipv4(_) => Content::Ipv4(bytes),
                    Origin::Ipv6(_) => Content::Ipv6(header, bytes),
                };
                Ok(Some(Arrival { from, content }))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for AdvertSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn prepare_ipv4(socket: &Socket, index: u32) -> io::Result<()> {
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&GROUP_IPV4, &InterfaceIndexOrAddress::Index(index))?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_ttl_v4(u32::from(TIME_TO_LIVE))?;
    socket.set_ttl_v4(u32::from(TIME_TO_LIVE))?;
    socket.set_tos_v4(AdvertSocket::TYPE_OF_SERVICE)
}

/// A raw socket of IPv6 is given no header: what is to be checked of it comes beside the message.
fn prepare_ipv6(socket: &Socket, index: u32) -> io::Result<()> {
    socket.set_recv_hoplimit_v6(true)?;
    setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    socket.set_multicast_all_v6(false)?;
    socket.join_multicast_v6(&GROUP_IPV6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_multicast_hops_v6(u32::from(TIME_TO_LIVE))?;
    socket.set_unicast_hops_v6(u32::from(TIME_TO_LIVE))?;
    socket.set_tclass_v6(AdvertSocket::TYPE_OF_SERVICE)
}

fn origin_ipv4(index: u32, local: Ipv4Addr) -> io::Result<in_pktinfo> {
    let index = i32::try_from(index).map_err(|_negative| io::ErrorKind::InvalidInput)?;
    let local = in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
    Ok(in_pktinfo { ipi_ifindex: index, ipi_spec_dst: local, ipi_addr: in_addr { s_addr: 0 } })
}

const fn origin_ipv6(index: u32, local: Ipv6Addr) -> in6_pktinfo {
    in6_pktinfo { ipi6_addr: in6_addr { s6_addr: local.octets() }, ipi6_ifindex: index }
}

/// Sender, length, and what is known of an IPv6 header.
type Taken = (IpAddr, usize, Option<Header>);

fn receive_ipv4(socket: RawFd, buffer: &mut [u8]) -> nix::Result<Taken> {
    let (length, from) = recvfrom::<SockaddrIn>(socket, buffer)?;
    let from = from.map_or(Ipv4Addr::UNSPECIFIED, |address| address.ip());
    Ok((from.into(), length, None))
}

fn receive_ipv6(socket: RawFd, buffer: &mut [u8], ancillary: &mut [u8]) -> nix::Result<Taken> {
    let mut buffers = [IoSliceMut::new(buffer)];
    let taken = recvmsg::<SockaddrIn6>(socket, &mut buffers, Some(ancillary), MsgFlags::empty())?;
    let from = taken.address.map_or(Ipv6Addr::UNSPECIFIED, |address| address.ip());
    let (mut destination, mut hop_limit) = (None, None);
    for message in taken.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv6PacketInfo(it) => {
                destination = Some(Ipv6Addr::from(it.ipi6_addr.s6_addr));
            }
            ControlMessageOwned::Ipv6HopLimit(it) => hop_limit = u8::try_from(it).ok(),
            _ => {}
        }
    }
    let header = destination.zip(hop_limit).map(|(destination, time_to_live)| Header {
        source: from.into(),
        destination: destination.into(),
        time_to_live,
    });
    Ok((from.into(), taken.bytes, header))
}
