//! What a service is in the table: elements of its sets and maps. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use plan::{
    Affinity, AffinityGroup, Audience, Frontend, Masquerade, Port, Protocol, Rules, Scheduler, WhenEmpty,
};

use super::Family;
use super::message::{TYPE_MARK, TYPE_PORT, TYPE_PROTOCOL};

/// The sets and maps of a table. `key` is protocol, address and port of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ipvs) enum Set {
    /// key -> what becomes of a new connection.
    Services,
    /// Keys whose clients are to be known by [`Set::Admitted`].
    Restricted,
    /// key and a range of clients' addresses.
    Admitted,
    /// The same for packets from outside: [`Set::Services`].
    OutsideServices,
    /// [`Set::Restricted`].
    OutsideRestricted,
    /// [`Set::Admitted`].
    OutsideAdmitted,
    /// key -> the mark by which IPVS knows the service for packets from outside.
    OutsideMarks,
    /// Marks whose packets are masqueraded.
    OutsideMasqueraded,
    /// A backend's address and the same again: it connects to itself.
    Itself,
    /// Addresses that belong to services alone.
    Addresses,
    /// Any protocol, and a range of addresses that belong to services alone or to nobody.
    ServiceCidrs,
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ipvs) struct Element {
    pub(super) family: Family,
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    /// The last key of a range.
    pub(super) end: Option<Vec<u8>>,
    pub(super) value: Option<Value>,
    /// What `nft list` shows beside it: the rules that the verdict does not tell.
    pub(super) comment: String,
}

/// What a map says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Verdict(Verdict),
    Mark(u32),
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It is served.
    Accept,
    /// It is served, with an address of the node as its source.
    Masquerade,
    /// The same unless it comes from a pod of this node.
    MasqueradeOthers,
    /// It is served as one from outside.
    ServeOutside,
    /// Its client is told that nobody is there.
    Refuse,
    /// Its client is told nothing.
    Drop,
}

/// What several frontends may ask for at once: an element is there as long as one of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ipvs) enum Shared {
    /// An address that belongs to services alone.
    Address(IpAddr),
    /// A backend's address.
    Backend(IpAddr),
}

impl Set {
    pub(super) const ALL: [Self; 11] = [
        Self::Services,
        Self::Restricted,
        Self::Admitted,
        Self::OutsideServices,
        Self::OutsideRestricted,
        Self::OutsideAdmitted,
        Self::OutsideMarks,
        Self::OutsideMasqueraded,
        Self::Itself,
        Self::Addresses,
        Self::ServiceCidrs,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Restricted => "restricted",
            Self::Admitted => "admitted",
            Self::OutsideServices => "outside-services",
            Self::OutsideRestricted => "outside-restricted",
            Self::OutsideAdmitted => "outside-admitted",
            Self::OutsideMarks => "outside-marks",
            Self::OutsideMasqueraded => "outside-masqueraded",
            Self::Itself => "itself",
            Self::Addresses => "addresses",
            Self::ServiceCidrs => "service-cidrs",
        }
    }

    pub(super) const fn has_ranges(self) -> bool {
        matches!(self, Self::Admitted | Self::OutsideAdmitted | Self::ServiceCidrs)
    }

    /// nft's type and the length of each part of a key.
    pub(super) fn fields(self, family: Family) -> Vec<(u32, u32)> {
        let address = match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let key = [(TYPE_PROTOCOL, 1), address, (TYPE_PORT, 2)];
        match self {
            Self::Addresses => vec![address],
            // Of the kernel's sets only those whose keys have several parts take ranges as they are.
            Self::ServiceCidrs => vec![(TYPE_PROTOCOL, 1), address],
            Self::Itself => vec![address, address],
            Self::Services
            | Self::Restricted
            | Self::OutsideServices
            | Self::OutsideRestricted
            | Self::OutsideMarks => key.to_vec(),
            Self::Admitted | Self::OutsideAdmitted => [&key[..], &[address]].concat(),
            Self::OutsideMasqueraded => vec![(TYPE_MARK, 4)],
        }
    }
}

impl Verdict {
    /// The chain that carries it out; `None` where the kernel does.
    pub(super) const fn chain(self) -> Option<&'static str> {
        match self {
            Self::Accept | Self::Drop => None,
            Self::Masquerade => Some("masquerade"),
            Self::MasqueradeOthers => Some("masquerade-others"),
            Self::ServeOutside => Some("serve-outside"),
            Self::Refuse => Some("refuse"),
        }
    }

    /// The verdict that this chain carries out.
    pub(super) fn of_chain(name: &str) -> Option<Self> {
        let all = [Self::Masquerade, Self::MasqueradeOthers, Self::ServeOutside, Self::Refuse];
        all.into_iter().find(|verdict| verdict.chain() == Some(name))
    }
}

