//! At which of this node's addresses node ports are served (`nodePortAddresses` of a `KubeProxyConfiguration`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::{Family, Here};

/// The addresses that node ports are served at. Never a loopback address, and never one that is valid on one link only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's own address in each family, as its Node object has it.
    #[default]
    Primary,
    /// The addresses of its interfaces in these networks. A family without a network is not restricted.
    Within(Vec<IpNet>),
}

impl NodePortAddresses {
    /// Which these are.
    pub fn of(&self, here: &Here) -> BTreeSet<IpAddr> {
        match self {
            Self::Primary => Family::ALL.into_iter().filter_map(|family| here.primary(family)).collect(),
            Self::Within(networks) => {
                let admitted = |address: &IpAddr| {
                    let mut of_family = networks
                        .iter()
                        .filter(|network| network.addr().is_ipv4() == address.is_ipv4())
                        .peekable();
                    of_family.peek().is_none() || of_family.any(|network| network.contains(address))
                };
                here.interfaces.iter().copied().filter(admitted).filter(is_reachable).collect()
            }
        }
    }

    /// Whether the addresses of the interfaces matter.
    pub const fn needs_interfaces(&self) -> bool {
        match self {
            Self::Primary => false,
            Self::Within(_) => true,
        }
    }
}

fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_choose_among_the_addresses_of_the_interfaces() {
        let texts =
            ["127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "169.254.0.1", "fd00::1", "2001:db8::1", "fe80::1"];
        let here = Here {
            interfaces: texts.iter().map(|text| text.parse().expect("an address")).collect(),
            addresses: vec![[192, 0, 2, 1].into()],
            ..Here::default()
        };
        let cases: [(Option<&[&str]>, &[&str]); 5] = [
            (None, &["192.0.2.1"]),
            (Some(&["10.0.0.0/8"]), &["10.0.0.1", "2001:db8::1", "fd00::1"]),
            (Some(&["10.0.0.0/8", "fd00::/8"]), &["10.0.0.1", "fd00::1"]),
            (Some(&["127.0.0.0/8", "fe80::/10"]), &[]),
            (Some(&["0.0.0.0/0", "fd00::/8"]), &["10.0.0.1", "192.0.2.1", "fd00::1"]),
        ];
        for (networks, expected) in cases {
            let addresses = networks.map_or(NodePortAddresses::Primary, |networks| {
                NodePortAddresses::Within(
                    networks.iter().map(|text| text.parse().expect("a network")).collect(),
                )
            });
            let found: Vec<String> = addresses.of(&here).iter().map(IpAddr::to_string).collect();
            assert_eq!(found, expected, "{networks:?}");
        }
    }
}
