//! What interfaces the node has.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_abi::Node;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrLike;

/// An interface that packets can come in by. Loopback is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) framing: Framing,
    /// Its first address, which is the one that the kernel sends from.
    pub(super) ipv4: Option<Ipv4Addr>,
    /// Its first address that is good beyond its link.
    pub(super) ipv6: Option<Ipv6Addr>,
}

/// What comes before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Ethernet,
    /// Nothing: a tunnel.
    Bare,
    /// Something that the programs do not know.
    Unknown,
}

/// The interfaces of this network namespace, in the order of their indexes.
pub(super) fn read() -> io::Result<Vec<Interface>> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    let mut addresses = Vec::new();
    for entry in getifaddrs()? {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        match link(&entry) {
            Some(interface) => drop(interfaces.insert(entry.interface_name.clone(), interface)),
            None => addresses.push(entry),
        }
    }
    for entry in addresses {
        // One that has come since the links were read is there the next time.
        let Some(interface) = interfaces.get_mut(&entry.interface_name) else { continue };
        let Some(address) = entry.address else { continue };
        if let Some(address) = address.as_sockaddr_in() {
            interface.ipv4.get_or_insert(address.ip());
        } else if let Some(address) = address.as_sockaddr_in6()
            && !address.ip().is_unicast_link_local()
        {
            interface.ipv6.get_or_insert(address.ip());
        }
    }
    let mut interfaces: Vec<Interface> = interfaces.into_values().collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// The addresses that stand in where an interface has none, as on the host's side of a pod: the first there are.
pub(super) fn default_addresses(interfaces: &[Interface]) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let ipv4 = interfaces.iter().find_map(|interface| interface.ipv4);
    (ipv4, interfaces.iter().find_map(|interface| interface.ipv6))
}

/// Which ports stand for clients': not those that the kernel gives to the node's own connections, so that the two are
/// not taken for each other.
pub(super) fn node() -> io::Result<Node> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(path)?;
    let mut bounds = text.split_whitespace().map(str::parse::<u32>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(ports_beside(first, last)),
        _ => Err(io::Error::other(format!("{path}: two numbers expected, found {text:?}"))),
    }
}

/// The larger range of unprivileged ports beside the kernel's own; all of them where neither has room to speak of.
fn ports_beside(first: u32, last: u32) -> Node {
    const LEAST: u32 = 4096;
    let below = Node { first_port: 1024, ports: first.saturating_sub(1024) };
    let above = Node { first_port: last.saturating_add(1), ports: 65_535_u32.saturating_sub(last) };
    let larger = if below.ports >= above.ports { below } else { above };
    if larger.ports >= LEAST { larger } else { Node { first_port: 1024, ports: 64_512 } }
}

fn link(entry: &InterfaceAddress) -> Option<Interface> {
    const ETHERNET: u16 = 1;
    /// IP in IP, either version, SIT, and what has no link layer at all: tun, `WireGuard`.
    const BARE: [u16; 4] = [768, 769, 776, 0xfffe];
    let address = entry.address.as_ref().filter(|address| address.family().is_some())?;
    let link = address.as_link_addr()?;
    let framing = match link.hatype() {
        ETHERNET => Framing::Ethernet,
        kind if BARE.contains(&kind) => Framing::Bare,
        _ => Framing::Unknown,
    };
    let index = u32::try_from(link.ifindex()).ok()?;
    Some(Interface { index, name: entry.interface_name.clone(), framing, ipv4: None, ipv6: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_ports_that_the_kernel_gives_to_nobody_else() {
        for (range, expected) in [
            ((32_768, 60_999), (1024, 31_744)),
            ((1024, 32_767), (32_768, 32_768)),
            ((1024, 65_535), (1024, 64_512)),
            ((2000, 64_000), (1024, 64_512)),
        ] {
            let node = ports_beside(range.0, range.1);
            assert_eq!((node.first_port, node.ports), expected, "{range:?}");
        }
    }

    #[test]
    fn loopback_is_no_interface_that_packets_come_in_by() {
        let interfaces = read().expect("interfaces");
        assert!(interfaces.iter().all(|interface| interface.name != "lo"), "{interfaces:?}");
    }
}
