use std::collections::BTreeSet;

use plan::{Forwarding, Weight};
use proptest::prelude::*;

use super::*;
use crate::ebpf::repair::repair;
use crate::ebpf::simulation::{Kernel, changes};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_client_finds_a_backend_between_any_two_writes(changes in changes()) {
        let (kernel, mut mirror) = (Kernel::default(), Mirror::default());
        for change in changes {
            let before = mirror.observed().forwarding();
            let after = after(&mirror, &change);
            for write in mirror.writes(&change).unwrap() {
                kernel.write(write);
                for (frontend, possible) in possible(&before, &after) {
                    for _ in 0..6 {
                        let met = kernel.connect(frontend);
                        prop_assert!(met.is_some_and(|met| possible.contains(&met)), "{met:?} within {change}");
                    }
                }
            }
            mirror.advance(&change);
        }
    }

    #[test]
    fn a_client_finds_a_backend_while_it_is_overtaken_by_writes(
        changes in changes(),
        pauses in proptest::collection::vec(0..4_usize, 0..12),
    ) {
        let (kernel, mut mirror) = (Kernel::default(), Mirror::default());
        for change in changes {
            let (before, after) = (mirror.observed().forwarding(), after(&mirror, &change));
            let writes = mirror.writes(&change).unwrap();
            match possible(&before, &after).into_iter().find(|(frontend, _)| *frontend == change.frontend()) {
                Some((frontend, possible)) => {
                    let met = kernel.connect_during(&writes, &pauses, frontend);
                    prop_assert!(met.is_some_and(|met| possible.contains(&met)), "{met:?} within {change}");
                }
                None => kernel.write_all(writes),
            }
            mirror.advance(&change);
        }
    }

    #[test]
    fn the_mirror_shows_what_the_maps_hold(changes in changes()) {
        let (kernel, mut mirror) = (Kernel::default(), Mirror::default());
        let mut expected = Observed::default();
        for change in changes {
            kernel.write_all(mirror.writes(&change).unwrap());
            mirror.advance(&change);
            expected.advance(&change);
            let (found, repairs) = repair(&kernel.found());
            prop_assert_eq!(&found.services, &mirror.services, "after {}", change);
            prop_assert_eq!(repairs, vec![]);
            prop_assert_eq!(mirror.observed().forwarding(), expected.forwarding());
        }
    }

    #[test]
    fn no_identifier_is_given_out_twice(changes in changes()) {
        let (kernel, mut mirror) = (Kernel::default(), Mirror::default());
        let mut given = BTreeSet::new();
        for (number, change) in changes.into_iter().enumerate() {
            for write in mirror.writes(&change).unwrap() {
                let id = match write {
                    Write::PutTurn(id) => Some(id.0),
                    Write::PutBackend(id, _) => Some(id.0),
                    Write::Reserve(_) | Write::PutLoad(_) | Write::DropLoad(_) | Write::DropTurn(_) | Write::PutService(..) | Write::DropService(_)
                    | Write::PutExclusive(_) | Write::DropExclusive(_) | Write::DropBackend(_) | Write::PutSlot(..) | Write::DropSlot(_) | Write::PutMember(..)
                    | Write::DropMember(_) | Write::PutMaglev(..) | Write::DropMaglev(_)
                    | Write::PutSourceNetwork(_) | Write::DropSourceNetwork(_) => None,
                };
                prop_assert!(id.is_none_or(|id| id != 0 && given.insert(id)), "{id:?} again");
                kernel.write(write);
            }
            mirror.advance(&change);
            // Every now and then another process takes over.
            if number % 7 == 0 {
                (mirror, _) = repair(&kernel.found());
            }
        }
    }
}

