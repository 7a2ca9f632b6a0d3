//! The router's hold on an interface.

use std::net::IpAddr;

use vrrp::{Audience, Family, Peers, Settings};

use super::interface::Interface;
use super::rival::RivalSocket;
use super::{RouterConfig, RouterError};
use crate::advert_socket::AdvertSocket;
use crate::packet_socket::{MacAddress, PacketSocket};
use crate::virtual_address::Observed;

/// What the router needs of an interface that is up.
pub(super) struct Attachment {
    pub(super) index: u32,
    pub(super) mac: MacAddress,
    pub(super) settings: Settings,
    pub(super) adverts: AdvertSocket,
    pub(super) announcer: PacketSocket,
    pub(super) rivals: RivalSocket,
}

impl Attachment {
    /// `observed` are the addresses of the interface that are of the router's family.
    pub(super) fn open(
        config: &RouterConfig,
        interface: Interface,
        observed: &[Observed],
    ) -> Result<Self, RouterError> {
        let Interface { index, mac, .. } = interface;
        let name = &config.interface;
        let mac = mac.ok_or_else(|| RouterError::NotEthernet { interface: name.clone() })?;
        let settings = settings(config, local_address(config, observed)?)?;
        let refused = |action| move |source| RouterError::of_kernel(config, action, "CAP_NET_RAW", source);
        let adverts =
            AdvertSocket::open(name, index, settings.local).map_err(refused("open the advert socket"))?;
        let announcer = PacketSocket::open(index).map_err(refused("open a packet socket"))?;
        let rivals =
            RivalSocket::open(index, &settings.addresses).map_err(refused("listen for other owners"))?;
        Ok(Self { index, mac, settings, adverts, announcer, rivals })
    }
}

/// The address that adverts come from, never a virtual one. If one of the interface is among the peers, the others
/// expect it. Else it is the first that is neither secondary nor temporary, for this is the one the kernel uses for what
/// it sends itself; over IPv6 of link-local scope (RFC 9568 §5.1.2.1) unless the peers are of another.
fn local_address(config: &RouterConfig, observed: &[Observed]) -> Result<IpAddr, RouterError> {
    let (scope, peers) = match &config.audience {
        Audience::Group => (Scope::of_group(config.addresses.family()), None),
        Audience::Peers(peers) => (Scope::of_peers(config.addresses.family(), peers), Some(peers)),
    };
    let is_virtual = |address| config.addresses.addresses.as_slice().contains(&address);
    let own = |found: &&Observed| {
        let address = found.network.addr();
        found.usable && !is_virtual(address) && scope.includes(address)
    };
    let listed = |found: &&Observed| peers.is_some_and(|peers| peers.contains(found.network.addr()));
    let mut candidates: Vec<&Observed> = observed.iter().filter(own).collect();
    candidates.sort_by_key(|found| (!listed(found), found.secondary));
    let first = candidates.first().map(|found| found.network.addr());
    first.ok_or_else(|| RouterError::NoAddress { interface: config.interface.clone(), wanted: scope.label() })
}

/// Which addresses adverts may come from.
#[derive(Clone, Copy)]
enum Scope {
    Ipv4,
    LinkLocal,
    BeyondLink,
}

impl Scope {
    const fn of_group(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Ipv4,
            Family::Ipv6 => Self::LinkLocal,
        }
    }

    /// The configuration sees to it that peers are all of one scope.
    fn of_peers(family: Family, peers: &Peers) -> Self {
        match Self::of_group(family) {
            Self::LinkLocal if !peers.iter().all(is_link_local) => Self::BeyondLink,
            scope => scope,
        }
    }

    fn includes(self, address: IpAddr) -> bool {
        match self {
            Self::Ipv4 => true,
            Self::LinkLocal => is_link_local(address),
            Self::BeyondLink => !is_link_local(address),
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4 address",
            Self::LinkLocal => "link-local IPv6 address",
            Self::BeyondLink => "IPv6 address of the peers' scope",
        }
    }
}

/// Of IPv6: there is no such thing where IPv4 is used.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The settings of a router whose adverts come from `local`.
pub(super) fn settings(config: &RouterConfig, local: IpAddr) -> Result<Settings, RouterError> {
    let audience = match &config.audience {
        Audience::Group => Audience::Group,
        Audience::Peers(peers) => {
            let others = peers.besides(local);
            Audience::Peers(others.ok_or(RouterError::NoPeer { address: local })?)
        }
    };
    Ok(Settings {
        router_id: config.router_id,
        priority: config.priority,
        version: config.version,
        preempt: config.preempt,
        local,
        audience,
        addresses: config.addresses.addresses.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::config;

    /// `+` after an address: secondary or temporary; `?`: not usable yet.
    fn observed(text: &str) -> Observed {
        let address = text.trim_end_matches(['+', '?']);
        Observed {
            network: address.parse().unwrap(),
            secondary: text.contains('+'),
            usable: !text.contains('?'),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn adverts_come_from_the_first_address_that_is_neither_virtual_nor_secondary() {
        type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Result<&'a str, &'a str>);
        let (ipv4, ipv6) = ("10.0.0.250/32", "fd00::fa/128");
        let cases: [Case<'_>; 14] = [
            (ipv4, &[], &[], Err("eth0 has no IPv4 address besides the virtual ones")),
            (ipv4, &[], &["10.0.0.250/32"], Err("eth0 has no IPv4 address besides the virtual ones")),
            (ipv4, &[], &["10.0.0.250/32", "10.0.0.1/24"], Ok("10.0.0.1")),
            (ipv4, &[], &["10.0.0.2/24+", "10.0.0.1/24"], Ok("10.0.0.1")),
            (ipv4, &[], &["10.0.0.250/24", "10.0.0.2/24+"], Ok("10.0.0.2")),
            (ipv4, &["10.0.0.2", "10.0.0.3"], &["10.0.0.1/24", "10.0.0.2/24+"], Ok("10.0.0.2")),
            (ipv6, &[], &["fd00::1/64"], Err("eth0 has no link-local IPv6 address besides the virtual ones")),
            (ipv6, &[], &["fe80::1/64?"], Err("eth0 has no link-local IPv6 address besides the virtual ones")),
            (ipv6, &[], &["fd00::1/64", "fe80::1/64"], Ok("fe80::1")),
            ("fe80::250/64", &[], &["fe80::250/64", "fe80::1/64"], Ok("fe80::1")),
            (ipv6, &["fe80::2"], &["fd00::1/64", "fe80::1/64"], Ok("fe80::1")),
            (ipv6, &["fd00::2"], &["fe80::1/64", "fd00::1/64"], Ok("fd00::1")),
            (ipv6, &["fd00::2"], &["fd00::fa/64", "fd00::5/64+", "fd00::1/64"], Ok("fd00::1")),
            (ipv6, &["fd00::2"], &["fe80::1/64"], Err("eth0 has no IPv6 address of the peers' scope besides the virtual ones")),
        ];
        for (virtual_address, peers, found, expected) in cases {
            let found: Vec<_> = found.iter().map(|text| observed(text)).collect();
            let local = local_address(&config(virtual_address, peers), &found);
            let shown = local.map(|address| address.to_string()).map_err(|error| error.to_string());
            assert_eq!(shown.as_deref().map_err(String::as_str), expected, "{found:?} {peers:?}");
        }
    }
}
