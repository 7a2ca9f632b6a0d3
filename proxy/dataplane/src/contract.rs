//! What every [`Dataplane`] must keep, as checks that panic where it does not. For tests.
//!
//! ```no_run
//! # fn open() -> Box<dyn dataplane::Dataplane> { unimplemented!() }
//! dataplane::contract::holds(open);
//! ```

use std::time::Duration;

use plan::{
    Affinity, AffinityGroup, Backend, Change, Forwarding, Frontend, Masquerade, Observed, Port, Protocol,
    Rules, Scheduler, Scope, Service, Weight, WhenEmpty, diff,
};

use crate::{Dataplane, Error};

/// Opens the dataplane under test: the same one every time, as a process does that starts again.
pub trait Open: FnMut() -> Box<dyn Dataplane> {}

impl<F: FnMut() -> Box<dyn Dataplane>> Open for F {}

/// Checks everything that holds for any dataplane. What it forwards at first is removed.
pub fn holds(mut open: impl Open) {
    arrives_and_rests(&mut open);
    takes_a_step_twice(&mut open);
    survives_a_restart(&mut open);
    removes_backends_with_their_service(&mut open);
    gives_a_draining_backend_nothing_new(&mut open);
    keeps_weights_where_it_knows_them(&mut open);
    has_no_effect_on_what_is_not_there(&mut open);
    speaks_for_what_it_supports(&mut open);
}

/// Checks that a dataplane that holds all it can says so, keeps what it has and takes more when there is room. `open`
/// must yield one that holds `services` services, two or more, and `backends` backends, two or more, and not one more.
pub fn holds_when_full(mut open: impl Open, services: u8, backends: u16) {
    keeps_its_backends_when_full(&mut open, backends);
    keeps_its_services_when_full(&mut open, services);
}

fn keeps_its_services_when_full(open: &mut impl Open, services: u8) {
    let mut dataplane = emptied(open);
    let add = |number| add(frontend(number, Protocol::Tcp), []);
    let steps: Vec<Change> = (0..services).map(add).collect();
    must(&mut *dataplane, &steps);
    let fits =
        Change::AddBackend { frontend: frontend(0, Protocol::Tcp), backend: backend(0), weight: Weight::ONE };
    let failures = dataplane.apply(&[add(services), fits, add(services)]);
    let [first, second] = &failures[..] else { panic!("two of the steps are too much: {failures:?}") };
    assert!(matches!(first.error, Error::Full { .. }), "full is said to be full: {:?}", first.error);
    assert_eq!(first.error.to_string(), second.error.to_string(), "a failure leaves nothing behind");
    let gone = Change::RemoveService { frontend: frontend(0, Protocol::Tcp) };
    must(&mut *dataplane, &[gone, add(services)]);
    assert_eq!(observed(&mut *dataplane).services.len(), usize::from(services), "room is used again");
}

fn keeps_its_backends_when_full(open: &mut impl Open, backends: u16) {
    let mut dataplane = emptied(open);
    let (first, second) = (frontend(0, Protocol::Tcp), frontend(1, Protocol::Tcp));
    must(&mut *dataplane, &[add(first, 0..backends - 1), add(second, [])]);
    let add_one =
        |frontend, number| Change::AddBackend { frontend, backend: backend(number), weight: Weight::ONE };
    must(&mut *dataplane, &[add_one(first, backends - 1)]);
    let before = observed(&mut *dataplane);

    // Neither one by one nor with a service: that stays away whole.
    let third = frontend(2, Protocol::Tcp);
    for excess in [add_one(second, 0), add(third, 0..2)] {
        let failures = dataplane.apply(&[excess.clone(), add_one(first, 0)]);
        let [failure] = &failures[..] else { panic!("exactly one step is too much: {failures:?}") };
        assert_eq!(failure.change, excess, "the step that failed is named");
        assert!(matches!(failure.error, Error::Full { .. }), "full is said to be full: {:?}", failure.error);
        assert_eq!(observed(&mut *dataplane), before, "what was there is untouched");
    }

    must(
        &mut *dataplane,
        &[Change::RemoveBackend { frontend: first, backend: backend(1) }, add_one(second, 0)],
    );
    let served = observed(&mut *dataplane).forwarding();
    assert_eq!(served.get(&second), Some(&Service::from_iter([backend(0)])), "room is used again");
}

/// From anything to anything else: what is then observed is what was wanted, and nothing is left to do.
fn arrives_and_rests(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let mut dice = Dice(0x5eed);
    for round in 0..64 {
        let desired = supported(&*dataplane, dice.forwarding());
        let steps = diff(&observed(&mut *dataplane), &desired, &Scope::everything());
        must(&mut *dataplane, &steps);
        let after = observed(&mut *dataplane);
        assert_eq!(after.forwarding(), desired, "round {round}: the steps arrive");
        assert_eq!(diff(&after, &desired, &Scope::everything()), [], "round {round}: and then rest");
    }
}

