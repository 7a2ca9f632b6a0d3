//! Where clients wait that knock while the address is on its way to another node.
//!
//! No connection survives the move of its address, and one that began just before it is lost. So a master that leaves
//! in good order shuts its doors: listeners do not see the first packet (SYN) of a connection any more. It waits in a
//! packet socket, and is passed on to the successor as soon as that announces itself; the successor answers the client
//! itself. So no client fails, whatever make of router the successor is.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use vrrp::{Family, VirtualAddresses};

use crate::announcement::sum;
use crate::packet_filter::{equal, leave, load, load_behind_ipv4, mask, take};
use crate::packet_socket::{MacAddress, PacketSocket};

/// Clients of a virtual router's addresses wait for as long as it lives.
#[derive(Debug)]
pub(super) struct Doorstep {
    socket: PacketSocket,
    /// Shut, and kept: where nobody listens, the kernel refuses clients.
    _doors: Arc<[TcpListener]>,
    ports: Vec<u16>,
    addresses: VirtualAddresses,
}

impl Doorstep {
    /// Bytes of the kernel's memory for those who wait: some thousands.
    const BUFFER: usize = 4 << 20;

    /// From now on clients of `addresses` wait who come to those of the `doors` that lead there. Needs `CAP_NET_RAW`, and
    /// `CAP_NET_ADMIN` for more than a few.
    pub(super) fn open(
        index: u32,
        addresses: &VirtualAddresses,
        doors: Arc<[TcpListener]>,
    ) -> io::Result<Self> {
        let protocol = match addresses.family() {
            Family::Ipv4 => libc::ETH_P_IP,
            Family::Ipv6 => libc::ETH_P_IPV6,
        };
        let socket = PacketSocket::listen(index, protocol, &first_packets(addresses.family()))?;
        if let Err(errno) = setsockopt(&socket, sockopt::RcvBufForce, &Self::BUFFER) {
            tracing::debug!(%errno, "not many clients can wait");
        }
        // Who comes before this is served, and passed on for nothing. The other way round it would be lost.
        let mut ports = Vec::new();
        for door in &*doors {
            let address = door.local_addr()?;
            let (ip, port) = (address.ip().to_canonical(), address.port());
            if ip.is_unspecified() || addresses.as_slice().contains(&ip) {
                SockRef::from(door).attach_filter(&all_but_first_packets())?;
                ports.push(port);
            }
        }
        Ok(Self { socket, _doors: doors, ports, addresses: addresses.clone() })
    }

    /// Passes those who wait on, from `ours` to where the addresses are now.
    pub(super) fn pass_on(&self, ours: MacAddress, successor: MacAddress) -> io::Result<()> {
        let mut buffer = [0; LONGEST];
        while let Some(length) = self.socket.receive(&mut buffer)? {
            let frame = buffer.get_mut(..length).unwrap_or_default();
            if let Some(knock) = Knock::read(frame).filter(|knock| self.expects(knock.to)) {
                let frame = readdress(frame, knock.segment, ours, successor);
                self.socket.send(frame)?;
            }
        }
        Ok(())
    }

    fn expects(&self, to: SocketAddr) -> bool {
        self.addresses.as_slice().contains(&to.ip()) && self.ports.contains(&to.port())
    }
}

impl AsFd for Doorstep {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first packet of a connection.
struct Knock {
    to: SocketAddr,
    /// Where the TCP segment is in the frame.
    segment: Range<usize>,
}

impl Knock {
    /// From an ethernet frame that [`first_packets`] has let pass.
    fn read(frame: &[u8]) -> Option<Self> {
        let header = frame.get(ETHERNET..)?;
        let short = |at: usize| Some(usize::from(u16::from_be_bytes(*header.get(at..)?.first_chunk()?)));
        let (to, begin, end) = if header.first()? >> 4 == 4 {
            let to: [u8; 4] = *header.get(16..)?.first_chunk()?;
            (IpAddr::from(to), usize::from(header.first()? & 0xf) * 4, short(2)?)
        } else {
            let to: [u8; 16] = *header.get(24..)?.first_chunk()?;
            (IpAddr::from(to), IPV6, IPV6 + short(4)?)
        };
        // What follows the end is padding.
        let segment = ETHERNET + begin..ETHERNET + end;
        frame.get(segment.clone()).filter(|segment| segment.len() >= SHORTEST_SEGMENT)?;
        let port = u16::try_from(short(begin + 2)?).ok()?;
        Some(Self { to: SocketAddr::new(to, port), segment })
    }
}

/// The frame from `ours` to `successor`, without its padding. Where the sender left the checksum to its hardware, and was
/// on this very machine, there is none yet.
fn readdress(frame: &mut [u8], segment: Range<usize>, ours: MacAddress, successor: MacAddress) -> &[u8] {
    frame[..6].copy_from_slice(&successor);
    frame[6..12].copy_from_slice(&ours);
    let checksum = segment.start + TCP_CHECKSUM;
    frame[checksum..checksum + 2].fill(0);
    let addresses = if frame[ETHERNET] >> 4 == 4 { 12..20 } else { 8..IPV6 };
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX).to_be_bytes();
    let covered = [&frame[ETHERNET..][addresses], &[0, TCP], &length, &frame[segment.clone()]].concat();
    frame[checksum..checksum + 2].copy_from_slice(&(!sum(&covered)).to_be_bytes());
    &frame[..segment.end]
}

