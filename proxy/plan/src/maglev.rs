//! Consistent hashing as in Maglev (Eisenbud and others, NSDI 2016, §3.4), with weights as in Katran.
//!
//! A table gives each of its slots to a member; a key goes to the member that has its slot. The same members make the
//! same table on every node, in whatever order they are listed. Each member has its fair share of the slots to within
//! one, and when one goes, nearly all slots of the others stay where they are.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// How many slots a table has: a prime, so that every member's walk visits every slot.
///
/// A hundred times the members, or the sum of their weights, keeps the shares even to one percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(usize);

impl Size {
    /// `None` where `slots` is no prime.
    pub const fn new(slots: usize) -> Option<Self> {
        if slots < 2 {
            return None;
        }
        let mut divisor = 2;
        while divisor <= slots / divisor {
            if slots.is_multiple_of(divisor) {
                return None;
            }
            divisor += 1;
        }
        Some(Self(slots))
    }

    /// The number of slots.
    pub const fn slots(self) -> usize {
        self.0
    }
}

/// Somebody who wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'identity> {
    /// What makes it itself on every node: a name, or address and port. No two members share it.
    pub identity: &'identity [u8],
    /// Its share in relation to the weights of others; one of 0 has no slot.
    pub weight: u32,
}

/// The member of each slot, as a position in `members`. Empty where nobody has a weight.
pub fn table(members: &[Member<'_>], size: Size) -> Vec<usize> {
    let mut walks: Vec<Walk> = (0..members.len())
        .filter(|member| members[*member].weight > 0)
        .map(|at| Walk::new(at, members, size))
        .collect();
    // Who is asked first has a slight advantage: that must not depend on the order of the list.
    walks.sort_by_key(|walk| members[walk.member].identity);
    let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else { return Vec::new() };
    let mut slots = vec![None; size.0];
    let mut free = size.0;
    loop {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            walk.take(&mut slots);
            free -= 1;
            if free == 0 {
                return slots.into_iter().flatten().collect();
            }
        }
    }
}

/// The slot of a key, such as the address of a client: the same on every node.
pub fn slot(key: &[u8], size: Size) -> usize {
    remainder(hash(key).0, size.0)
}

/// The order in which a member asks for slots: each exactly once, in steps of a length that is its own.
struct Walk {
    member: usize,
    weight: u64,
    /// Weight that has not been turned into a slot yet.
    credit: u64,
    next: usize,
    step: usize,
    size: usize,
}

