//! Ethernet frames, header by header, with checksums computed from nothing: what the programs correct is compared with
//! what it should have become.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// Protocol numbers of IANA.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Flags of TCP.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// The link addresses of the node's interface and of whoever sends to it.
pub(super) const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 2];

const ETHERNET: usize = 14;

/// A segment or a datagram in an Ethernet frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) link: [[u8; 6]; 2],
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) hops: u8,
    pub(super) protocol: u8,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) payload: Vec<u8>,
    /// IPv4's, in multiples of four bytes.
    pub(super) options: Vec<u8>,
    /// IPv6's: what each is, and all of it but its first byte.
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
    pub(super) checksum: Checksum,
    /// What follows the packet, as on links that want frames of a certain length.
    pub(super) trailer: Vec<u8>,
}

/// The checksum of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Right,
    /// One too many.
    Wrong,
    /// UDP's 0.
    Absent,
}

impl Frame {
    /// From a client to the node.
    pub(super) fn new(protocol: u8, from: &str, to: &str) -> Self {
        Self {
            link: [NODE, SENDER],
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            hops: 64,
            protocol,
            flags: SYN,
            sequence: 0x0102_0304,
            acknowledgement: 0,
            payload: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            checksum: Checksum::Right,
            trailer: Vec::new(),
        }
    }

    pub(super) fn tcp(from: &str, to: &str) -> Self {
        Self::new(TCP, from, to)
    }

    pub(super) fn udp(from: &str, to: &str) -> Self {
        Self { payload: b"who?".to_vec(), ..Self::new(UDP, from, to) }
    }

    pub(super) fn with(self, change: impl FnOnce(&mut Self)) -> Self {
        let mut frame = self;
        change(&mut frame);
        frame
    }

    /// What it is to become, one router further.
    pub(super) fn forwarded(&self, from: &str, to: &str) -> Self {
        let (from, to, hops) = (from.parse().unwrap(), to.parse().unwrap(), self.hops - 1);
        Self { from, to, hops, ..self.clone() }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.packet(&self.transport(), None)
    }

    /// The IP packet without its link, cut off after so many bytes of its transport header.
    pub(super) fn quoted(&self, transport: usize) -> Vec<u8> {
        let packet = self.bytes().split_off(ETHERNET);
        let header = packet.len() - self.transport().len() - self.trailer.len();
        packet[..header + transport].to_vec()
    }

    /// A fragment: these bytes of what follows the IP header.
    pub(super) fn fragment(&self, part: Range<usize>) -> Vec<u8> {
        let transport = self.transport();
        let fragment = Fragment { offset: part.start, more: part.end < transport.len() };
        self.packet(&transport[part], Some(fragment))
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let checksum_at = if self.protocol == TCP {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            bytes.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            bytes.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.payload);
        let sum = sum(&[&self.pseudo_header(self.protocol, bytes.len()), &bytes]);
        let checksum = match self.checksum {
            Checksum::Right => !fold(sum),
            Checksum::Wrong => fold(u64::from(!fold(sum)) + 1),
            Checksum::Absent => 0,
        };
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&octets(self.from.ip())[..], &octets(self.to.ip()), &length, &[0, 0, 0, protocol]].concat()
    }

    fn packet(&self, payload: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let header = if self.from.is_ipv4() {
            self.ipv4_header(payload.len(), fragment)
        } else {
            self.ipv6_header(payload.len(), fragment)
        };
        let kind: [u8; 2] = if self.from.is_ipv4() { [0x08, 0] } else { [0x86, 0xdd] };
        [&self.link.concat()[..], &kind, &header, payload, &self.trailer].concat()
    }

    fn ipv4_header(&self, payload: usize, fragment: Option<Fragment>) -> Vec<u8> {
        const DO_NOT_FRAGMENT: u16 = 0x4000;
        const MORE: u16 = 0x2000;
        let header = 20 + self.options.len();
        let length = u16::try_from(header + payload).unwrap().to_be_bytes();
        let field = fragment.map_or(DO_NOT_FRAGMENT, |fragment| {
            u16::try_from(fragment.offset / 8).unwrap() | if fragment.more { MORE } else { 0 }
        });
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0, length[0], length[1], 0x12, 0x34];
        bytes.extend(field.to_be_bytes());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(octets(self.from.ip()));
        bytes.extend(octets(self.to.ip()));
        bytes.extend(&self.options);
        let checksum = !fold(sum(&[&bytes]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn ipv6_header(&self, payload: usize, fragment: Option<Fragment>) -> Vec<u8> {
        const FRAGMENT: u8 = 44;
        let mut extensions = self.extensions.clone();
        if let Some(Fragment { offset, more }) = fragment {
            let field = (u16::try_from(offset).unwrap() | u16::from(more)).to_be_bytes();
            extensions.push((FRAGMENT, vec![0, field[0], field[1], 0, 0, 0x12, 0x34]));
        }
        let kinds = extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
        let kinds: Vec<u8> = kinds.collect();
        let rest: Vec<u8> = extensions
            .iter()
            .zip(&kinds[1..])
            .flat_map(|((_, rest), next)| [&[*next], &rest[..]].concat())
            .collect();
        let length = u16::try_from(rest.len() + payload).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], kinds[0], self.hops];
        bytes.extend(octets(self.from.ip()));
        bytes.extend(octets(self.to.ip()));
        bytes.extend(rest);
        bytes
    }
}

