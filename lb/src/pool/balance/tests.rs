use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::Backends;

/// What a backend has: connections and a share.
type Has = (usize, u32);
type Rule = fn(&mut [Candidate], usize) -> Option<usize>;
/// A name, the rule, the backends, and whom it chooses.
type Case<'a> = (&'a str, Rule, &'a [Option<Has>], &'a [usize]);

/// Candidates with these connections and shares; `None` where a backend may not take any.
fn candidates(backends: &[Option<Has>]) -> Vec<Candidate> {
    let candidate = |(backend, known): (usize, &Option<Has>)| {
        known.map(|(active, share)| Candidate { backend, active, share, credit: 0 })
    };
    backends.iter().enumerate().filter_map(candidate).collect()
}

/// The first choices, the numbers of connections staying as they are.
fn choices(rule: Rule, candidates: &mut [Candidate], count: usize) -> Vec<usize> {
    let mut last = usize::MAX;
    let mut choose = || {
        last = rule(candidates, last)?;
        Some(last)
    };
    (0..count).map_while(|_| choose()).collect()
}

#[test]
fn choice_follows_from_connections_shares_and_turn() {
    let cases: [Case<'_>; 11] = [
        ("each in turn", in_turn, &[Some((9, 1)), Some((0, 1)), Some((5, 1))], &[0, 1, 2, 0, 1, 2]),
        ("the ineligible is passed over", in_turn, &[Some((0, 1)), None, Some((0, 1))], &[0, 2, 0, 2, 0, 2]),
        ("one takes all", in_turn, &[None, None, Some((7, 1))], &[2, 2, 2]),
        ("nobody takes none", in_turn, &[None, None], &[]),
        (
            "as often as the share says, evenly",
            in_turn,
            &[Some((0, 3)), Some((0, 1)), Some((0, 1))],
            &[0, 1, 0, 2, 0, 0, 1, 0, 2, 0],
        ),
        ("fewest first", fewest_connections, &[Some((3, 1)), Some((1, 1)), Some((2, 1))], &[1, 1, 1]),
        ("ties in turn", fewest_connections, &[Some((1, 1)), Some((4, 1)), Some((1, 1))], &[0, 2, 0, 2]),
        ("idle but ineligible", fewest_connections, &[Some((3, 1)), None, Some((3, 1))], &[0, 2, 0, 2]),
        ("nobody has fewest", fewest_connections, &[None], &[]),
        (
            "fewest in relation to the share",
            fewest_connections,
            &[Some((2, 1)), Some((5, 3)), Some((4, 2))],
            &[1, 1, 1],
        ),
        (
            "ties of shares in turn",
            fewest_connections,
            &[Some((0, 1)), Some((0, 3))],
            &[1, 0, 1, 1, 1, 0, 1, 1],
        ),
    ];
    for (name, rule, backends, expected) in cases {
        let found = choices(rule, &mut candidates(backends), expected.len().max(1));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn after_a_change_the_turn_goes_on() {
    for last in 0..3 {
        let mut candidates = candidates(&[Some((0, 1)); 3]);
        assert_eq!(in_turn(&mut candidates, last), Some((last + 1) % 3));
    }
}

/// Shares that add up to a cycle of bounded length.
fn shares() -> impl Strategy<Value = Vec<u32>> {
    vec(1..=20_u32, 1..12)
}

proptest! {
    #[test]
    fn everybody_has_its_share_of_every_cycle(shares in shares(), unit in 1..=100_u32) {
        let cycle: u32 = shares.iter().sum();
        let list: Vec<_> = shares.iter().map(|share| Some((0, share * unit))).collect();
        let mut candidates = candidates(&list);
        let mut last = usize::MAX;
        for _ in 0..3 {
            let mut taken = vec![0; shares.len()];
            for turn in 1..=cycle {
                last = in_turn(&mut candidates, last).unwrap();
                taken[last] += 1;
                for (taken, share) in taken.iter().zip(&shares) {
                    // Never more than one turn ahead or behind.
                    prop_assert!((taken * cycle).abs_diff(share * turn) < 2 * cycle, "{taken} of {share}/{cycle} in {turn}");
                }
            }
            prop_assert_eq!(&taken, &shares);
        }
    }

    #[test]
    fn connections_that_stay_fill_up_by_share(shares in shares(), rounds in 1..=4_u32) {
        let list: Vec<_> = shares.iter().map(|share| Some((0, *share))).collect();
        let mut candidates = candidates(&list);
        let mut last = usize::MAX;
        for _ in 0..rounds * shares.iter().sum::<u32>() {
            last = fewest_connections(&mut candidates, last).unwrap();
            candidates.iter_mut().find(|candidate| candidate.backend == last).unwrap().active += 1;
        }
        for candidate in candidates {
            let fair = candidate.share * rounds;
            prop_assert!(candidate.active.abs_diff(fair as usize) <= 1, "{candidate:?} in {rounds} rounds");
        }
    }

    #[test]
    fn fewest_connections_are_never_exceeded(known in vec(proptest::option::of((0..50_usize, 1..=25_600_u32)), 1..12)) {
        let mut candidates = candidates(&known);
        let all = candidates.clone();
        let chosen = fewest_connections(&mut candidates, 0);
        prop_assert_eq!(chosen.is_none(), all.is_empty());
        if let Some(chosen) = all.iter().find(|candidate| Some(candidate.backend) == chosen) {
            let no_lighter = |other: &Candidate| chosen.active * other.share as usize <= other.active * chosen.share as usize;
            prop_assert!(all.iter().all(no_lighter));
        }
    }
}

#[test]
fn who_is_missing_moves_nobody_elses_clients() {
    let table = HashTable::new(&Backends::numbered(5));
    let all = candidates(&[Some((0, 1)); 5]);
    for missing in 0..5 {
        let left: Vec<_> = all.iter().copied().filter(|candidate| candidate.backend != missing).collect();
        for address in (0..1000).map(|number: u32| number * 4_294_967) {
            let client = IpAddr::V4(Ipv4Addr::from_bits(address));
            let (before, after) = (table.choose(&all, client).unwrap(), table.choose(&left, client).unwrap());
            assert_ne!(after, missing);
            assert!(before == after || before == missing, "{client}");
        }
    }
}

#[test]
fn clients_are_shared_by_weight_and_the_missings_are_spread() {
    let backends = Backends::numbered(4).with(3, |backend| backend.weight = 3);
    let table = HashTable::new(&backends);
    let of = |candidates: &[Candidate]| {
        let mut clients = [0; 4];
        for address in 0..6000 {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + address));
            clients[table.choose(candidates, client).unwrap()] += 1;
        }
        clients
    };
    let mut candidates = candidates(&[Some((0, 1)); 4]);
    let near = |found: i32, fair: i32| (found - fair).abs() < fair / 8;
    let found = of(&candidates);
    assert!(found.iter().zip([1000, 1000, 1000, 3000]).all(|(found, fair)| near(*found, fair)), "{found:?}");
    candidates.pop();
    let found = of(&candidates);
    assert!(
        found.iter().zip([2000, 2000, 2000, 0]).all(|(found, fair)| *found == fair || near(*found, fair)),
        "{found:?}"
    );
}

