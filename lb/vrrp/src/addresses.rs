//! The addresses of a virtual router and of those who take part in it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

/// The version of IP. A virtual router has one: a virtual host with addresses of both takes two (RFC 9568 §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6, which only version 3 of VRRP knows.
    Ipv6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The group that adverts are sent to (RFC 9568 §5.1.1.2, §5.1.2.2), unless the peers are listed.
    pub const fn group(self) -> IpAddr {
        match self {
            Self::Ipv4 => IpAddr::V4(GROUP_IPV4),
            Self::Ipv6 => IpAddr::V6(GROUP_IPV6),
        }
    }

    /// A word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// How many bytes an address has.
    pub(crate) const fn address_length(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// [`Family::group`] of IPv4.
pub const GROUP_IPV4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// [`Family::group`] of IPv6.
pub const GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// The virtual addresses of one router (RFC 9568 §5.2.9): 1 to 255 of one family, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddresses {
    // In the operator's order: the first one leads the advert.
    addresses: Vec<IpAddr>,
    count: NonZeroU8,
    family: Family,
}

impl VirtualAddresses {
    /// `None` if there are none, more than 255, one twice, or some of each family.
    pub fn new(addresses: Vec<IpAddr>) -> Option<Self> {
        let count = NonZeroU8::new(u8::try_from(addresses.len()).ok()?)?;
        let family = Family::of(*addresses.first()?);
        let distinct: BTreeSet<_> = addresses.iter().collect();
        let alike = addresses.iter().all(|&address| Family::of(address) == family);
        (alike && distinct.len() == addresses.len()).then_some(Self { addresses, count, family })
    }

    /// How many there are.
    pub const fn count(&self) -> u8 {
        self.count.get()
    }

    /// Their family, which is that of the whole virtual router.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The addresses in the operator's order.
    pub fn as_slice(&self) -> &[IpAddr] {
        &self.addresses
    }
}

/// Who the adverts of one virtual router are for. All its routers must agree: adverts of the other kind are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever listens to the [group](Family::group) on the link.
    Group,
    /// The other routers by name, for links that carry no multicast. Nobody else is listened to.
    Peers(Peers),
}

/// The other routers of a virtual router: one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers(BTreeSet<IpAddr>);

impl Peers {
    /// `None` if there are none.
    pub fn new(peers: BTreeSet<IpAddr>) -> Option<Self> {
        (!peers.is_empty()).then_some(Self(peers))
    }

    /// All but `local`, so that every router may be told the same list; `None` if that leaves none.
    pub fn besides(&self, local: IpAddr) -> Option<Self> {
        Self::new(self.iter().filter(|&peer| peer != local).collect())
    }

    /// Whether it is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_one_or_more_and_never_this_node() {
        let address = |host: u8| IpAddr::from([10, 0, 0, host]);
        let peers = |hosts: &[u8]| Peers::new(hosts.iter().map(|&host| address(host)).collect());
        assert_eq!(peers(&[]), None);
        let both = peers(&[1, 2]).unwrap();
        assert_eq!(both.besides(address(1)), peers(&[2]));
        assert_eq!(both.besides(address(3)), peers(&[1, 2]));
        assert_eq!(peers(&[1]).unwrap().besides(address(1)), None);
    }

    #[test]
    fn virtual_addresses_are_one_to_255_of_one_family_and_distinct() {
        let ipv4 = |count: u32| (0..count).map(|number| Ipv4Addr::from(0x0a00_0000 + number).into());
        let ipv6 = |count: u128| (0..count).map(|number| Ipv6Addr::from((0xfd << 120) + number).into());
        let family = |addresses| VirtualAddresses::new(addresses).map(|addresses| addresses.family());
        assert_eq!(family(ipv4(0).collect()), None);
        for count in [1_u8, 255] {
            assert_eq!(family(ipv4(count.into()).collect()), Some(Family::Ipv4));
            assert_eq!(family(ipv6(count.into()).collect()), Some(Family::Ipv6));
        }
        assert_eq!(family(ipv4(256).collect()), None);
        assert_eq!(family(ipv6(256).collect()), None);
        assert_eq!(family(ipv6(1).chain(ipv6(1)).collect()), None);
        assert_eq!(family(ipv6(1).chain(ipv4(1)).collect()), None);
        assert_eq!(family(ipv4(1).chain(ipv6(1)).collect()), None);
    }
}