fn takes_a_step_twice(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let frontend = frontend(0, Protocol::Tcp);
    let masquerading = Rules { masquerade: Masquerade::Always, ..Rules::default() };
    let other = Service { rules: masquerading, ..Service::default() };
    let rules =
        supported(&*dataplane, [(frontend, other)].into()).remove(&frontend).unwrap_or_default().rules;
    for change in [
        add(frontend, [0]),
        Change::AddBackend { frontend, backend: backend(1), weight: Weight::ONE },
        Change::SetRules { frontend, rules },
        Change::RemoveBackend { frontend, backend: backend(0) },
        Change::RemoveService { frontend },
    ] {
        must(&mut *dataplane, std::slice::from_ref(&change));
        let once = observed(&mut *dataplane);
        must(&mut *dataplane, std::slice::from_ref(&change));
        assert_eq!(observed(&mut *dataplane), once, "{change}: a second time changes nothing");
    }
}

fn survives_a_restart(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let desired = supported(&*dataplane, Dice(0xcafe).forwarding());
    let steps = diff(&Observed::default(), &desired, &Scope::everything());
    must(&mut *dataplane, &steps);
    drop(dataplane);
    let mut dataplane = open();
    assert_eq!(observed(&mut *dataplane).forwarding(), desired, "what was forwarded is found again");
    let removed: Vec<Change> =
        desired.keys().map(|frontend| Change::RemoveService { frontend: *frontend }).collect();
    must(&mut *dataplane, &removed);
    assert_eq!(observed(&mut *dataplane), Observed::default(), "and can be changed");
}

fn removes_backends_with_their_service(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let (kept, frontend) = (frontend(0, Protocol::Udp), frontend(2, Protocol::Udp));
    for frontend in [kept, frontend] {
        must(&mut *dataplane, &[add(frontend, 0..2)]);
    }
    must(&mut *dataplane, &[Change::RemoveService { frontend }, add(frontend, [])]);
    let served = observed(&mut *dataplane).forwarding();
    assert_eq!(served.get(&frontend), Some(&Service::default()), "its backends went with it");
    assert_eq!(
        served.get(&kept).map(|service| service.backends.len()),
        Some(2),
        "the same backends of others stay"
    );
}

fn gives_a_draining_backend_nothing_new(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let frontend = frontend(0, Protocol::Tcp);
    let (stays, leaves) = (backend(0), backend(1));
    must(&mut *dataplane, &[add(frontend, 0..2)]);
    must(&mut *dataplane, &[Change::DrainBackend { frontend, backend: leaves }]);
    let drained = observed(&mut *dataplane);
    let taking =
        |observed: &Observed| observed.forwarding().get(&frontend).cloned().unwrap_or_default().backends;
    assert_eq!(
        taking(&drained),
        Service::from_iter([stays]).backends,
        "only the other takes new connections"
    );
    let left = drained.services.get(&frontend).and_then(|service| service.backends.get(&leaves));
    assert!(left.is_none_or(|found| found.draining), "it is gone, or known to be draining");
    must(&mut *dataplane, &[Change::AddBackend { frontend, backend: leaves, weight: Weight::ONE }]);
    let both = Service::from_iter([stays, leaves]).backends;
    assert_eq!(taking(&observed(&mut *dataplane)), both, "it can come back");
}

/// One that drained has its own weight back at once. Who knows no weights says so, and is asked for none.
fn keeps_weights_where_it_knows_them(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let frontend = frontend(0, Protocol::Tcp);
    let weighted = |weights: [u16; 2]| {
        let weights = weights.map(|weight| Weight::new(weight).unwrap_or_default());
        let rules = Rules { scheduler: Scheduler::WeightedRoundRobin, ..Rules::default() };
        Service { rules, backends: (0..).map(backend).zip(weights).collect() }
    };
    let service = weighted([3, 1]);
    if dataplane.supports(frontend, &service).is_err() {
        return;
    }
    must(&mut *dataplane, &[Change::AddService { frontend, service: service.clone() }]);
    let served = |dataplane: &mut dyn Dataplane| observed(dataplane).forwarding().remove(&frontend);
    assert_eq!(served(&mut *dataplane), Some(service.clone()));
    let add = |number: u16, weight: u16| Change::AddBackend {
        frontend,
        backend: backend(number),
        weight: Weight::new(weight).unwrap_or_default(),
    };
    must(&mut *dataplane, &[add(1, u16::MAX)]);
    assert_eq!(served(&mut *dataplane), Some(weighted([3, u16::MAX])), "a weight changes in place");
    must(&mut *dataplane, &[Change::DrainBackend { frontend, backend: backend(0) }, add(0, 3), add(1, 1)]);
    assert_eq!(served(&mut *dataplane), Some(service), "one that is back has its own weight");
}

