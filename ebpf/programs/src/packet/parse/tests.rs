use super::*;

/// A frame that is a slice.
struct Bytes<'bytes>(&'bytes [u8]);

impl Frame for Bytes<'_> {
    fn load<H: AnyBitPattern>(&self, offset: u32) -> Option<H> {
        let offset = offset as usize;
        let bytes = self.0.get(offset..offset.checked_add(size_of::<H>())?)?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }
}

const ETHERNET: u32 = 14;

fn parsed(version: u8, bytes: &[u8]) -> Option<Packet> {
    let frame: Vec<u8> = [&[0; ETHERNET as usize], bytes].concat();
    let (mut headers, mut packet) = ([Internet::default(); 2], Packet::default());
    parse(&Bytes(&frame), ETHERNET, version, &mut headers, &mut packet).then_some(packet)
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let header = [0x45, 0, length[0], length[1], 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    [&header[..], &[192, 0, 2, 1, 10, 254, 0, 1], payload].concat()
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    header.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header.extend([0xfd, 0, 2, 0x54, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [header, payload.to_vec()].concat()
}

/// From port 40000 to port 80.
fn tcp(flags: u8) -> Vec<u8> {
    [&[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0][..], b"GET /"].concat()
}

fn udp() -> Vec<u8> {
    [&[0x9c, 0x40, 0, 53, 0, 12, 0, 0][..], b"who?"].concat()
}

fn icmp(kind: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, 3, 0, 0, 0, 0, 0, 0][..], quoted].concat()
}

/// As it came back with the error: from `source`, by its own account.
fn quoted(source: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut packet = ipv4(protocol, &udp()[..8]);
    packet[12..20].copy_from_slice(&[source[0], source[1], source[2], source[3], 10, 1, 0, 9]);
    packet[2..4].copy_from_slice(&1500_u16.to_be_bytes());
    packet
}

#[test]
fn segments_and_datagrams_of_both_families_are_read() {
    for (version, packet, protocol, port, transport) in [
        (4, ipv4(TCP, &tcp(SYN)), TCP, 80, 34),
        (4, ipv4(UDP, &udp()), UDP, 53, 34),
        (6, ipv6(TCP, &tcp(SYN)), TCP, 80, 54),
        (6, ipv6(UDP, &udp()), UDP, 53, 54),
    ] {
        let found = parsed(version, &packet).unwrap();
        assert_eq!(found.tuple.protocol, protocol);
        assert_eq!((found.tuple.source_port.number(), found.tuple.destination_port.number()), (40_000, port));
        assert_eq!((found.part, found.transport, found.hops), (Part::Whole, transport, 64));
        assert_eq!(found.is_syn(), protocol == TCP);
        assert_eq!(found.tuple.source.is_v4(), version == 4);
        assert_eq!(found.end, 14 + u32::try_from(packet.len()).unwrap());
    }
    let packet = parsed(4, &ipv4(TCP, &tcp(SYN | ACK))).unwrap();
    assert!(!packet.is_syn());
    assert_eq!(packet.tuple.destination.octets()[12..], [10, 254, 0, 1]);
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    let mut options = ipv4(UDP, &[&[1; 8], &udp()[..]].concat());
    options[0] = 0x47;
    let found = parsed(4, &options).unwrap();
    assert_eq!((found.transport, found.tuple.destination_port.number()), (42, 53));

    let hop_by_hop = [DESTINATION, 0, 0, 0, 0, 0, 0, 0];
    let destination = [[UDP, 1, 0, 0, 0, 0, 0, 0], [0; 8]].concat();
    let found = parsed(6, &ipv6(HOP_BY_HOP, &[&hop_by_hop, &destination[..], &udp()].concat())).unwrap();
    assert_eq!((found.transport, found.tuple.destination_port.number()), (78, 53));

    // Who sends a chain without an end is not served, whatever is at its end.
    let chain = [DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(6);
    let last = [UDP, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(parsed(6, &ipv6(DESTINATION, &[&chain, &last[..], &udp()].concat())), None);
    // Authentication and encryption are nobody's but the two ends'.
    assert_eq!(parsed(6, &ipv6(51, &[0; 64])), None);
}

#[test]
fn fragments_are_told_apart() {
    let fragment = |offset_and_flags: u16, payload: &[u8]| {
        let mut packet = ipv4(UDP, payload);
        packet[6..8].copy_from_slice(&offset_and_flags.to_be_bytes());
        packet
    };
    // The first one says the length of the whole.
    let mut whole = udp();
    whole[4..6].copy_from_slice(&8000_u16.to_be_bytes());
    let first = parsed(4, &fragment(0x2000, &whole)).unwrap();
    assert_eq!((first.part, first.tuple.destination_port.number()), (Part::First, 53));
    let later = parsed(4, &fragment(0x2001, &[0xff; 16])).unwrap();
    assert_eq!((later.part, later.tuple.destination_port.number()), (Part::Later, 0));
    assert_eq!(later.identification, first.identification);
    assert_eq!(parsed(4, &fragment(0x2000, &whole[..4])), None, "too short for its ports");
    assert_eq!(parsed(4, &fragment(0, &whole)), None, "no fragment, and longer than it is");

    let fragment = |offset_and_more: u16, payload: &[u8]| {
        let offset = offset_and_more.to_be_bytes();
        ipv6(FRAGMENT, &[&[UDP, 0, offset[0], offset[1], 1, 2, 3, 4], payload].concat())
    };
    let first = parsed(6, &fragment(1, &whole)).unwrap();
    let later = parsed(6, &fragment(8 << 3, &[0xff; 16])).unwrap();
    assert_eq!((first.part, first.transport, later.part), (Part::First, 62, Part::Later));
    assert_eq!(later.identification, first.identification);
    let atomic = parsed(6, &fragment(0, &udp())).unwrap();
    assert_eq!((atomic.part, atomic.tuple.destination_port.number()), (Part::Whole, 53));
}

#[test]
fn an_error_is_of_the_conversation_that_it_quotes() {
    let packet = parsed(4, &ipv4(ICMP, &icmp(3, &quoted([10, 254, 0, 1], UDP)))).unwrap();
    assert_eq!(packet.part, Part::Error);
    assert_eq!((packet.inner_network, packet.inner_transport), (42, 62));
    // As the answer would have been.
    assert_eq!(packet.tuple.source.octets()[12..], [10, 1, 0, 9]);
    assert_eq!(packet.tuple.destination.octets()[12..], [10, 254, 0, 1]);
    assert_eq!((packet.tuple.source_port.number(), packet.tuple.destination_port.number()), (53, 40_000));
    assert_eq!(packet.tuple.protocol, UDP);
    for (what, bytes) in [
        ("forged: not sent by whom it is for", icmp(3, &quoted([192, 0, 2, 66], UDP))),
        ("an echo request is no error", icmp(8, &quoted([10, 254, 0, 1], UDP))),
        ("about another error", icmp(3, &quoted([10, 254, 0, 1], ICMP))),
        ("about a fragment without ports", {
            let mut inner = quoted([10, 254, 0, 1], UDP);
            inner[7] = 1;
            icmp(3, &inner)
        }),
        ("the quotation is cut off", icmp(3, &quoted([10, 254, 0, 1], UDP)[..24])),
    ] {
        assert_eq!(parsed(4, &ipv4(ICMP, &bytes)), None, "{what}");
    }

    let mut inner = ipv6(TCP, &tcp(ACK));
    inner[8..24].copy_from_slice(&ipv6(UDP, &[])[24..40]);
    let packet = parsed(6, &ipv6(ICMPV6, &icmp(1, &inner))).unwrap();
    assert_eq!((packet.part, packet.inner_network, packet.inner_transport), (Part::Error, 62, 102));
    assert_eq!(parsed(6, &ipv6(ICMPV6, &icmp(129, &inner))), None, "an echo reply");
    assert_eq!(parsed(4, &ipv4(ICMPV6, &icmp(1, &inner))), None, "the other family's");
}

#[test]
fn what_is_cut_off_anywhere_is_nobodys() {
    let mut fragment = ipv6(FRAGMENT, &[&[UDP, 0, 0, 1, 1, 2, 3, 4], &udp()[..]].concat());
    fragment[52..54].copy_from_slice(&8000_u16.to_be_bytes());
    for (version, packet) in [
        (4, ipv4(TCP, &tcp(SYN))),
        (4, ipv4(UDP, &udp())),
        (6, ipv6(TCP, &tcp(SYN))),
        (6, fragment),
        (4, ipv4(ICMP, &icmp(3, &quoted([10, 254, 0, 1], UDP)))),
    ] {
        assert!(parsed(version, &packet).is_some());
        for length in 0..packet.len() {
            assert_eq!(parsed(version, &packet[..length]), None, "version {version}, {length} bytes");
        }
    }
}

#[test]
fn impossible_headers_are_nobodys() {
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = ipv4(TCP, &tcp(SYN));
        change(&mut packet);
        parsed(4, &packet)
    };
    for (what, found) in [
        ("version 6 in a frame of IPv4", with(|packet| packet[0] = 0x65)),
        ("a header of 16 bytes", with(|packet| packet[0] = 0x44)),
        ("a total length of 19", with(|packet| packet[2..4].copy_from_slice(&[0, 19]))),
        ("a total length of more than there is", with(|packet| packet[2..4].copy_from_slice(&[0xff, 0xff]))),
        ("a data offset of 4 words", with(|packet| packet[32] = 0x40)),
        ("a data offset beyond its end", with(|packet| packet[32] = 0xf0)),
        ("another protocol", with(|packet| packet[9] = 132)),
    ] {
        assert_eq!(found, None, "{what}");
    }
    let mut datagram = ipv4(UDP, &udp());
    for length in [7_u16, 13, 0, 0xffff] {
        datagram[24..26].copy_from_slice(&length.to_be_bytes());
        assert_eq!(parsed(4, &datagram), None, "a datagram of {length} bytes");
    }
    // Mapped addresses would be taken for IPv4.
    let mut mapped = ipv6(UDP, &udp());
    mapped[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 254, 0, 1]);
    assert_eq!(parsed(6, &mapped), None);
}
