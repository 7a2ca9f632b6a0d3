//! The plan's words in the words of the maps, and back. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ebpf_abi::{Address, BackendId, MaglevTable, MemberKey, NO_BACKEND, ServiceId, ServiceKey, SourceRange};
use ipnet::IpNet;
use plan::maglev::{self, Member};
use plan::{
    Affinity, AffinityGroup, Audience, Backend, Frontend, Masquerade, Port, Protocol, Rules, Scheduler,
    WhenEmpty,
};

/// Under which key a frontend is found.
pub(super) fn service_key(frontend: Frontend) -> ServiceKey {
    ServiceKey {
        address: address(frontend.address()),
        port: port(frontend.port()),
        protocol: protocol_number(frontend.protocol()),
        audience: match frontend.audience() {
            Audience::Everyone => ebpf_abi::Audience::EVERYONE,
            Audience::Outside => ebpf_abi::Audience::OUTSIDE,
        },
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
    let everyone = Frontend::new(ip_address(key.address), Port::new(key.port.number())?, protocol);
    match key.audience {
        ebpf_abi::Audience::EVERYONE => Some(everyone),
        ebpf_abi::Audience::OUTSIDE => Some(everyone.for_outside()),
        _ => None,
    }
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

/// Under which key `backend` is known as one of `service`.
pub(super) fn member_key(backend: Backend, service: ServiceId) -> MemberKey {
    MemberKey { service, address: address(backend.address()), port: port(backend.port()), reserved: 0 }
}

/// The rules of a service, but for the source ranges themselves.
pub(super) fn rules(rules: &Rules) -> ebpf_abi::Rules {
    let flags = [
        (ebpf_abi::Rules::AFFINITY, rules.affinity.is_some()),
        (ebpf_abi::Rules::SOURCE_RANGES, rules.source_ranges.is_some()),
        (ebpf_abi::Rules::DROP_WHEN_EMPTY, rules.when_empty == WhenEmpty::Drop),
        (ebpf_abi::Rules::EXCLUSIVE, rules.exclusive),
    ];
    ebpf_abi::Rules {
        affinity_group: rules.affinity.map_or(0, |affinity| affinity.group.0),
        affinity_timeout: rules.affinity.map_or(0, |affinity| seconds(affinity.timeout)),
        scheduler: match rules.scheduler {
            // Those that are not supported do not get here.
            Scheduler::RoundRobin
            | Scheduler::WeightedRoundRobin
            | Scheduler::WeightedLeastConnections
            | Scheduler::SourceHash
            | Scheduler::DestinationHash
            | Scheduler::ShortestExpectedDelay
            | Scheduler::NeverQueue => ebpf_abi::Scheduler::ROUND_ROBIN,
            Scheduler::Random => ebpf_abi::Scheduler::RANDOM,
            Scheduler::LeastConnections => ebpf_abi::Scheduler::LEAST_CONNECTIONS,
            Scheduler::Maglev => ebpf_abi::Scheduler::MAGLEV,
        },
        masquerade: match rules.masquerade {
            Masquerade::Never => ebpf_abi::Masquerade::NEVER,
            Masquerade::FromOutsidePods => ebpf_abi::Masquerade::FROM_OUTSIDE_PODS,
            Masquerade::Always => ebpf_abi::Masquerade::ALWAYS,
        },
        flags: flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum(),
        reserved: 0,
    }
}

/// The rules of an entry whose clients are known to be of `networks`; `None` for what no service has.
pub(super) fn plan_rules(entry: ebpf_abi::Rules, networks: BTreeSet<IpNet>) -> Option<Rules> {
    let affinity = Affinity {
        group: AffinityGroup(entry.affinity_group),
        timeout: Duration::from_secs(entry.affinity_timeout.into()),
    };
    let read = Rules {
        when_empty: if entry.has(ebpf_abi::Rules::DROP_WHEN_EMPTY) {
            WhenEmpty::Drop
        } else {
            WhenEmpty::Refuse
        },
        scheduler: match entry.scheduler {
            ebpf_abi::Scheduler::ROUND_ROBIN => Scheduler::RoundRobin,
            ebpf_abi::Scheduler::RANDOM => Scheduler::Random,
            ebpf_abi::Scheduler::LEAST_CONNECTIONS => Scheduler::LeastConnections,
            ebpf_abi::Scheduler::MAGLEV => Scheduler::Maglev,
            _ => return None,
        },
        affinity: entry.has(ebpf_abi::Rules::AFFINITY).then_some(affinity),
        masquerade: match entry.masquerade {
            ebpf_abi::Masquerade::NEVER => Masquerade::Never,
            ebpf_abi::Masquerade::FROM_OUTSIDE_PODS => Masquerade::FromOutsidePods,
            ebpf_abi::Masquerade::ALWAYS => Masquerade::Always,
            _ => return None,
        },
        source_ranges: entry.has(ebpf_abi::Rules::SOURCE_RANGES).then_some(networks),
        exclusive: entry.has(ebpf_abi::Rules::EXCLUSIVE),
    };
    // What says more than that was not written by us.
    (rules(&read) == entry).then_some(read)
}

/// Who may use a service: an entry for the longest-prefix match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceNetwork {
    pub(super) range: SourceRange,
    pub(super) prefix: u32,
}

/// The clients of `network` may use `service`.
pub(super) fn source_network(network: IpNet, service: ServiceId) -> SourceNetwork {
    let mapped = if network.addr().is_ipv4() { MAPPED_PREFIX } else { 0 };
    let range = SourceRange { service, address: address(network.addr()) };
    SourceNetwork { range, prefix: SourceRange::SERVICE_BITS + mapped + u32::from(network.prefix_len()) }
}

/// The network of an entry; `None` for one that no network has.
pub(super) fn plan_network(entry: &SourceNetwork) -> Option<IpNet> {
    let address = ip_address(entry.range.address);
    let mapped = if address.is_ipv4() { MAPPED_PREFIX } else { 0 };
    let prefix = entry.prefix.checked_sub(SourceRange::SERVICE_BITS)?.checked_sub(mapped)?;
    IpNet::new(address, u8::try_from(prefix).ok()?).ok()
}

/// An IPv4 address in its mapped form begins with so many bits that all have.
const MAPPED_PREFIX: u32 = 96;

/// The table of a service with these backends: the same endpoint in the same place on every node.
pub(super) fn maglev_table(backends: &[(BackendId, Backend)]) -> MaglevTable {
    const SIZE: maglev::Size = match maglev::Size::new(MaglevTable::LENGTH) {
        Some(size) => size,
        None => panic!("the table's length is a prime"),
    };
    let names: Vec<String> = backends.iter().map(|(_, backend)| backend.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| Member { identity: name.as_bytes(), weight: 1 }).collect();
    let mut table = MaglevTable([NO_BACKEND; MaglevTable::LENGTH]);
    for (entry, member) in table.0.iter_mut().zip(maglev::table(&members, SIZE)) {
        *entry = backends[member].0;
    }
    table
}

/// Timeouts are whole seconds, at most a day.
fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)
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

