//! Which backend a new connection goes to. Pure: the caller knows who may take it and remembers credits.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use plan::maglev::{self, Member, Size};

use crate::config::Backend;

/// A backend that may take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Which backend.
    pub(super) backend: usize,
    /// How many connections it has, those being established included.
    pub(super) active: usize,
    /// Its share of new connections in relation to those of others; at least 1.
    pub(super) share: u32,
    /// What [`in_turn`] owes it: 0 at first and whenever the candidates have changed.
    pub(super) credit: i64,
}

/// Each candidate in turn, smoothly: one with three times the share of another gets three connections to the other's
/// one, and not in a row. Among equals it is who comes next after `last`. `None` where there is no candidate.
///
/// It is exact: from credits of 0 on, while the candidates stay the same, each has its share of every cycle, which is as
/// many turns as all shares together, reduced. This is the algorithm of nginx.
pub(super) fn in_turn(candidates: &mut [Candidate], last: usize) -> Option<usize> {
    let mut total = 0;
    for candidate in &mut *candidates {
        candidate.credit += i64::from(candidate.share);
        total += i64::from(candidate.share);
    }
    let distance = |candidate: &Candidate| (candidate.backend <= last, candidate.backend);
    let chosen =
        candidates.iter_mut().max_by_key(|candidate| (candidate.credit, Reverse(distance(candidate))))?;
    chosen.credit -= total;
    Some(chosen.backend)
}

/// The candidate with the fewest connections in relation to its share; [`in_turn`] among equals.
pub(super) fn fewest_connections(candidates: &mut [Candidate], last: usize) -> Option<usize> {
    let load = |left: &Candidate, right: &Candidate| {
        let scaled = |one: &Candidate, other: &Candidate| one.active as u128 * u128::from(other.share);
        scaled(left, right).cmp(&scaled(right, left))
    };
    candidates.sort_by(load);
    let least = *candidates.first()?;
    let equals = candidates.partition_point(|candidate| load(candidate, &least).is_eq());
    in_turn(&mut candidates[..equals], last)
}

/// Who has which client addresses.
#[derive(Debug, Default)]
pub(super) struct HashTable(Vec<usize>);

impl HashTable {
    /// Shares the addresses among `backends` by their weights. The same backends make the same table on every node; their
    /// addresses say which is which, because names might be a node's own.
    pub(super) fn new(backends: &[Backend]) -> Self {
        let identities: Vec<String> = backends.iter().map(|backend| backend.address.to_string()).collect();
        let members = identities.iter().zip(backends).map(|(identity, backend)| Member {
            identity: identity.as_bytes(),
            weight: backend.weight.into(),
        });
        Self(maglev::table(&members.collect::<Vec<_>>(), SLOTS))
    }

    /// The candidate for `client`. Where the backend that has the client's slot is no candidate, the next slot decides:
    /// clients of others stay where they are, and those of the one that is missing are spread.
    pub(super) fn choose(&self, candidates: &[Candidate], client: IpAddr) -> Option<usize> {
        let slot = match client.to_canonical() {
            IpAddr::V4(address) => maglev::slot(&address.octets(), SLOTS),
            IpAddr::V6(address) => maglev::slot(&address.octets(), SLOTS),
        };
        let (before, after) = self.0.split_at_checked(slot)?;
        let is_candidate =
            |backend: &&usize| candidates.iter().any(|candidate| candidate.backend == **backend);
        after.iter().chain(before).find(is_candidate).copied()
    }
}

/// Enough for 64 backends of weight 256 to have a slot for each.
const SLOTS: Size = Size::new(16_411).expect("a prime");

/// The share of a backend of this weight, where it takes connections again since `risen` ago.
pub(super) fn share(weight: u16, risen: Option<Duration>, slow_start: Duration) -> u32 {
    let percent = match risen {
        Some(risen) if risen < slow_start => {
            let grown = u128::from(100 - LEAST_PERCENT) * risen.as_nanos() / slow_start.as_nanos();
            LEAST_PERCENT + u32::try_from(grown).unwrap_or(0)
        }
        Some(_) | None => 100,
    };
    u32::from(weight) * percent
}

/// What a slow start begins with: of its full share.
const LEAST_PERCENT: u32 = 10;

#[cfg(test)]
mod tests;
