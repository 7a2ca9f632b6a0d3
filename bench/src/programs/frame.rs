//! Packets as bytes.

use std::net::SocketAddr;

/// TCP and UDP, as the IP header has them.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Flags of TCP.
pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;
/// Flags and offset of fragments: more of them follow; 1,480 bytes come before.
pub(super) const FIRST_FRAGMENT: u16 = 0x2000;
pub(super) const LATER_FRAGMENT: u16 = 185;

/// A frame with an IP packet. Its checksums are none: translation corrects them without looking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: u8,
    /// Of TCP.
    pub(super) flags: u8,
    /// 0 for a whole packet. Of IPv4.
    pub(super) fragment: u16,
}

impl Frame {
    /// A whole one.
    pub(super) const fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self { source, destination, protocol: TCP, flags, fragment: 0 }
    }

    /// The bytes, to the interface with this address.
    pub(super) fn bytes(&self, hardware_address: [u8; 6]) -> Vec<u8> {
        let payload = self.payload();
        let mut bytes = Vec::from(hardware_address);
        bytes.extend([2, 0, 0, 0, 0, 9]);
        bytes.extend(self.internet_header(u16::try_from(payload.len()).unwrap_or(u16::MAX)));
        bytes.extend(payload);
        bytes
    }

    /// Protocol of the frame and header of the packet.
    fn internet_header(&self, length: u16) -> Vec<u8> {
        // Every router on the way, and every run on the same packet, takes one.
        const HOPS: u8 = 255;
        let mut bytes = Vec::new();
        match (self.source, self.destination) {
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([self.protocol, HOPS]);
                bytes.extend(source.ip().octets());
                bytes.extend(destination.ip().octets());
            }
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                bytes.extend([8, 0, 0x45, 0]);
                bytes.extend((length + 20).to_be_bytes());
                bytes.extend([0, 7]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([HOPS, self.protocol, 0, 0]);
                bytes.extend(source.ip().octets());
                bytes.extend(destination.ip().octets());
            }
            // No packet is of both versions.
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => {}
        }
        bytes
    }

    /// Header of the transport and 10 bytes that it carries.
    fn payload(&self) -> Vec<u8> {
        const LENGTH: u8 = 30;
        let mut bytes = Vec::from(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        match self.protocol {
            TCP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, self.flags, 255, 255, 0, 0, 0, 0]),
            _ => bytes.extend([0, LENGTH, 0, 0]),
        }
        bytes.resize(usize::from(LENGTH), 0x5a);
        bytes
    }
}