/// An address in the maps' form.
pub(super) fn address(address: IpAddr) -> Address {
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
            for written in [written, written.for_outside()] {
                assert_eq!(frontend(&service_key(written)), Some(written));
            }
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
            audience: ebpf_abi::Audience::EVERYONE,
        };
        assert!(frontend(&key).is_some());
        assert_eq!(frontend(&ServiceKey { protocol: 1, ..key }), None);
        assert_eq!(frontend(&ServiceKey { audience: ebpf_abi::Audience(2), ..key }), None);
        assert_eq!(frontend(&ServiceKey { port: ebpf_abi::Port::from_number(0), ..key }), None);
    }
    #[test]
    fn a_network_is_as_long_as_its_family_says() {
        for (network, prefix) in
            [("10.0.0.0/8", 136), ("0.0.0.0/0", 128), ("192.0.2.1/32", 160), ("fd00::/8", 40), ("::/0", 32)]
        {
            let network: IpNet = network.parse().expect("a network");
            let written = source_network(network, ServiceId(7));
            assert_eq!(written.prefix, prefix, "{network}");
            assert_eq!(plan_network(&written), Some(network));
        }
        let narrow = source_network(IpNet::from(IpAddr::from([10, 0, 0, 1])), ServiceId(7));
        for prefix in [0, 127, 161] {
            assert_eq!(plan_network(&SourceNetwork { prefix, ..narrow }), None, "{prefix}");
        }
    }

    #[test]
    fn rules_that_no_service_has_are_none() {
        let plain = rules(&Rules::default());
        assert_eq!(plan_rules(plain, BTreeSet::new()), Some(Rules::default()));
        for strange in [
            ebpf_abi::Rules { scheduler: ebpf_abi::Scheduler(9), ..plain },
            ebpf_abi::Rules { masquerade: ebpf_abi::Masquerade(3), ..plain },
            ebpf_abi::Rules { flags: 128, ..plain },
            ebpf_abi::Rules { affinity_timeout: 1, ..plain },
            ebpf_abi::Rules { reserved: 1, ..plain },
        ] {
            assert_eq!(plan_rules(strange, BTreeSet::new()), None, "{strange:?}");
        }
    }

    #[test]
    fn a_table_gives_an_endpoint_the_same_places_whatever_it_is_called() {
        let backends = ["10.244.0.1:80", "10.244.0.2:80", "[fd00::1]:80"].map(|text| {
            let address: std::net::SocketAddr = text.parse().expect("an address");
            Backend::new(address.ip(), Port::new(address.port()).expect("a port"))
        });
        let named = |ids: [u32; 3]| ids.map(BackendId).into_iter().zip(backends).collect::<Vec<_>>();
        let holders = |slots: &[(BackendId, Backend)]| {
            let holder = |id| slots.iter().find(|(other, _)| *other == id).map(|(_, backend)| *backend);
            maglev_table(slots).0.map(holder).to_vec()
        };
        let (slots, mut others) = (named([1, 2, 3]), named([9, 8, 7]));
        others.reverse();
        assert_eq!(holders(&slots), holders(&others));
        assert!(backends.iter().all(|backend| holders(&slots).contains(&Some(*backend))));
        assert_eq!(maglev_table(&[]).0, [NO_BACKEND; MaglevTable::LENGTH]);
    }
}
