//! What tells a link which interface an address is on now: gratuitous ARP, unsolicited neighbour advertisements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet_socket::MacAddress;

/// The ethernet frames that announce that `address` is at `mac`.
pub(crate) fn frames(mac: MacAddress, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        // As a request, which is the form of RFC 5227 §3 and what keepalived sends, and as a reply, because there are
        // hosts and switches that learn from replies only. Receivers that take both find the same in both.
        IpAddr::V4(address) => {
            [Operation::Request, Operation::Reply].map(|it| gratuitous_arp(it, mac, address)).into()
        }
        IpAddr::V6(address) => vec![neighbour_advertisement(mac, address)],
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Request,
    Reply,
}

/// RFC 826. Sender and target address are the same: that is what makes it gratuitous.
fn gratuitous_arp(operation: Operation, mac: MacAddress, address: Ipv4Addr) -> Vec<u8> {
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
    fields.concat()
}

/// RFC 4861 §4.4, to all nodes of the link, from the address itself. Whoever knows the address at another place is to
/// forget that (override); nobody had asked for it.
fn neighbour_advertisement(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: MacAddress = [0x33, 0x33, 0, 0, 0, 1];
    const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
    /// Version 6, 32 bytes after it, and the hop limit that says that nobody has forwarded it.
    const HEADER: [u8; 8] = [0x60, 0, 0, 0, 0, 32, 58, 255];
    /// Type, code, and room for the checksum.
    const TYPE: [u8; 4] = [136, 0, 0, 0];
    /// Router and override, as RFC 9568 §6.4.2 has them.
    const FLAGS: [u8; 4] = [0xa0, 0, 0, 0];
    /// Target link-layer address, of one unit of 8 bytes.
    const OPTION: [u8; 2] = [2, 1];
    let (source, destination) = (address.octets(), ALL_NODES.octets());
    let mut message = [&TYPE[..], &FLAGS, &source, &OPTION, &mac].concat();
    let covered = [&source[..], &destination, &[0, 0, 0, 32, 0, 0, 0, 58], &message].concat();
    message[2..4].copy_from_slice(&(!sum(&covered)).to_be_bytes());
    [&ALL_NODES_MAC[..], &mac, &IPV6, &HEADER, &source, &destination, &message].concat()
}

/// The ones' complement sum (RFC 1071) of bytes, to which a zero is added where their number is odd.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks();
    let last = rest.first().map(|&byte| [byte, 0]);
    words.iter().chain(&last).fold(0, |sum, &word| {
        let (sum, carry) = u16::from_be_bytes(word).overflowing_add(sum);
        sum + u16::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x41];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 250);

    #[test]
    fn over_ipv4_it_is_a_broadcast_request_for_its_own_address_and_a_reply() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x41, 0x08, 0x06, // to all, from us, ARP
            0, 1, 0x08, 0x00, 6, 4, 0, 1,                                           // ethernet, IPv4, request
            0x02, 0, 0, 0, 0, 0x41, 172, 16, 60, 250,                               // sender
            0, 0, 0, 0, 0, 0, 172, 16, 60, 250,                                     // target
        ];
        let [request, reply] = &frames(MAC, ADDRESS.into())[..] else { panic!("two frames") };
        assert_eq!(request, &expected);
        assert_eq!(reply[..21], request[..21]);
        assert_eq!(reply[21], 2);
        assert_eq!(reply[22..32], request[22..32]);
        assert_eq!(reply[32..38], MAC);
        assert_eq!(reply[38..], ADDRESS.octets());
    }

    #[test]
    fn over_ipv6_it_is_what_keepalived_sends_as_a_router() {
        // By keepalived 2.2.7 on a host that does not forward: the router flag apart.
        #[rustfmt::skip]
        let keepalived = [
            0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0x0a, 0x86, 0xdd, // to all nodes, IPv6
            0x60, 0, 0, 0, 0, 0x20, 58, 255,                            // ICMPv6, hop limit
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa,       // source
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,          // destination
            136, 0, 0x58, 0xa0, 0x20, 0, 0, 0,                          // checksum, override
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa,       // target
            2, 1, 0x02, 0, 0, 0, 0, 0x0a,                               // where it is
        ];
        let mut expected = keepalived;
        expected[58] |= 0x80;
        // What the flag adds the checksum takes away, in ones' complement.
        expected[56..58].copy_from_slice(&(0x58a0_u16.wrapping_sub(0x8000).wrapping_sub(1)).to_be_bytes());
        let address = "fd00::fa".parse().unwrap();
        assert_eq!(frames([0x02, 0, 0, 0, 0, 0x0a], address), [expected]);
    }
}
