//! Packets as bytes.

use std::net::SocketAddrV4;

/// TCP and UDP, as the IP header has them.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Flags of TCP.
pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;
/// Flags and offset of fragments: more of them follow; 1,480 bytes come before.
pub(super) const FIRST_FRAGMENT: u16 = 0x2000;
pub(super) const LATER_FRAGMENT: u16 = 185;

/// A frame with an IPv4 packet. Its checksums are none: translation corrects them without looking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) source: SocketAddrV4,
    pub(super) destination: SocketAddrV4,
    pub(super) protocol: u8,
    /// Of TCP.
    pub(super) flags: u8,
    /// 0 for a whole packet.
    pub(super) fragment: u16,
}

impl Frame {
    /// A whole one.
    pub(super) const fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Self {
        Self { source, destination, protocol: TCP, flags, fragment: 0 }
    }

    /// The bytes, to the interface with this address.
    pub(super) fn bytes(&self, hardware_address: [u8; 6]) -> Vec<u8> {
        // Every router on the way, and every run on the same packet, takes one.
        const HOPS: u8 = 255;
        const LENGTH: u16 = 50;
        let mut bytes = Vec::from(hardware_address);
        bytes.extend([2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0]);
        bytes.extend(LENGTH.to_be_bytes());
        bytes.extend([0, 7]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([HOPS, self.protocol, 0, 0]);
        bytes.extend(self.source.ip().octets());
        bytes.extend(self.destination.ip().octets());
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        match self.protocol {
            TCP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, self.flags, 255, 255, 0, 0, 0, 0]),
            _ => bytes.extend([0, 30, 0, 0]),
        }
        bytes.resize(usize::from(LENGTH) + 14, 0x5a);
        bytes
    }
}
