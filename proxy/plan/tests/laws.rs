//! The laws that the steps of `diff` obey, whatever is found and whatever is wanted.
//!
//! 1. *Arrival*: the steps lead from what is found to what is wanted.
//! 2. *Rest*: where nothing is to be done, nothing is done.
//! 3. *No hole*: at no moment is a client without a backend that has one before and after. Nor does a frontend refuse
//!    meanwhile that dropped before and after, or the other way round.
//! 4. *Determinism*: equal input, equal steps, however it came about.
//! 5. *Modesty*: nothing outside of the scope is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use std::time::Duration;

use ipnet::IpNet;
use plan::{
    Affinity, AffinityGroup, Audience, Backend, Change, Forwarding, Frontend, Masquerade, Observed,
    ObservedBackend, ObservedService, Packet, Port, Protocol, Rules, Scheduler, Scope, Service, Source,
    Verdict, Weight, WhenEmpty, diff, diff_frontend, trace,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn arrival(observed in observed(), desired in forwarding(), scope in scope()) {
        let after = applied(&observed, &diff(&observed, &desired, &scope));
        prop_assert_eq!(within(&after.forwarding(), &scope), within(&desired, &scope));
    }

    #[test]
    fn rest(desired in forwarding(), scope in scope()) {
        let observed = applied(&Observed::default(), &diff(&Observed::default(), &desired, &Scope::everything()));
        prop_assert_eq!(diff(&observed, &desired, &scope), vec![]);
    }

    #[test]
    fn rest_after_arrival(observed in observed(), desired in forwarding(), scope in scope()) {
        let after = applied(&observed, &diff(&observed, &desired, &scope));
        prop_assert_eq!(diff(&after, &desired, &scope), vec![]);
    }

    #[test]
    fn no_hole(observed in sound(observed()), desired in sound(forwarding()), scope in scope()) {
        let changes = diff(&observed, &desired, &scope);
        let before = observed.forwarding();
        let after = applied(&observed, &changes).forwarding();
        let mut whole = packets(before.keys().chain(after.keys()));
        whole.retain(|packet| [&before, &after].iter().all(|plan| fate(plan, *packet) == "a backend"));
        for count in 0..=changes.len() {
            let now = applied(&observed, &changes[..count]).forwarding();
            for packet in &whole {
                prop_assert_eq!(fate(&now, *packet), "a backend", "{:?} after {:?}", packet, &changes[..count]);
            }
        }
    }

    #[test]
    fn a_frontend_treats_its_clients_as_before_or_as_after(before in found_service(), after in service(), of in frontend()) {
        let found = Observed { services: [(of, before.clone())].into() };
        let changes = diff_frontend(of, Some(&before), Some(&after));
        let same_ranges = before.rules.source_ranges == after.rules.source_ranges;
        for packet in packets([of].iter()) {
            let possible = [found.forwarding(), [(of, after.clone())].into()].map(|plan| fate(&plan, packet));
            for count in 0..=changes.len() {
                let now = fate(&applied(&found, &changes[..count]).forwarding(), packet);
                let as_before_or_after = possible.contains(&now);
                prop_assert!(as_before_or_after || !same_ranges, "{packet:?} meets {now} after {:?}", &changes[..count]);
                let stranger = now == "a backend" && !as_before_or_after && !after.rules.admits(packet.sender);
                prop_assert!(!stranger, "{packet:?} gets in after {:?}", &changes[..count]);
            }
        }
    }

    #[test]
    fn a_service_appears_whole_and_its_rules_change_in_place(observed in observed(), desired in forwarding()) {
        for (frontend, service) in &desired {
            let steps = diff_frontend(*frontend, None, Some(service));
            prop_assert_eq!(steps, vec![Change::AddService { frontend: *frontend, service: service.clone() }]);
        }
        for change in diff(&observed, &desired, &Scope::everything()) {
            if let Change::SetRules { frontend, rules } = change {
                prop_assert_ne!(&observed.services[&frontend].rules, &rules);
                prop_assert_eq!(&desired[&frontend].rules, &rules);
            }
        }
    }

    #[test]
    fn determinism((found, wanted) in (vec(found_backend(), 0..24), vec(wanted_backend(), 0..24)), scope in scope()) {
        let (mut found_later, mut wanted_later) = (first_of_each(&found), first_of_each(&wanted));
        let steps = diff(&gathered(&found_later), &planned(&wanted_later), &scope);
        found_later.reverse();
        wanted_later.reverse();
        prop_assert_eq!(diff(&gathered(&found_later), &planned(&wanted_later), &scope), steps);
    }

    #[test]
    fn the_whole_is_the_sum_of_its_frontends(observed in observed(), desired in forwarding(), scope in scope()) {
        let frontends: BTreeSet<_> = observed.services.keys().chain(desired.keys()).collect();
        let steps: Vec<_> = frontends
            .into_iter()
            .filter(|frontend| scope.contains(**frontend))
            .flat_map(|frontend| diff_frontend(*frontend, observed.services.get(frontend), desired.get(frontend)))
            .collect();
        prop_assert_eq!(diff(&observed, &desired, &scope), steps);
    }

    #[test]
    fn modesty(observed in observed(), desired in forwarding(), scope in scope()) {
        let changes = diff(&observed, &desired, &scope);
        for change in &changes {
            prop_assert!(scope.contains(change.frontend()), "{change}");
        }
        let outside = |found: &Observed| -> BTreeMap<_, _> {
            let foreign = found.services.iter().filter(|(frontend, _)| !scope.contains(**frontend));
            foreign.map(|(frontend, service)| (*frontend, service.clone())).collect()
        };
        prop_assert_eq!(outside(&applied(&observed, &changes)), outside(&observed));
    }

    #[test]
    fn connections_outlive_their_backend_in_the_plan(observed in observed(), desired in forwarding()) {
        let after = applied(&observed, &diff(&observed, &desired, &Scope::everything()));
        for (frontend, service) in &observed.services {
            let Some(wanted) = desired.get(frontend) else { continue };
            for (backend, found) in &service.backends {
                let kept = after.services[frontend].backends.get(backend);
                if let Some(&weight) = wanted.backends.get(backend) {
                    prop_assert_eq!(kept, Some(&ObservedBackend { weight, draining: false, overdue: false, ..*found }));
                } else if frontend.protocol() != Protocol::Udp && found.connections > 0 && !found.overdue {
                    prop_assert_eq!(kept, Some(&ObservedBackend { draining: true, ..*found }));
                } else {
                    prop_assert_eq!(kept, None);
                }
            }
        }
    }
}