fn has_no_effect_on_what_is_not_there(open: &mut impl Open) {
    let mut dataplane = emptied(open);
    let (frontend, absent) = (frontend(0, Protocol::Tcp), frontend(1, Protocol::Tcp));
    must(&mut *dataplane, &[add(frontend, [0])]);
    let before = observed(&mut *dataplane);
    must(
        &mut *dataplane,
        &[
            Change::RemoveBackend { frontend, backend: backend(1) },
            Change::DrainBackend { frontend, backend: backend(1) },
            Change::AddBackend { frontend: absent, backend: backend(1), weight: Weight::ONE },
            Change::RemoveBackend { frontend: absent, backend: backend(0) },
            Change::SetRules { frontend: absent, rules: Rules::default() },
            Change::RemoveService { frontend: absent },
            add(frontend, [1]),
        ],
    );
    assert_eq!(observed(&mut *dataplane), before);
}

fn speaks_for_what_it_supports(open: &mut impl Open) {
    let dataplane = open();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let frontend = frontend(0, protocol);
        assert!(
            dataplane.supports(frontend, &Service::default()).is_ok(),
            "{frontend}: every dataplane serves it"
        );
    }
}

/// The part of a plan that a dataplane says it can serve.
fn supported(dataplane: &dyn Dataplane, mut plan: Forwarding) -> Forwarding {
    plan.retain(|frontend, service| dataplane.supports(*frontend, service).is_ok());
    plan
}

fn emptied(open: &mut impl Open) -> Box<dyn Dataplane> {
    let mut dataplane = open();
    let found = observed(&mut *dataplane);
    must(&mut *dataplane, &diff(&found, &Forwarding::new(), &Scope::everything()));
    assert_eq!(observed(&mut *dataplane), Observed::default(), "everything can be removed");
    dataplane
}

fn must(dataplane: &mut dyn Dataplane, changes: &[Change]) {
    let failures = dataplane.apply(changes);
    assert!(failures.is_empty(), "every step succeeds: {failures:?}");
}

fn observed(dataplane: &mut dyn Dataplane) -> Observed {
    match dataplane.observe() {
        Ok(observed) => observed,
        Err(error) => panic!("what is there can be read: {error:?}"),
    }
}

/// A new service of backends with these numbers.
fn add(frontend: Frontend, backends: impl IntoIterator<Item = u16>) -> Change {
    Change::AddService { frontend, service: backends.into_iter().map(backend).collect() }
}

fn frontend(number: u8, protocol: Protocol) -> Frontend {
    let address = if number.is_multiple_of(2) {
        [10, 254, 0, number].into()
    } else {
        [0xfd00, 0x254, 0, 0, 0, 0, 0, number.into()].into()
    };
    Frontend::new(address, HTTPS, protocol)
}

fn backend(number: u16) -> Backend {
    let [high, low] = number.to_be_bytes();
    Backend::new([10, 244, high, low].into(), HTTPS)
}

const HTTPS: Port = match Port::new(443) {
    Some(port) => port,
    None => panic!("only 0 is no port"),
};

/// Numbers that look random and are the same in every run (Steele, Lea, Flood: `SplitMix64`).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u8) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [first, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        first % sides
    }

    fn forwarding(&mut self) -> Forwarding {
        (0..self.roll(8)).map(|_| (self.frontend(), self.service())).collect()
    }

    fn frontend(&mut self) -> Frontend {
        let protocol = if self.roll(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
        let frontend = frontend(self.roll(4), protocol);
        if self.roll(4) == 0 { frontend.for_outside() } else { frontend }
    }

    /// Every other one with rules of its own.
    fn service(&mut self) -> Service {
        let rules = if self.roll(2) == 0 { Rules::default() } else { self.rules() };
        let heaviest = if self.roll(4) == 0 { 3 } else { 1 };
        let backends = (0..self.roll(6)).map(|_| {
            let weight = Weight::new(1 + u16::from(self.roll(heaviest))).unwrap_or_default();
            (backend(self.roll(8).into()), weight)
        });
        Service { rules, backends: backends.collect() }
    }

    fn rules(&mut self) -> Rules {
        let affinity = Affinity {
            group: AffinityGroup(self.roll(3).into()),
            timeout: Duration::from_secs(1 + u64::from(self.roll(200))),
        };
        let masquerades = [Masquerade::Never, Masquerade::FromOutsidePods, Masquerade::Always];
        let range = frontend(self.roll(4), Protocol::Tcp).address().into();
        Rules {
            when_empty: if self.roll(3) == 0 { WhenEmpty::Drop } else { WhenEmpty::Refuse },
            scheduler: Scheduler::ALL[usize::from(self.roll(10))],
            affinity: (self.roll(3) == 0).then_some(affinity),
            masquerade: masquerades[usize::from(self.roll(3))],
            source_ranges: (self.roll(3) == 0).then(|| [range].into()),
            exclusive: self.roll(2) == 0,
        }
    }
}
