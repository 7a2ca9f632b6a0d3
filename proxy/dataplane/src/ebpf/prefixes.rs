//! A map of networks, in which programs look up the one that an address is of.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use ebpf_abi::{Address, Table};
use ipnet::IpNet;

use super::encode;
use super::maps::take_map;
use super::pod::Plain;
use crate::Error;

/// The map.
#[derive(Debug)]
pub(super) struct Prefixes {
    name: &'static str,
    entries: LpmTrie<MapData, Plain<Address>, u32>,
    /// What it is to hold, once somebody has said so.
    wanted: Option<BTreeSet<(u32, Address)>>,
}

impl Prefixes {
    /// Takes it from what was loaded.
    pub(super) fn take(object: &mut Ebpf, table: Table) -> Result<Self, Error> {
        let map = take_map(object, table)?;
        Ok(Self {
            name: table.name,
            entries: LpmTrie::try_from(map).map_err(Error::map("open", table.name))?,
            wanted: None,
        })
    }

    /// Makes its networks these, and no others.
    pub(super) fn set<'network>(
        &mut self,
        networks: impl IntoIterator<Item = &'network IpNet>,
    ) -> Result<(), Error> {
        self.wanted = Some(networks.into_iter().map(prefix).collect());
        self.restore().map(drop)
    }

    /// Makes its networks again what they were made last; how many were not.
    pub(super) fn restore(&mut self) -> Result<u64, Error> {
        let Some(wanted) = &self.wanted else { return Ok(0) };
        let failed = |action| Error::map(action, self.name);
        let keys: Vec<_> = self.entries.keys().collect::<Result<_, _>>().map_err(failed("read"))?;
        let found: BTreeSet<(u32, Address)> =
            keys.iter().map(|key| (key.prefix_len(), key.data().0)).collect();
        for (length, address) in wanted.difference(&found) {
            self.entries.insert(&Key::new(*length, Plain(*address)), 1, 0).map_err(failed("write"))?;
        }
        for (length, address) in found.difference(wanted) {
            self.entries.remove(&Key::new(*length, Plain(*address))).map_err(failed("write"))?;
        }
        Ok(wanted.symmetric_difference(&found).count() as u64)
    }
}

/// A network in the terms of the maps, where IPv4 addresses have 96 bits before them.
fn prefix(network: &IpNet) -> (u32, Address) {
    let network = network.trunc();
    let before = if network.addr().is_ipv4() { 96 } else { 0 };
    (before + u32::from(network.prefix_len()), encode::address(network.addr()))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn networks_of_both_families_have_one_kind_of_key() {
        let key = |text: &str| prefix(&text.parse().expect("a network"));
        let mapped = encode::address(IpAddr::V4(Ipv4Addr::new(10, 42, 0, 0)));
        assert_eq!(key("10.42.1.9/16"), (112, mapped));
        assert_eq!(key("fd00:42::/64").0, 64);
        assert_eq!(key("0.0.0.0/0").0, 96, "all of IPv4 and nothing of IPv6");
    }
}