fn applied(observed: &Observed, changes: &[Change]) -> Observed {
    let mut observed = observed.clone();
    for change in changes {
        observed.advance(change);
    }
    observed
}

/// Everything a client may send to these addresses.
fn packets<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> Vec<Packet> {
    let frontends: BTreeSet<_> = frontends.collect();
    let packets = frontends.into_iter().flat_map(|frontend| {
        [Source::Pod, Source::Node, Source::Outside].map(|source| Packet {
            source,
            sender: [10, 254, 0, 1].into(),
            destination: frontend.address(),
            port: frontend.port(),
            protocol: frontend.protocol(),
        })
    });
    packets.collect()
}

fn fate(plan: &Forwarding, packet: Packet) -> &'static str {
    match trace(plan, packet) {
        Verdict::Pass => "the network",
        Verdict::Refuse => "a refusal",
        Verdict::Drop => "silence",
        Verdict::Forward { .. } => "a backend",
    }
}

fn within(plan: &Forwarding, scope: &Scope) -> Forwarding {
    let owned = plan.iter().filter(|(frontend, _)| scope.contains(**frontend));
    owned.map(|(frontend, service)| (*frontend, service.clone())).collect()
}

// Few addresses, ports and backends, so that what is found and what is wanted meet often.

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3_u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 254, 0, last))),
        (0..2_u16).prop_map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    (1..3_u16).prop_filter_map("port 0", Port::new)
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (address(), port(), protocol, any::<bool>()).prop_map(|(address, port, protocol, outside)| {
        let frontend = Frontend::new(address, port, protocol);
        if outside { frontend.for_outside() } else { frontend }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let affinity = (0..2_u64, 1..3_u64).prop_map(|(group, seconds)| Affinity {
        group: AffinityGroup(group),
        timeout: Duration::from_secs(seconds),
    });
    let ranges: [BTreeSet<IpNet>; 2] = [["10.254.0.0/31"], ["192.0.2.0/24"]]
        .map(|texts| texts.iter().filter_map(|text| text.parse().ok()).collect());
    (
        prop::sample::select(vec![WhenEmpty::Refuse, WhenEmpty::Drop]),
        prop::sample::select(Scheduler::ALL.to_vec()),
        prop::option::of(affinity),
        prop::sample::select(vec![Masquerade::Never, Masquerade::FromOutsidePods, Masquerade::Always]),
        prop::option::weighted(0.2, prop::sample::select(ranges.to_vec())),
        any::<bool>(),
    )
        .prop_map(|(when_empty, scheduler, affinity, masquerade, source_ranges, exclusive)| Rules {
            when_empty,
            scheduler,
            affinity,
            masquerade,
            source_ranges,
            exclusive,
        })
}

fn backend() -> impl Strategy<Value = Backend> {
    (address(), port()).prop_map(|(address, port)| Backend::new(address, port))
}

fn weight() -> impl Strategy<Value = Weight> {
    (1..4_u16).prop_filter_map("weight 0", Weight::new)
}

fn observed_backend() -> impl Strategy<Value = ObservedBackend> {
    // Not draining, draining, and for too long.
    (weight(), 0..3_u8, 0..3_u64).prop_map(|(weight, stage, connections)| ObservedBackend {
        weight,
        draining: stage > 0,
        connections,
        overdue: stage > 1,
    })
}

fn found_service() -> impl Strategy<Value = ObservedService> {
    (rules(), btree_map(backend(), observed_backend(), 0..5))
        .prop_map(|(rules, backends)| ObservedService { rules, backends })
}

fn service() -> impl Strategy<Value = Service> {
    (rules(), btree_map(backend(), weight(), 0..5)).prop_map(|(rules, backends)| Service { rules, backends })
}

fn observed() -> impl Strategy<Value = Observed> {
    btree_map(frontend(), found_service(), 0..6).prop_map(|services| Observed { services })
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    btree_map(frontend(), service(), 0..6)
}

/// Plans in which a frontend for outside stands beside one for everyone, that has a backend if it has one itself and
/// admits the same clients.
trait Sound {
    fn make_sound(&mut self);
}

impl Sound for Forwarding {
    fn make_sound(&mut self) {
        for (frontend, service) in self.clone() {
            if frontend.audience() == Audience::Outside {
                let everyone = Frontend::new(frontend.address(), frontend.port(), frontend.protocol());
                let everyone = self.entry(everyone).or_default();
                everyone.rules.source_ranges = service.rules.source_ranges;
                everyone.backends.extend(service.backends);
            }
        }
    }
}

impl Sound for Observed {
    fn make_sound(&mut self) {
        for (frontend, service) in self.services.clone() {
            if frontend.audience() == Audience::Outside {
                let everyone = Frontend::new(frontend.address(), frontend.port(), frontend.protocol());
                let everyone = self.services.entry(everyone).or_default();
                everyone.rules.source_ranges = service.rules.source_ranges;
                everyone.backends.extend(service.backends);
            }
        }
    }
}

fn sound<T: Sound + std::fmt::Debug>(plan: impl Strategy<Value = T>) -> impl Strategy<Value = T> {
    plan.prop_map(|mut plan| {
        plan.make_sound();
        plan
    })
}

fn scope() -> impl Strategy<Value = Scope> {
    const NETWORKS: [&str; 5] = ["10.254.0.0/31", "10.254.0.2/32", "fd00::/64", "fd00::1/128", "0.0.0.0/0"];
    let network = prop::sample::select(&NETWORKS[..]).prop_filter_map("no network", |text| text.parse().ok());
    prop_oneof![
        Just(Scope::everything()),
        btree_set(address(), 0..3).prop_map(Scope::Only),
        vec(network, 0..3).prop_map(Scope::AllBut),
    ]
}

type Found = (Frontend, Backend, ObservedBackend);
type Wanted = (Frontend, Backend, Weight);

fn found_backend() -> impl Strategy<Value = Found> {
    (frontend(), backend(), observed_backend())
}

fn wanted_backend() -> impl Strategy<Value = Wanted> {
    (frontend(), backend(), weight())
}

/// One entry per key, so that the order of insertion says nothing.
fn first_of_each<T: Copy>(entries: &[(Frontend, Backend, T)]) -> Vec<(Frontend, Backend, T)> {
    let mut seen = BTreeSet::new();
    entries.iter().filter(|(frontend, backend, _)| seen.insert((*frontend, *backend))).copied().collect()
}

fn gathered(entries: &[Found]) -> Observed {
    let mut observed = Observed::default();
    for (frontend, backend, found) in entries {
        observed.services.entry(*frontend).or_default().backends.insert(*backend, *found);
    }
    observed
}

fn planned(entries: &[Wanted]) -> Forwarding {
    let mut plan = Forwarding::new();
    for (frontend, backend, weight) in entries {
        plan.entry(*frontend).or_default().backends.insert(*backend, *weight);
    }
    plan
}
