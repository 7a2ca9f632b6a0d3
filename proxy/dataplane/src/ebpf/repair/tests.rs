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
            killed.write_all(writes.iter().copied().take(killed_after));
            let (repaired, repairs) = repair(&killed.found());
            let before = mirror.observed();
            killed.write_all(repairs);
            prop_assert_eq!(repair(&killed.found()).1, vec![], "whole after one repair");
            prop_assert!(is_whole(&killed.found()), "{:?}", killed.found());

            kernel.write_all(writes);
            mirror.advance(&change);
            let (kept, after) = (repaired.observed(), mirror.observed());
            prop_assert!(kept == before || kept == after, "{change}: {kept:?}");
        }
    }
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
        address: ebpf_abi::Address::from_octets([7; 16]),
        port: ebpf_abi::Port::from_number(0),
        protocol: 6,
        audience: ebpf_abi::Audience::EVERYONE,
    };
    kernel.write(Write::PutService(
        stranger,
        Service { id: ServiceId(9), slots: 3, rules: ebpf_abi::Rules::default() },
    ));
    kernel.write(Write::PutSlot(SlotKey { service: ServiceId(9), slot: 0 }, BackendId(4)));
    kernel.write(Write::PutTurn(ServiceId(9)));
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
