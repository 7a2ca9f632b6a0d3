use plan::Observed;
use proptest::prelude::*;

use super::*;
use crate::ebpf::simulation::{Kernel, changes};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_process_killed_between_two_writes_leaves_what_can_be_made_whole(
        changes in changes(),
        killed_after in 0..8_usize,
    ) {
        let (kernel, mut mirror) = (Kernel::default(), Mirror::default());
        for change in changes {
            let writes = mirror.writes(&change).unwrap();
            let killed = Kernel::holding(kernel.found());
            killed.write_all(writes.iter().take(killed_after).cloned());
            let (repaired, repairs) = repair(&killed.found());
            let before = mirror.observed();
            killed.write_all(repairs);
            prop_assert_eq!(repair(&killed.found()).1, vec![], "whole after one repair");
            prop_assert!(is_whole(&killed.found()), "{:?}", killed.found());

            kernel.write_all(writes);
            mirror.advance(&change);
            let (kept, after) = (repaired.observed(), mirror.observed());
            prop_assert!(
                agree(&kept, &before, &before, &after) || agree(&kept, &after, &before, &after),
                "{change}: {kept:?}"
            );
        }
    }
}

/// Whether `kept` is `expected`. From one restriction of sources to another, clients of both are served for a moment.
fn agree(kept: &Observed, expected: &Observed, before: &Observed, after: &Observed) -> bool {
    let mut kept = kept.clone();
    for (frontend, service) in &mut kept.services {
        let ranges = |observed: &Observed| observed.services.get(frontend)?.rules.source_ranges.clone();
        if let (Some(found), Some(old), Some(new), Some(expected)) =
            (&mut service.rules.source_ranges, ranges(before), ranges(after), ranges(expected))
            && found.is_subset(&(&old | &new))
            && (&old & &new).is_subset(found)
        {
            *found = expected;
        }
    }
    kept == *expected
}

/// Every service has as many slots as it says, and every backend is in exactly one.
fn is_whole(found: &Found) -> bool {
    let promised: u32 = found.services.values().map(|service| service.slots).sum();
    let holders: BTreeSet<_> = found.slots.values().collect();
    promised as usize == found.slots.len()
        && holders.len() == found.slots.len()
        && holders == found.backends.keys().collect()
}

#[test]
fn what_nobody_wrote_is_removed() {
    let kernel = Kernel::default();
    let stranger = ServiceKey {
        address: Address::from_octets([7; 16]),
        port: ebpf_abi::Port::from_number(0),
        protocol: 6,
        audience: ebpf_abi::Audience::EVERYONE,
    };
    kernel.write(Write::PutService(
        stranger,
        Service { id: ServiceId(9), slots: 3, rules: ebpf_abi::Rules::default() },
    ));
    kernel.write(Write::PutExclusive(stranger.address));
    kernel.write(Write::PutSlot(SlotKey { service: ServiceId(9), slot: 0 }, BackendId(4)));
    kernel.write(Write::PutTurn(ServiceId(9)));
    let backend = "10.244.0.1:80".parse().map(|address: std::net::SocketAddr| {
        plan::Backend::new(address.ip(), plan::Port::new(address.port()).unwrap())
    });
    kernel.write(Write::PutMember(encode::member_key(backend.unwrap(), ServiceId(9)), BackendId(4)));
    kernel.write(Write::PutMaglev(ServiceId(9), Arc::new(encode::maglev_table(&[]))));
    let network = encode::source_network("10.0.0.0/8".parse().unwrap(), ServiceId(9));
    kernel.write(Write::PutSourceNetwork(network));
    kernel.write(Write::PutSourceNetwork(SourceNetwork { prefix: 7, ..network }));
    let (mirror, repairs) = repair(&kernel.found());
    assert_eq!(mirror.observed(), Observed::default());
    kernel.write_all(repairs);
    assert_eq!(kernel.found(), Found::default());
}

#[test]
fn identifiers_continue_after_all_that_were_seen() {
    let next = |found: &Found| first_free(found);
    assert_eq!(next(&Found::default()), 1);
    let reserved = Found { turns: BTreeMap::from([(NO_SERVICE, Turn(2048))]), ..Found::default() };
    assert_eq!(next(&reserved), 2048);
    let seen = Found {
        slots: BTreeMap::from([(SlotKey { service: ServiceId(3), slot: 0 }, BackendId(4096))]),
        ..reserved.clone()
    };
    assert_eq!(next(&seen), 4097);
}