#[derive(Clone, Copy)]
struct Fragment {
    offset: usize,
    more: bool,
}

/// An ICMP error.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) link: [[u8; 6]; 2],
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) hops: u8,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// What follows the checksum, such as the MTU.
    pub(super) rest: u32,
    /// The packet in question.
    pub(super) quoted: Vec<u8>,
}

impl Problem {
    /// "Port unreachable", from `from`.
    pub(super) fn unreachable(from: &str, to: &str, quoted: Vec<u8>) -> Self {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let (kind, code) = if from.is_ipv4() { (3, 3) } else { (1, 4) };
        Self { link: [NODE, SENDER], from, to, hops: 64, kind, code, rest: 0, quoted }
    }

    pub(super) fn with(self, change: impl FnOnce(&mut Self)) -> Self {
        let mut problem = self;
        change(&mut problem);
        problem
    }

    /// The node's own answer to whom the frame came from: a header without an identification, and the link turned round.
    pub(super) fn answer(&self) -> Vec<u8> {
        let mut bytes = Self { link: [SENDER, NODE], ..self.clone() }.bytes();
        if self.from.is_ipv4() {
            bytes[ETHERNET + 4..ETHERNET + 8].fill(0);
            bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
            let checksum = !fold(sum(&[&bytes[ETHERNET..ETHERNET + 20]]));
            bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let protocol = if self.from.is_ipv4() { ICMP } else { ICMPV6 };
        let carrier = Frame {
            link: self.link,
            from: (self.from, 0).into(),
            to: (self.to, 0).into(),
            hops: self.hops,
            ..Frame::new(protocol, "0.0.0.0:0", "0.0.0.0:0")
        };
        let mut icmp = vec![self.kind, self.code, 0, 0];
        icmp.extend(self.rest.to_be_bytes());
        icmp.extend(&self.quoted);
        let pseudo =
            if self.from.is_ipv4() { Vec::new() } else { carrier.pseudo_header(protocol, icmp.len()) };
        let checksum = !fold(sum(&[&pseudo, &icmp]));
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        carrier.packet(&icmp, None)
    }
}

/// A frame with a VLAN tag before its type.
pub(super) fn tagged(frame: &[u8], protocol: u16, identifier: u16) -> Vec<u8> {
    let tag = [protocol.to_be_bytes(), identifier.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071, before it is folded. Each part but the last is of an even length.
fn sum(parts: &[&[u8]]) -> u64 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    words.map(|word| u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}