/// What a packet socket is to see: SYN without ACK. In IPv6 nothing comes before the TCP header of such a packet.
fn first_packets(family: Family) -> Vec<SockFilter> {
    let (protocol, flags): (u32, Vec<SockFilter>) = match family {
        Family::Ipv4 => (23, load_behind_ipv4(libc::BPF_B, 14, 13).into()),
        Family::Ipv6 => (20, vec![load(libc::BPF_B, 14 + 40 + 13)]),
    };
    let to_the_end = 3 + u8::try_from(flags.len()).unwrap_or_default();
    let is_tcp = [load(libc::BPF_B, protocol), equal(TCP.into(), 0, to_the_end)];
    let is_first = [mask(SYN_AND_ACK), equal(SYN, 0, 1), take(), leave()];
    is_tcp.into_iter().chain(flags).chain(is_first).collect()
}

/// What a listener is to see, for which a packet begins with the TCP header.
fn all_but_first_packets() -> [SockFilter; 5] {
    [load(libc::BPF_B, 13), mask(SYN_AND_ACK), equal(SYN, 0, 1), leave(), take()]
}

/// More than the first packet of a connection has: it carries no data but that of TCP Fast Open.
const LONGEST: usize = 2048;
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const TCP: u8 = 6;
const SHORTEST_SEGMENT: usize = 20;
const TCP_CHECKSUM: usize = 16;
const SYN: u32 = 0x02;
const SYN_AND_ACK: u32 = 0x12;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: MacAddress = [0x02, 0, 0, 0, 0, 0x41];
    const SUCCESSOR: MacAddress = [0x02, 0, 0, 0, 0, 0x42];

    /// A SYN from port 40000 to port 8443, padded to 60 bytes at least, without a checksum.
    fn frame(from: IpAddr, to: IpAddr) -> Vec<u8> {
        let mut segment =
            vec![0x9c, 0x40, 0x20, 0xfb, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 7, 7, 0, 0];
        let mut frame = [[0xff; 6], [0xee; 6]].concat();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
                frame.extend([from.octets(), to.octets()].concat());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
                frame.extend([from.octets(), to.octets()].concat());
            }
            _ => panic!("both of one family"),
        }
        frame.append(&mut segment);
        frame.resize(frame.len().max(60), 0x55);
        frame
    }

    #[test]
    fn who_waits_is_passed_on_with_a_checksum_that_is_right() {
        for (from, to, checksum) in
            [("172.16.60.20", "172.16.60.250", [0x22, 0x81]), ("fd00:60::20", "fd00:60::fa", [0xf7, 0xd4])]
        {
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut before = frame(from, to);
            let knock = Knock::read(&before).unwrap();
            assert_eq!(knock.to, SocketAddr::new(to, 8443));
            assert_eq!(knock.segment.len(), 20, "without the padding");
            let mut expected = before[..knock.segment.end].to_vec();
            expected[..6].copy_from_slice(&SUCCESSOR);
            expected[6..12].copy_from_slice(&OURS);
            expected[knock.segment.start + 16..][..2].copy_from_slice(&checksum);
            let after = readdress(&mut before, knock.segment, OURS, SUCCESSOR);
            assert_eq!(after, expected, "{to}");
        }
    }

    #[test]
    fn what_is_cut_short_is_nobody() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let whole = frame(from.parse().unwrap(), to.parse().unwrap());
            let end = Knock::read(&whole).unwrap().segment.end;
            for length in 0..end {
                assert!(Knock::read(&whole[..length]).is_none(), "{to} cut at {length}");
            }
        }
        // A header that claims to be longer than the packet.
        let mut frame = frame([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        frame[ETHERNET] = 0x4f;
        assert!(Knock::read(&frame).is_none());
    }
}