#[test]
fn every_node_sends_a_client_to_the_same_backend() {
    let backends = Backends::numbered(3);
    let candidates = candidates(&[Some((0, 1)); 3]);
    let table = HashTable::new(&backends);
    let chosen = |client: IpAddr| table.choose(&candidates, client).unwrap();
    let v4 = (1..=8).map(|host| chosen(Ipv4Addr::new(172, 16, 60, host).into()));
    assert_eq!(v4.collect::<Vec<_>>(), [1, 2, 2, 2, 2, 1, 0, 0]);
    let v6 = (1..=8).map(|host| chosen(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into()));
    assert_eq!(v6.collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0, 1, 2]);
    let mapped = Ipv4Addr::new(172, 16, 60, 1);
    assert_eq!(chosen(mapped.into()), chosen(mapped.to_ipv6_mapped().into()));
}

#[test]
fn weight_grows_from_a_tenth_to_the_whole() {
    let cases = [(0, 10), (1, 10), (500, 55), (999, 99), (1000, 100), (5000, 100)];
    for (milliseconds, percent) in cases {
        let risen = Some(Duration::from_millis(milliseconds));
        assert_eq!(share(256, risen, Duration::from_secs(1)), 256 * percent, "{milliseconds}");
    }
    assert_eq!(share(3, None, Duration::from_secs(1)), 300, "it never was away");
    assert_eq!(share(3, Some(Duration::ZERO), Duration::ZERO), 300, "no slow start");
}
