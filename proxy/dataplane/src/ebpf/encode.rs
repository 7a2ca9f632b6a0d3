//! The plan's words in the words of the maps, and back. Pure.

use std::net::{IpAddr, Ipv6Addr};

use ebpf_abi::{Address, Audience, ServiceId, ServiceKey};
use plan::{Backend, Frontend, Port, Protocol};

/// Under which key a frontend is found.
pub(super) fn service_key(frontend: Frontend) -> ServiceKey {
    ServiceKey {
        address: address(frontend.address()),
        port: port(frontend.port()),
        protocol: protocol_number(frontend.protocol()),
        audience: Audience::EVERYONE,
    }
}

/// The frontend of a key; `None` for a key that no frontend has.
pub(super) fn frontend(key: &ServiceKey) -> Option<Frontend> {
    let protocol = match key.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        SCTP => Protocol::Sctp,
        _ => return None,
    };
    Some(Frontend::new(ip_address(key.address), Port::new(key.port.number())?, protocol))
}

/// A backend of `service`.
pub(super) fn backend(backend: Backend, service: ServiceId) -> ebpf_abi::Backend {
    ebpf_abi::Backend {
        address: address(backend.address()),
        port: port(backend.port()),
        reserved: 0,
        service,
    }
}

/// The backend of an entry; `None` for one that no backend has.
pub(super) fn plan_backend(entry: &ebpf_abi::Backend) -> Option<Backend> {
    Some(Backend::new(ip_address(entry.address), Port::new(entry.port.number())?))
}

// Protocol numbers of IANA, as the kernel's sockets name them.
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

fn address(address: IpAddr) -> Address {
    Address::from_octets(match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

fn ip_address(address: Address) -> IpAddr {
    Ipv6Addr::from_octets(address.octets()).to_canonical()
}

const fn port(port: Port) -> ebpf_abi::Port {
    ebpf_abi::Port::from_number(port.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        for (address, number, protocol) in [
            ("10.254.0.1", 443, Protocol::Tcp),
            ("255.255.255.255", 65_535, Protocol::Udp),
            ("fd00::a", 53, Protocol::Udp),
            ("::", 1, Protocol::Sctp),
        ] {
            let written =
                Frontend::new(address.parse().expect("address"), Port::new(number).expect("port"), protocol);
            assert_eq!(frontend(&service_key(written)), Some(written));
            let endpoint = Backend::new(written.address(), written.port());
            assert_eq!(plan_backend(&backend(endpoint, ServiceId(7))), Some(endpoint));
        }
    }

    #[test]
    fn what_no_frontend_has_is_none() {
        let key = ServiceKey {
            address: address(IpAddr::from([10, 0, 0, 1])),
            port: ebpf_abi::Port::from_number(80),
            protocol: TCP,
            audience: Audience::EVERYONE,
        };
        assert!(frontend(&key).is_some());
        assert_eq!(frontend(&ServiceKey { protocol: 1, ..key }), None);
        assert_eq!(frontend(&ServiceKey { port: ebpf_abi::Port::from_number(0), ..key }), None);
    }
}