impl Shared {
    pub(in crate::ipvs) fn element(self) -> Element {
        match self {
            Self::Address(address) => Element::plain(address, Set::Addresses, octets(address)),
            Self::Backend(address) => Element::plain(address, Set::Itself, octets(address).repeat(2)),
        }
    }
}

impl Element {
    fn plain(address: IpAddr, set: Set, key: Vec<u8>) -> Self {
        let family = Family::of(address);
        Self { family, set, key, end: None, value: None, comment: String::new() }
    }

    /// All that is in the table for this frontend alone. `mark` is that of a frontend for packets from outside.
    pub(in crate::ipvs) fn of_service(
        frontend: Frontend,
        rules: &Rules,
        is_served: bool,
        mark: Option<u32>,
    ) -> BTreeSet<Self> {
        let outside = frontend.audience() == Audience::Outside;
        let choose = |everyone, from_outside| if outside { from_outside } else { everyone };
        let plain = |set, key| Self::plain(frontend.address(), set, key);
        let mut elements = BTreeSet::from([Self {
            value: Some(Value::Verdict(verdict(frontend, rules, is_served))),
            comment: comment(rules, outside),
            ..plain(choose(Set::Services, Set::OutsideServices), key(frontend))
        }]);
        if let Some(ranges) = &rules.source_ranges {
            elements.insert(plain(choose(Set::Restricted, Set::OutsideRestricted), key(frontend)));
            for range in merged(frontend, ranges) {
                let bound = |address| [key(frontend), octets(address)].concat();
                let set = choose(Set::Admitted, Set::OutsideAdmitted);
                elements.insert(Self {
                    end: Some(bound(range.broadcast())),
                    ..plain(set, bound(range.network()))
                });
            }
        }
        if let Some(mark) = mark {
            let value = Some(Value::Mark(mark));
            elements.insert(Self { value, ..plain(Set::OutsideMarks, key(frontend)) });
            if rules.masquerade != Masquerade::Never {
                elements.insert(plain(Set::OutsideMasqueraded, mark.to_ne_bytes().to_vec()));
            }
        }
        elements
    }

    /// The networks that cluster addresses come from.
    pub(in crate::ipvs) fn of_service_cidrs(cidrs: &BTreeSet<IpNet>) -> impl Iterator<Item = Self> {
        // The kernel holds none that lie within another.
        let cidrs: Vec<IpNet> = cidrs.iter().copied().collect();
        IpNet::aggregate(&cidrs).into_iter().map(|cidr| {
            let bound = |protocol: u8, address| [&[protocol, 0, 0, 0], &octets(address)[..]].concat();
            let first = Self::plain(cidr.network(), Set::ServiceCidrs, bound(0, cidr.network()));
            Self { end: Some(bound(u8::MAX, cidr.broadcast())), ..first }
        })
    }

    /// Whether it is one of these.
    pub(in crate::ipvs) fn is_service_cidr(&self) -> bool {
        self.set == Set::ServiceCidrs
    }

    /// The frontend that this one is about, and its rules as far as they are known from it.
    pub(super) fn registration(&self) -> Option<(Frontend, Rules)> {
        let outside = match self.set {
            Set::Services => false,
            Set::OutsideServices => true,
            Set::Restricted
            | Set::Admitted
            | Set::OutsideRestricted
            | Set::OutsideAdmitted
            | Set::OutsideMarks
            | Set::OutsideMasqueraded
            | Set::Itself
            | Set::Addresses
            | Set::ServiceCidrs => return None,
        };
        Some((self.frontend(outside)?, commented(&self.comment)))
    }

    /// The frontend for packets from outside that has this mark.
    pub(super) fn mark(&self) -> Option<(Frontend, u32)> {
        match (self.set, self.value) {
            (Set::OutsideMarks, Some(Value::Mark(mark))) => Some((self.frontend(true)?, mark)),
            _ => None,
        }
    }

    /// The frontend whose clients must be known, and whom this element admits, if anybody.
    pub(super) fn restriction(&self) -> Option<(Frontend, Option<IpNet>)> {
        match self.set {
            Set::Restricted => Some((self.frontend(false)?, None)),
            Set::OutsideRestricted => Some((self.frontend(true)?, None)),
            Set::Admitted => Some((self.frontend(false)?, Some(self.range()?))),
            Set::OutsideAdmitted => Some((self.frontend(true)?, Some(self.range()?))),
            Set::Services
            | Set::OutsideServices
            | Set::OutsideMarks
            | Set::OutsideMasqueraded
            | Set::Itself
            | Set::Addresses
            | Set::ServiceCidrs => None,
        }
    }

    /// The address that belongs to services alone.
    pub(super) fn address(&self) -> Option<IpAddr> {
        (self.set == Set::Addresses).then(|| self.family.address(&self.key)).flatten()
    }

