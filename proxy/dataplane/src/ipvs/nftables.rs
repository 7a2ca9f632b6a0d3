//! What IPVS cannot say of a service is said by nftables: who is admitted, what becomes of those whom nobody can serve,
//! whose address is replaced, and that nobody else is reached by an address that belongs to services.
//!
//! One table of each address family, whose chains never change. A service is elements of its sets and maps: a change is
//! one transaction of as many elements as it concerns.

mod element;
mod message;
mod ruleset;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use plan::{Frontend, Rules};

pub(super) use self::element::{Element, Shared};
pub use self::ruleset::Surroundings;
pub(super) use self::ruleset::{FIRST_MARK, MARKS};
use super::netlink::{Netlink, Request, Traffic};

/// The table in both families.
#[derive(Debug)]
pub(super) struct Table {
    netlink: Netlink,
    /// In each family.
    name: &'static str,
    surroundings: Surroundings,
    /// What the chains were when they were made, and the generation of all tables when that was last seen to be true.
    made: Option<Vec<Chains>>,
    generation: Option<u32>,
}

/// What was found of the table.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Whether the chains are as they were made.
    pub(super) is_sound: bool,
    pub(super) elements: BTreeSet<Element>,
}

/// One of two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

/// What tells whether chains are as they were: the table's flags and handle, and all rules as the kernel tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chains {
    table: (Vec<u8>, Vec<u8>),
    rules: Vec<Vec<u8>>,
}

impl Table {
    /// Changes nothing yet. The kernel loads nftables where it is wanted; its refusal says where it has none.
    pub(super) fn open(name: &'static str, surroundings: Surroundings) -> io::Result<Self> {
        let netlink = Netlink::netfilter()?;
        let mut table = Self { netlink, name, surroundings, made: None, generation: None };
        table.generation()?;
        Ok(table)
    }

    /// What was said and heard about it.
    pub(super) const fn traffic(&self) -> Traffic {
        self.netlink.traffic()
    }

    /// All that is there.
    pub(super) fn read(&mut self) -> io::Result<Found> {
        let mut elements = BTreeSet::new();
        for family in Family::ALL {
            for set in element::Set::ALL {
                let found = present(self.netlink.dump(&message::get_elements(self.name, family, set))?)?;
                let found = found.iter().flatten();
                elements.extend(found.flat_map(|part| message::found_elements(family, set, part)));
            }
        }
        Ok(Found { is_sound: self.is_sound()?, elements })
    }

    /// Whether there is one, in either family.
    pub(super) fn is_there(&mut self) -> io::Result<bool> {
        for family in Family::ALL {
            if self.ask(message::get_table(self.name, family))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the chains are as they were made. Its cost does not grow with what is served, and is next to nothing
    /// while nobody changes any table.
    pub(super) fn is_sound(&mut self) -> io::Result<bool> {
        let generation = self.generation()?;
        if self.made.is_some() && self.generation == generation && generation.is_some() {
            return Ok(true);
        }
        let is_sound = self.made.is_some() && self.chains()? == self.made;
        self.generation = generation.filter(|_| is_sound);
        Ok(is_sound)
    }

    /// Makes the table anew, with these elements and no others, in one transaction.
    pub(super) fn make(&mut self, elements: &BTreeSet<Element>) -> io::Result<()> {
        let mut requests = Vec::new();
        for family in Family::ALL {
            requests.extend(message::new_table(self.name, family));
            let chains = ruleset::chains(family, &self.surroundings);
            requests.extend(chains.iter().map(|chain| message::new_chain(self.name, family, chain)));
            requests.extend(element::Set::ALL.map(|set| message::new_set(self.name, family, set)));
            requests.extend(chains.iter().flat_map(|chain| message::new_rules(self.name, family, chain)));
        }
        requests.extend(message::new_elements(self.name, elements));
        self.made = None;
        self.netlink.transact(&requests)??;
        self.made = self.chains()?;
        Ok(())
    }

    /// Takes elements away and adds others, in one transaction.
    pub(super) fn change(&mut self, removed: &[Element], added: &[Element]) -> io::Result<()> {
        if removed.is_empty() && added.is_empty() {
            return Ok(());
        }
        let requests =
            [message::delete_elements(self.name, removed), message::new_elements(self.name, added)].concat();
        Ok(self.netlink.transact(&requests)??)
    }

    /// Removes the table; success where there is none.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        for family in Family::ALL {
            present(self.netlink.transact(&[message::delete_table(self.name, family)])?)?;
        }
        Ok(())
    }

    fn generation(&mut self) -> io::Result<Option<u32>> {
        let answer = self.ask(message::get_generation())?;
        Ok(answer.and_then(|answer| message::generation(&answer)))
    }

    /// `None` where one is missing.
    fn chains(&mut self) -> io::Result<Option<Vec<Chains>>> {
        let mut chains = Vec::new();
        for family in Family::ALL {
            let table = self.ask(message::get_table(self.name, family))?;
            let Some(table) = table.as_deref().and_then(message::table_identity) else { return Ok(None) };
            let rules =
                present(self.netlink.dump(&message::get_rules(self.name, family))?)?.unwrap_or_default();
            let rules = rules.iter().map(|rule| message::rule(rule).to_vec()).collect();
            chains.push(Chains { table, rules });
        }
        Ok(Some(chains))
    }

    fn ask(&mut self, request: Request) -> io::Result<Option<Vec<u8>>> {
        let answer = self.netlink.exchange(&[request])?.into_iter().next().unwrap_or(Err(Errno::ENOENT));
        Ok(present(answer)?.and_then(|parts| parts.into_iter().next()))
    }
}

impl Found {
    /// The services that are there, with their rules as far as IPVS does not know them.
    pub(super) fn services(&self) -> BTreeMap<Frontend, Rules> {
        let mut services: BTreeMap<Frontend, Rules> =
            self.elements.iter().filter_map(Element::registration).collect();
        for (frontend, admitted) in self.elements.iter().filter_map(Element::restriction) {
            if let Some(rules) = services.get_mut(&frontend) {
                rules.source_ranges.get_or_insert_default().extend(admitted);
            }
        }
        services
    }

    /// The addresses that belong to services alone.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.elements.iter().filter_map(Element::address).collect()
    }

    /// The marks of frontends for packets from outside.
    pub(super) fn marks(&self) -> BTreeMap<Frontend, u32> {
        self.elements.iter().filter_map(Element::mark).collect()
    }
}

/// Whether two lists of ranges admit the same clients of this frontend.
pub(super) fn admit_the_same(
    frontend: Frontend,
    one: Option<&BTreeSet<IpNet>>,
    other: Option<&BTreeSet<IpNet>>,
) -> bool {
    let merged = |ranges: &BTreeSet<IpNet>| element::merged(frontend, ranges);
    one.map(merged) == other.map(merged)
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `NFPROTO_*`.
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// What was not there is no error.
fn present<T>(answer: Result<T, Errno>) -> io::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}
