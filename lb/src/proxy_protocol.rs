//! The header by which a backend learns who its client is: the PROXY protocol, version 2, as `HAProxy`'s
//! `doc/proxy-protocol.txt` §2.2 has it. Pure.

use std::net::{IpAddr, SocketAddr};

/// What precedes a connection that is made on behalf of nobody, such as a health check: the receiver takes the addresses
/// of the connection itself.
pub(crate) const LOCAL: [u8; 16] = preamble(0x20, 0x00, 0);

/// What precedes the bytes of `client`, who connected to `frontend`.
pub(crate) fn header(client: SocketAddr, frontend: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(52);
    let ports = [client.port(), frontend.port()].map(u16::to_be_bytes);
    match (client.ip().to_canonical(), frontend.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(frontend)) => {
            header.extend(preamble(PROXY, 0x11, 12));
            header.extend([client, frontend].map(|address| address.octets()).as_flattened());
        }
        (client, frontend) => {
            header.extend(preamble(PROXY, 0x21, 36));
            header.extend([client, frontend].map(in_version_6).as_flattened());
        }
    }
    header.extend(ports.as_flattened());
    header
}

/// Version 2, the command to take the addresses that follow for those of the connection.
const PROXY: u8 = 0x21;

/// The signature, version and command, family and transport, and the length of what follows.
const fn preamble(command: u8, family: u8, length: u8) -> [u8; 16] {
    [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, command, family, 0, length]
}

fn in_version_6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    #[test]
    fn headers_are_as_the_specification_has_them() {
        let cases: [(&str, &str, &[u8]); 4] = [
            (
                "10.1.2.3:1000",
                "172.16.60.250:8443",
                b"\x21\x11\x00\x0c\x0a\x01\x02\x03\xac\x10\x3c\xfa\x03\xe8\x20\xfb",
            ),
            (
                "[2001:db8::1]:1000",
                "[2001:db8::2]:443",
                b"\x21\x21\x00\x24\
                  \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\
                  \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x03\xe8\x01\xbb",
            ),
            // A listener on [::] sees IPv4 so.
            (
                "[::ffff:10.1.2.3]:1000",
                "[::ffff:172.16.60.250]:8443",
                b"\x21\x11\x00\x0c\x0a\x01\x02\x03\xac\x10\x3c\xfa\x03\xe8\x20\xfb",
            ),
            (
                "10.1.2.3:1000",
                "[2001:db8::2]:443",
                b"\x21\x21\x00\x24\
                  \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x01\x02\x03\
                  \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x03\xe8\x01\xbb",
            ),
        ];
        for (client, frontend, expected) in cases {
            let header = header(client.parse().unwrap(), frontend.parse().unwrap());
            assert_eq!(header, [SIGNATURE, expected].concat(), "{client} {frontend}");
        }
        assert_eq!(LOCAL, *[SIGNATURE, b"\x20\x00\x00\x00"].concat());
    }
}