    fn frontend(&self, outside: bool) -> Option<Frontend> {
        let (protocol, rest) = self.key.split_at_checked(4)?;
        let (address, rest) = rest.split_at_checked(self.family.address_length())?;
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|known| protocol.first() == Some(&number(*known)))?;
        let port = Port::new(u16::from_be_bytes(*rest.first_chunk()?))?;
        let frontend = Frontend::new(self.family.address(address)?, port, protocol);
        Some(if outside { frontend.for_outside() } else { frontend })
    }

    fn range(&self) -> Option<IpNet> {
        let at = self.key.len().checked_sub(self.family.address_length())?;
        let first = self.family.address(self.key.get(at..)?)?;
        let last = self.family.address(self.end.as_ref()?.get(at..)?)?;
        let common = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
            (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
            _ => return None,
        };
        let range = IpNet::new(first, u8::try_from(common).ok()?).ok()?;
        (range.network() == first && range.broadcast() == last).then_some(range)
    }
}

impl Family {
    const fn address_length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn address(self, octets: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => octets.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
            Self::V6 => octets.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        }
    }
}

/// The same ranges, none of which lies within another: the kernel holds no others. Those of the other family say nothing.
pub(super) fn merged(frontend: Frontend, ranges: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let of_family = |range: &&IpNet| range.addr().is_ipv4() == frontend.address().is_ipv4();
    let ranges: Vec<IpNet> = ranges.iter().filter(of_family).map(IpNet::trunc).collect();
    IpNet::aggregate(&ranges).into_iter().collect()
}

fn verdict(frontend: Frontend, rules: &Rules, is_served: bool) -> Verdict {
    match (is_served, rules.when_empty, frontend.audience(), rules.masquerade) {
        (false, WhenEmpty::Refuse, _, _) => Verdict::Refuse,
        (false, WhenEmpty::Drop, _, _) => Verdict::Drop,
        (true, _, Audience::Outside, _) => Verdict::ServeOutside,
        (true, _, Audience::Everyone, Masquerade::Never) => Verdict::Accept,
        (true, _, Audience::Everyone, Masquerade::FromOutsidePods) => Verdict::MasqueradeOthers,
        (true, _, Audience::Everyone, Masquerade::Always) => Verdict::Masquerade,
    }
}

const DROPPED: &str = "drop-when-empty";
const MASQUERADED: &str = "masquerade";
const OTHERS_MASQUERADED: &str = "masquerade-others";
const EXCLUSIVE: &str = "exclusive";
const AFFINITY: &str = "affinity-";
const SCHEDULER: &str = "scheduler-";

/// Affinity's time and the scheduler are IPVS's to know, but for a service that is known by a mark: of that it knows no
/// affinity.
fn comment(rules: &Rules, outside: bool) -> String {
    let mut words = Vec::new();
    if rules.when_empty == WhenEmpty::Drop {
        words.push(DROPPED.to_owned());
    }
    if rules.exclusive {
        words.push(EXCLUSIVE.to_owned());
    }
    match rules.masquerade {
        Masquerade::Never => {}
        Masquerade::FromOutsidePods => words.push(OTHERS_MASQUERADED.to_owned()),
        Masquerade::Always => words.push(MASQUERADED.to_owned()),
    }
    if let Some(Affinity { group, timeout }) = rules.affinity {
        let seconds = if outside { timeout.as_secs() } else { 0 };
        words.push(format!("{AFFINITY}{:016x}-{seconds}", group.0));
        if outside {
            words.push(format!("{SCHEDULER}{}", rules.scheduler.name()));
        }
    }
    words.join(" ")
}

fn commented(comment: &str) -> Rules {
    let mut rules = Rules::default();
    for word in comment.split(' ') {
        match word {
            DROPPED => rules.when_empty = WhenEmpty::Drop,
            EXCLUSIVE => rules.exclusive = true,
            MASQUERADED => rules.masquerade = Masquerade::Always,
            OTHERS_MASQUERADED => rules.masquerade = Masquerade::FromOutsidePods,
            word => {
                rules.affinity = rules.affinity.or_else(|| affinity(word));
                let scheduler = word.strip_prefix(SCHEDULER).and_then(Scheduler::named);
                rules.scheduler = scheduler.unwrap_or(rules.scheduler);
            }
        }
    }
    rules
}

fn affinity(word: &str) -> Option<Affinity> {
    let (group, seconds) = word.strip_prefix(AFFINITY)?.split_once('-')?;
    let group = AffinityGroup(u64::from_str_radix(group, 16).ok()?);
    Some(Affinity { group, timeout: Duration::from_secs(seconds.parse().ok()?) })
}

fn key(frontend: Frontend) -> Vec<u8> {
    let [high, low] = frontend.port().number().to_be_bytes();
    [&[number(frontend.protocol()), 0, 0, 0], &octets(frontend.address())[..], &[high, low, 0, 0]].concat()
}

/// IANA's.
const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