impl Walk {
    fn new(member: usize, members: &[Member<'_>], size: Size) -> Self {
        let Member { identity, weight } = members[member];
        let (first, second) = hash(identity);
        let (next, step) = (remainder(first, size.0), remainder(second, size.0 - 1) + 1);
        Self { member, weight: weight.into(), credit: 0, next, step, size: size.0 }
    }

    /// Takes the first slot of the walk that is free. There must be one.
    fn take(&mut self, slots: &mut [Option<usize>]) {
        while slots[self.next].is_some() {
            self.advance();
        }
        slots[self.next] = Some(self.member);
        self.advance();
    }

    fn advance(&mut self) {
        self.next = (self.next + self.step) % self.size;
    }
}

/// `SipHash` 1-3 with a key of zeros: stable across releases and processors. Nothing secret hangs on it.
fn hash(bytes: &[u8]) -> (u64, u64) {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish128().as_u64()
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder is less than its divisor, which fits")]
fn remainder(number: u64, divisor: usize) -> usize {
    (number % divisor as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(4093).unwrap();

    fn identities(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("172.16.60.{number}:6443")).collect()
    }

    /// The identity of each slot's member.
    fn owners<'a>(members: &[(&'a str, u32)], size: Size) -> Vec<&'a str> {
        let list: Vec<_> = members
            .iter()
            .map(|(name, weight)| Member { identity: name.as_bytes(), weight: *weight })
            .collect();
        table(&list, size).into_iter().map(|member| members[member].0).collect()
    }

    fn equal(names: &[String]) -> Vec<(&str, u32)> {
        names.iter().map(|name| (name.as_str(), 1)).collect()
    }

    #[test]
    fn a_size_is_a_prime() {
        let primes: Vec<_> = (0..50).filter_map(Size::new).map(Size::slots).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
        assert_eq!([1021, 4093, 16_381, 65_537].map(|slots| Size::new(slots).is_some()), [true; 4]);
        assert_eq!(Size::new(16_383), None);
    }

    #[test]
    fn every_node_makes_the_same_table() {
        let table = owners(&[("m1", 1), ("m2", 2), ("m3", 1)], Size::new(13).unwrap());
        assert_eq!(table.join(" "), "m2 m3 m3 m2 m2 m1 m1 m2 m2 m3 m2 m2 m1");
        let keys = [&[172, 16, 60, 1][..], &[172, 16, 60, 2], b"", b"m1"];
        assert_eq!(keys.map(|key| slot(key, SIZE)), [2960, 3082, 408, 1625]);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let names = identities(7);
        let mut members: Vec<_> =
            names.iter().zip(1..).map(|(name, weight)| (name.as_str(), weight)).collect();
        let expected = owners(&members, SIZE);
        for _ in 0..members.len() {
            members.rotate_left(1);
            assert_eq!(owners(&members, SIZE), expected);
        }
        members.reverse();
        assert_eq!(owners(&members, SIZE), expected);
    }

    #[test]
    fn shares_follow_weights() {
        let cases: [&[(&str, u32)]; 6] = [
            &[("a", 1)],
            &[("a", 1), ("b", 1), ("c", 1)],
            &[("a", 1), ("b", 2), ("c", 3)],
            &[("a", 256), ("b", 1)],
            &[("a", 0), ("b", 5), ("c", 7)],
            &[("a", u32::MAX), ("b", u32::MAX)],
        ];
        for members in cases {
            let owners = owners(members, SIZE);
            assert_eq!(owners.len(), SIZE.slots());
            let sum: usize = members.iter().map(|(_, weight)| *weight as usize).sum();
            for (name, weight) in members {
                let found = owners.iter().filter(|owner| *owner == name).count();
                let fair = SIZE.slots() * *weight as usize;
                // In fractions of a slot, as many as there are weights.
                assert!((found * sum).abs_diff(fair) <= sum, "{name} has {found} slots of {members:?}");
            }
        }
    }

    #[test]
    fn shares_are_even_for_many() {
        let names = identities(64);
        let owners = owners(&equal(&names), Size::new(16_381).unwrap());
        for name in &names {
            let found = owners.iter().filter(|owner| **owner == name).count();
            assert!((255..=257).contains(&found), "{name} has {found} of 256");
        }
    }

    #[test]
    fn without_weight_there_is_no_table() {
        assert_eq!(table(&[], SIZE), [0; 0]);
        assert_eq!(table(&[Member { identity: b"a", weight: 0 }], SIZE), [0; 0]);
    }

    #[test]
    fn who_goes_takes_hardly_anybody_along() {
        for count in [3, 5, 10, 50] {
            let names = identities(count);
            let before = owners(&equal(&names), SIZE);
            for gone in 0..count {
                let mut left = names.clone();
                let gone = left.remove(gone);
                let after = owners(&equal(&left), SIZE);
                let moved =
                    before.iter().zip(&after).filter(|(old, new)| **old != gone && old != new).count();
                let percent = 100 * moved / SIZE.slots();
                assert!(
                    percent < 5,
                    "{percent} % of the slots moved without need when {gone} of {count} went"
                );
            }
        }
    }

    #[test]
    fn keys_are_spread_over_all_slots() {
        let mut used = vec![0_u32; 251];
        for client in 0..=u16::MAX {
            used[slot(&client.to_be_bytes(), Size::new(251).unwrap())] += 1;
        }
        // 261 each on average; a standard deviation is 16.
        assert!(used.iter().all(|count| (180..350).contains(count)), "{used:?}");
    }
}
