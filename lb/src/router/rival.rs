//! Others on the link that claim a virtual address while this node is master: a duplicate owner.
//!
//! It is another router that was cut off and does not know, a host with the address configured by hand, a node whose
//! VRRP process is dead while its kernel answers on. Clients that believe it are lost until somebody tells them better.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::SockFilter;
use vrrp::{Family, VirtualAddresses};

use crate::packet_filter::{equal, leave, load, take};
use crate::packet_socket::{MacAddress, PacketSocket};

/// Hears who says where an address is: ARP, or neighbour advertisements over IPv6.
#[derive(Debug)]
pub(super) struct RivalSocket {
    socket: PacketSocket,
    buffer: [u8; LONGEST],
}

/// Ethernet, IPv6 and a neighbour advertisement with its option. What is longer has nothing of interest there.
const LONGEST: usize = 128;

impl RivalSocket {
    /// More of them in one turn tell nothing more.
    const FRAMES_PER_TURN: usize = 64;

    /// Needs `CAP_NET_RAW`.
    pub(super) fn open(index: u32, addresses: &VirtualAddresses) -> io::Result<Self> {
        let protocol = match addresses.family() {
            Family::Ipv4 => libc::ETH_P_ARP,
            Family::Ipv6 => libc::ETH_P_IPV6,
        };
        let socket = PacketSocket::listen(index, protocol, &filter(addresses))?;
        Ok(Self { socket, buffer: [0; LONGEST] })
    }

    /// What others than `ours` have claimed of `addresses` since the last call, and whether any frame was
    /// there.
    pub(super) fn receive(
        &mut self,
        ours: MacAddress,
        addresses: &VirtualAddresses,
    ) -> io::Result<(BTreeSet<Claim>, bool)> {
        let mut claims = BTreeSet::new();
        for read in 0..Self::FRAMES_PER_TURN {
            let Some(length) = self.socket.receive(&mut self.buffer)? else { return Ok((claims, read > 0)) };
            let claim = self.buffer.get(..length).and_then(claim);
            claims.extend(
                claim.filter(|claim| claim.mac.0 != ours && addresses.as_slice().contains(&claim.address)),
            );
        }
        Ok((claims, true))
    }
}

impl AsFd for RivalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// That somebody says to be where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    pub(super) mac: Hardware,
}

/// An ethernet address, as logs show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hardware(pub(super) MacAddress);

impl fmt::Display for Hardware {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0.map(|octet| format!("{octet:02x}"));
        formatter.write_str(&octets.join(":"))
    }
}

/// When a claim is to be answered by an announcement of our own: at once, and then at most once a second. Hosts are to
/// wait for longer (RFC 5227 §2.4), lest two of them go on for ever; of two routers one gives way.
#[derive(Debug, Default)]
pub(super) struct Defence {
    last: Option<Instant>,
}

impl Defence {
    const PAUSE: Duration = Duration::from_secs(1);

    /// Whether to answer now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= Self::PAUSE);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// What an ethernet frame claims: ARP with an address as its sender, asked for or not (RFC 826), or a neighbour
/// advertisement (RFC 4861 §4.4) that nobody has forwarded.
fn claim(frame: &[u8]) -> Option<Claim> {
    /// Ethernet, IPv4, and the lengths of their addresses.
    const ARP: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
    const HOP_LIMIT: u8 = 255;
    const ICMPV6: u8 = 58;
    const NEIGHBOUR_ADVERTISEMENT: [u8; 2] = [136, 0];
    /// Target link-layer address, of one unit of 8 bytes.
    const OPTION: [u8; 2] = [2, 1];
    let mac = |at: usize| Some(Hardware(*frame.get(at..)?.first_chunk()?));
    match *frame.get(12..14)?.first_chunk()? {
        [0x08, 0x06] if frame.get(14..20)? == ARP => {
            let address: [u8; 4] = *frame.get(28..)?.first_chunk()?;
            Some(Claim { address: address.into(), mac: mac(22)? })
        }
        [0x86, 0xdd] if frame.get(20..22)? == [ICMPV6, HOP_LIMIT] => {
            let target: [u8; 16] = *frame.get(62..)?.first_chunk()?;
            let place = if frame.get(78..80) == Some(&OPTION) { mac(80)? } else { mac(6)? };
            let advertises = frame.get(54..56)? == NEIGHBOUR_ADVERTISEMENT;
            advertises.then_some(Claim { address: Ipv6Addr::from(target).into(), mac: place })
        }
        _ => None,
    }
}

/// Lets the kernel drop what can be no claim, so that a busy link wakes nobody: ARP of other senders, and over IPv6 all
/// but neighbour advertisements.
fn filter(addresses: &VirtualAddresses) -> Vec<SockFilter> {
    match addresses.family() {
        Family::Ipv4 => {
            let senders = addresses.as_slice().iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(address.to_bits()),
                IpAddr::V6(_) => None,
            });
            let jumps =
                senders.zip((1..=addresses.count()).rev()).map(|(sender, left)| equal(sender, left, 0));
            [load(libc::BPF_W, 28)].into_iter().chain(jumps).chain([leave(), take()]).collect()
        }
        Family::Ipv6 => {
            let is_icmp = [load(libc::BPF_B, 20), equal(58, 0, 3)];
            let is_advertisement = [load(libc::BPF_B, 54), equal(136, 0, 1)];
            is_icmp.into_iter().chain(is_advertisement).chain([take(), leave()]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announcement;

    const MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x41];

    #[test]
    fn announcements_are_claims_and_nothing_cut_short_is() {
        for address in ["172.16.60.250", "fd00::fa"] {
            let address: IpAddr = address.parse().unwrap();
            for frame in announcement::frames(MAC, address) {
                assert_eq!(claim(&frame), Some(Claim { address, mac: Hardware(MAC) }));
                for length in 0..32 {
                    assert_eq!(claim(&frame[..length]), None, "{address} cut at {length}");
                }
            }
        }
    }

    #[test]
    fn a_forwarded_advertisement_and_another_message_are_no_claims() {
        let frame = announcement::frames(MAC, "fd00::fa".parse().unwrap()).remove(0);
        for (at, value) in [(20, 6), (21, 254), (54, 135), (55, 1), (13, 0)] {
            let mut frame = frame.clone();
            frame[at] = value;
            assert_eq!(claim(&frame), None, "{at}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_rival_is_answered_at_once_and_then_once_a_second() {
        let (mut defence, start) = (Defence::default(), Instant::now());
        let answers: Vec<u64> = (0..30)
            .map(|tenths| tenths * 100)
            .filter(|&milliseconds| defence.is_due(start + Duration::from_millis(milliseconds)))
            .collect();
        assert_eq!(answers, [0, 1000, 2000]);
    }

    #[test]
    fn hardware_is_written_as_everywhere() {
        assert_eq!(Hardware(MAC).to_string(), "02:00:00:00:00:41");
    }
}