#[test]
fn an_address_is_kept_to_services_as_long_as_one_of_them_wants_it() {
    let address = [10, 254, 0, 1].into();
    let [first, second] =
        [plan::Protocol::Tcp, plan::Protocol::Udp].map(|protocol| Frontend::new(address, port(), protocol));
    let exclusive = || plan::Rules { exclusive: true, ..plan::Rules::default() };
    let service = || plan::Service { rules: exclusive(), ..plan::Service::default() };
    let add = |frontend| Change::AddService { frontend, service: service() };
    let rules = |frontend, rules| Change::SetRules { frontend, rules };
    let (put, drop) =
        (Write::PutExclusive(encode::address(address)), Write::DropExclusive(encode::address(address)));
    let mut mirror = Mirror::default();
    for (change, expected) in [
        (add(first), Some(&put)),
        (add(second), None),
        (Change::RemoveService { frontend: first }, None),
        (rules(second, plan::Rules::default()), Some(&drop)),
        (rules(second, exclusive()), Some(&put)),
        (Change::RemoveService { frontend: second }, Some(&drop)),
    ] {
        let writes = mirror.writes(&change).unwrap();
        let found =
            writes.iter().find(|write| matches!(write, Write::PutExclusive(_) | Write::DropExclusive(_)));
        assert_eq!(found, expected, "{change}");
        mirror.advance(&change);
    }
}

#[test]
fn a_change_writes_as_much_in_a_large_map_as_in_a_small_one() {
    let frontend = |last| Frontend::new([10, 254, 0, last].into(), port(), plan::Protocol::Tcp);
    let backend = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Backend::new([10, 244, high, low].into(), port())
    };
    let mut mirror = Mirror::default();
    mirror.advance(&add(frontend(1), &[]));
    for number in 0..10_000 {
        mirror.advance(&Change::AddBackend {
            frontend: frontend(1),
            backend: backend(number),
            weight: Weight::ONE,
        });
    }
    let steps = |change| mirror.writes(&change).unwrap().len();
    assert_eq!(
        steps(Change::AddBackend { frontend: frontend(1), backend: backend(10_000), weight: Weight::ONE }),
        3
    );
    assert_eq!(steps(Change::RemoveBackend { frontend: frontend(1), backend: backend(5_000) }), 4);
    assert_eq!(steps(add(frontend(2), &[])), 2);
    assert_eq!(steps(add(frontend(2), &[backend(1), backend(2)])), 6);
}

#[test]
fn no_identifier_is_used_before_it_is_reserved() {
    let frontend = Frontend::new([10, 254, 0, 1].into(), port(), plan::Protocol::Tcp);
    let mut mirror = Mirror::default();
    let mut reserved = 0;
    for number in 0..5000_u16 {
        let [high, low] = number.to_be_bytes();
        let backend = Backend::new([10, 244, high, low].into(), port());
        for change in [add(frontend, &[]), Change::AddBackend { frontend, backend, weight: Weight::ONE }] {
            for write in mirror.writes(&change).unwrap() {
                if let Write::Reserve(first_free) = write {
                    reserved = first_free;
                }
                if let Write::PutBackend(id, _) = write {
                    assert!(id.0 < reserved, "{id:?} with {reserved} reserved");
                }
            }
            mirror.advance(&change);
        }
    }
}

#[test]
fn when_identifiers_run_out_nothing_is_written() {
    let mirror = Mirror::new(BTreeMap::new(), Identifiers::from(u32::MAX - 3));
    let frontend = Frontend::new([10, 254, 0, 1].into(), port(), plan::Protocol::Tcp);
    assert_eq!(mirror.writes(&add(frontend, &[])), None);
}

fn add(frontend: Frontend, backends: &[Backend]) -> Change {
    Change::AddService { frontend, service: backends.iter().copied().collect() }
}

fn port() -> plan::Port {
    plan::Port::new(443).unwrap()
}

fn after(mirror: &Mirror, change: &Change) -> Forwarding {
    let mut after = mirror.clone();
    after.advance(change);
    after.observed().forwarding()
}

/// The frontends with a backend before and after, and the backends a client of each may meet meanwhile.
fn possible(before: &Forwarding, after: &Forwarding) -> Vec<(Frontend, BTreeSet<Backend>)> {
    let lives = before.iter().filter_map(|(frontend, before)| {
        let after = after.get(frontend)?;
        let whole = !before.backends.is_empty() && !after.backends.is_empty();
        let either = before.backends.keys().chain(after.backends.keys());
        whole.then(|| (*frontend, either.copied().collect()))
    });
    lives.collect()
}
