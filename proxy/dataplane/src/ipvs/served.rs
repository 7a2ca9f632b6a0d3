//! What is served, and what that takes beside virtual services: elements of the table, and addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use plan::{Audience, Change, Frontend, Observed, ObservedService, Port, Protocol, Rules};

use super::message::Target;
use super::nftables::{Element, FIRST_MARK, MARKS, Shared};

/// All that is served.
#[derive(Debug, Default)]
pub(super) struct Served {
    services: Observed,
    /// By what IPVS knows the frontends for packets from outside.
    marks: BTreeMap<Frontend, u32>,
    /// Marks that may not be given: these, and somebody else's.
    taken_marks: BTreeSet<u32>,
    last_mark: u32,
    mark_numbers: MarkNumbers,
    /// Addresses of frontends that are on another interface, and so never on ours.
    unbound: BTreeSet<IpAddr>,
    shares: BTreeMap<Shared, u32>,
}

/// What marks may differ in: the bits of a number.
#[derive(Clone, Copy, Debug)]
struct MarkNumbers(u32);

impl Default for MarkNumbers {
    fn default() -> Self {
        Self(!MARKS)
    }
}

/// What the kernel is to be told beside the commands about virtual services, in this order: `first`, `lost`, those
/// commands, `then`, `gained`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Whoever is to be refused is so before there is somebody else to reach.
    pub(super) first: Elements,
    /// Whoever is to be served is so when there is somebody to serve him.
    pub(super) then: Elements,
    /// Addresses that go.
    pub(super) lost: Vec<IpAddr>,
    /// Addresses that come.
    pub(super) gained: Vec<IpAddr>,
}

/// Elements that go and come in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    pub(super) removed: Vec<Element>,
    pub(super) added: Vec<Element>,
}

/// What one frontend takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    is_served: bool,
    own: BTreeSet<Element>,
    shared: BTreeSet<Shared>,
}

impl Served {
    /// What was found. Addresses in `unbound` are on another interface.
    pub(super) fn new(
        services: Observed,
        marks: BTreeMap<Frontend, u32>,
        foreign_marks: BTreeSet<u32>,
        unbound: BTreeSet<IpAddr>,
    ) -> Self {
        let last_mark = marks.values().copied().max().unwrap_or(FIRST_MARK);
        let taken_marks = marks.values().copied().chain(foreign_marks).collect();
        let mut served = Self { services, marks, taken_marks, last_mark, unbound, ..Self::default() };
        let frontends: Vec<Frontend> = served.services.services.keys().copied().collect();
        for frontend in frontends {
            for shared in served.part(frontend).shared {
                *served.shares.entry(shared).or_default() += 1;
            }
        }
        served
    }

    /// The same with as many marks as `other` may give.
    pub(super) fn limited_as(self, other: &Self) -> Self {
        Self { mark_numbers: other.mark_numbers, ..self }
    }

    /// How many frontends for packets from outside it can tell apart.
    pub(super) const fn most_marks(&self) -> u32 {
        self.mark_numbers.0.saturating_add(1)
    }

    /// Can tell apart so many as numbers of so many bits, which are fewer than there are, for tests of what is too much.
    #[cfg(any(test, feature = "contract"))]
    pub(super) const fn limit_marks(&mut self, bits: u32) {
        self.mark_numbers = MarkNumbers((1 << bits) - 1);
    }

    pub(super) fn service(&self, frontend: Frontend) -> Option<&ObservedService> {
        self.services.services.get(&frontend)
    }

    pub(super) fn frontends(&self) -> impl Iterator<Item = Frontend> {
        self.services.services.keys().copied()
    }

    /// Those that come after this one, with their rules.
    pub(super) fn after(&self, frontend: Option<Frontend>) -> impl Iterator<Item = (Frontend, &Rules)> {
        let after = frontend.map_or(Bound::Unbounded, Bound::Excluded);
        let services = self.services.services.range((after, Bound::Unbounded));
        services.map(|(frontend, service)| (*frontend, &service.rules))
    }

    pub(super) const fn marks(&self) -> &BTreeMap<Frontend, u32> {
        &self.marks
    }

    pub(super) fn is_unbound(&self, address: IpAddr) -> bool {
        self.unbound.contains(&address)
    }

    /// Whether a frontend has this address.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        let Some(first) = Port::new(1) else { return false };
        let least = Frontend::new(address, first, Protocol::Tcp);
        self.services.services.range(least..).next().is_some_and(|(found, _)| found.address() == address)
    }

    /// By what IPVS knows this frontend; `None` for one from outside that has no mark.
    pub(super) fn target(&self, frontend: Frontend) -> Option<Target> {
        match frontend.audience() {
            Audience::Everyone => Some(Target::Address(frontend)),
            Audience::Outside => {
                let mark = *self.marks.get(&frontend)?;
                Some(Target::Mark { mark, is_v4: frontend.address().is_ipv4() })
            }
        }
    }

    /// Gives a mark to a frontend that needs one. Marks are not given again before all of them were.
    pub(super) fn give_mark(&mut self, frontend: Frontend) {
        if frontend.audience() == Audience::Everyone || self.marks.contains_key(&frontend) {
            return;
        }
        let numbers = self.mark_numbers.0;
        let next = |mark: u32| FIRST_MARK | (mark.wrapping_add(1) & numbers);
        let first = next(self.last_mark);
        let mut candidates =
            std::iter::successors(Some(first), |mark| Some(next(*mark)).filter(|mark| *mark != first));
        if let Some(mark) = candidates.find(|mark| !self.taken_marks.contains(mark)) {
            self.last_mark = mark;
            self.taken_marks.insert(mark);
            self.marks.insert(frontend, mark);
        }
    }

    /// The address of a frontend to come is on another interface.
    pub(super) fn leave_unbound(&mut self, address: IpAddr) {
        self.unbound.insert(address);
    }

    /// A change is carried out.
    pub(super) fn advance(&mut self, change: &Change) {
        self.services.advance(change);
        let frontend = change.frontend();
        if !self.services.services.contains_key(&frontend)
            && let Some(mark) = self.marks.remove(&frontend)
        {
            self.taken_marks.remove(&mark);
        }
    }

    /// What this frontend takes.
    pub(super) fn part(&self, frontend: Frontend) -> Part {
        let Some(ObservedService { rules, backends }) = self.service(frontend) else {
            return Part::default();
        };
        let is_served = backends.values().any(|found| !found.draining);
        let mut shared: BTreeSet<Shared> =
            backends.keys().map(|backend| Shared::Backend(backend.address())).collect();
        if !self.is_unbound(frontend.address()) {
            shared.insert(Shared::Address(frontend.address()));
        }
        let mark = self.marks.get(&frontend).copied();
        Part { is_served, own: Element::of_service(frontend, rules, is_served, mark), shared }
    }

    /// What became different since these frontends took that.
    pub(super) fn difference(&mut self, before: &BTreeMap<Frontend, Part>) -> Difference {
        let mut difference = Difference::default();
        let mut counts: BTreeMap<Shared, u32> = BTreeMap::new();
        for (frontend, before) in before {
            let after = self.part(*frontend);
            let loosens = after.is_served && !before.is_served;
            let elements = if loosens { &mut difference.then } else { &mut difference.first };
            elements.removed.extend(before.own.difference(&after.own).cloned());
            elements.added.extend(after.own.difference(&before.own).cloned());
            for shared in before.shared.symmetric_difference(&after.shared) {
                let count = self.shares.entry(*shared).or_default();
                counts.entry(*shared).or_insert(*count);
                *count = if after.shared.contains(shared) { *count + 1 } else { count.saturating_sub(1) };
            }
            if !self.has_address(frontend.address()) {
                self.unbound.remove(&frontend.address());
            }
        }
        for (shared, before) in counts {
            let after = self.shares.get(&shared).copied().unwrap_or_default();
            if after == 0 {
                self.shares.remove(&shared);
            }
            match (shared, before, after) {
                (_, 0, 0) | (_, 1.., 1..) => {}
                (Shared::Address(address), 0, _) => {
                    difference.then.added.push(shared.element());
                    difference.gained.push(address);
                }
                (Shared::Address(address), _, 0) => {
                    difference.first.removed.push(shared.element());
                    difference.lost.push(address);
                }
                (Shared::Backend(_), 0, _) => difference.first.added.push(shared.element()),
                (Shared::Backend(_), _, 0) => difference.then.removed.push(shared.element()),
            }
        }
        difference
    }

    /// All elements that there must be.
    pub(super) fn elements(&self) -> BTreeSet<Element> {
        let own = self.frontends().flat_map(|frontend| self.part(frontend).own);
        own.chain(self.shares.keys().map(|shared| shared.element())).collect()
    }

    /// All addresses that must be on our interface.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let address = |shared: &Shared| match shared {
            Shared::Address(address) => Some(*address),
            Shared::Backend(_) => None,
        };
        self.shares.keys().filter_map(address).collect()
    }
}

#[cfg(test)]
mod tests {
    use plan::{Backend, Service, Weight, WhenEmpty};

    use super::*;

    fn frontend(port: u16) -> Frontend {
        Frontend::new([10, 254, 0, 1].into(), Port::new(port).unwrap(), Protocol::Tcp)
    }

    fn backend(last: u8) -> Backend {
        Backend::new([10, 2, 0, last].into(), Port::new(6443).unwrap())
    }

    fn add(frontend: Frontend, backends: &[u8]) -> Change {
        let rules = Rules { when_empty: WhenEmpty::Drop, ..Rules::default() };
        let Service { backends, .. } = backends.iter().map(|last| backend(*last)).collect();
        Change::AddService { frontend, service: Service { rules, backends } }
    }

    fn take(served: &mut Served, changes: &[Change]) -> Difference {
        let before =
            changes.iter().map(|change| (change.frontend(), served.part(change.frontend()))).collect();
        for change in changes {
            served.give_mark(change.frontend());
            served.advance(change);
        }
        served.difference(&before)
    }

    #[test]
    fn what_was_said_step_by_step_is_what_there_must_be() {
        let mut served = Served::default();
        let mut elements = BTreeSet::new();
        let steps = [
            vec![add(frontend(443), &[1, 2]), add(frontend(80), &[1])],
            vec![add(frontend(443).for_outside(), &[])],
            vec![Change::RemoveBackend { frontend: frontend(80), backend: backend(1) }],
            vec![Change::SetRules { frontend: frontend(443), rules: Rules::default() }],
            vec![Change::DrainBackend { frontend: frontend(443), backend: backend(1) }],
            vec![Change::RemoveService { frontend: frontend(443) }, add(frontend(8080), &[2])],
            vec![Change::RemoveService { frontend: frontend(443).for_outside() }],
        ];
        for step in steps {
            let Difference { first, then, .. } = take(&mut served, &step);
            for Elements { removed, added } in [first, then] {
                for element in removed {
                    assert!(elements.remove(&element), "{element:?}");
                }
                for element in added {
                    assert!(elements.insert(element));
                }
            }
            assert_eq!(elements, served.elements(), "{step:?}");
        }
    }

    #[test]
    fn an_address_comes_with_its_first_frontend_and_goes_with_its_last() {
        let mut served = Served::default();
        let address = IpAddr::from([10, 254, 0, 1]);
        assert_eq!(take(&mut served, &[add(frontend(443), &[1])]).gained, [address]);
        assert_eq!(take(&mut served, &[add(frontend(80), &[1])]).gained, Vec::<IpAddr>::new());
        assert_eq!(
            take(&mut served, &[Change::RemoveService { frontend: frontend(443) }]).lost,
            Vec::<IpAddr>::new()
        );
        let moved = [Change::RemoveService { frontend: frontend(80) }, add(frontend(8080), &[1])];
        let Difference { lost, gained, .. } = take(&mut served, &moved);
        assert_eq!((lost, gained), (vec![], vec![]));
        assert_eq!(take(&mut served, &[Change::RemoveService { frontend: frontend(8080) }]).lost, [address]);
    }

    #[test]
    fn an_address_of_the_node_stays_where_it_is() {
        let mut served = Served::default();
        served.leave_unbound([10, 254, 0, 1].into());
        assert_eq!(take(&mut served, &[add(frontend(443), &[1])]).gained, Vec::<IpAddr>::new());
        assert!(served.addresses().is_empty());
        assert_eq!(
            take(&mut served, &[Change::RemoveService { frontend: frontend(443) }]).lost,
            Vec::<IpAddr>::new()
        );
        assert!(!served.is_unbound([10, 254, 0, 1].into()), "it is forgotten with its last frontend");
    }

    #[test]
    fn who_is_to_be_dropped_is_so_first_and_who_is_to_be_served_is_so_last() {
        let mut served = Served::default();
        take(&mut served, &[add(frontend(443), &[])]);
        let comes = take(
            &mut served,
            &[Change::AddBackend { frontend: frontend(443), backend: backend(1), weight: Weight::ONE }],
        );
        assert_eq!((comes.then.removed.len(), comes.then.added.len()), (1, 1));
        let goes =
            take(&mut served, &[Change::RemoveBackend { frontend: frontend(443), backend: backend(1) }]);
        assert_eq!((goes.first.removed.len(), goes.first.added.len()), (1, 1));
    }

    #[test]
    fn marks_are_those_of_nobody_else() {
        let foreign = [FIRST_MARK + 1, FIRST_MARK + 3].into();
        let mut served = Served::new(Observed::default(), BTreeMap::new(), foreign, BTreeSet::new());
        let outside = |port| frontend(port).for_outside();
        take(&mut served, &[add(outside(1), &[]), add(outside(2), &[])]);
        assert_eq!(served.marks().values().copied().collect::<Vec<_>>(), [FIRST_MARK + 2, FIRST_MARK + 4]);
        take(&mut served, &[Change::RemoveService { frontend: outside(1) }, add(outside(3), &[])]);
        assert_eq!(served.marks()[&outside(3)], FIRST_MARK + 5, "no mark is given again at once");
    }

    #[test]
    fn who_comes_when_all_marks_are_given_has_none_until_one_is_back() {
        let mut served = Served::default();
        served.limit_marks(1);
        let outside = |port| frontend(port).for_outside();
        for port in 1..=3 {
            served.give_mark(outside(port));
        }
        let known =
            |served: &Served| (1..=3).map(|port| served.target(outside(port)).is_some()).collect::<Vec<_>>();
        assert_eq!((known(&served), served.most_marks()), (vec![true, true, false], 2));
        take(&mut served, &[add(outside(1), &[])]);
        take(&mut served, &[Change::RemoveService { frontend: outside(1) }]);
        served.give_mark(outside(3));
        assert_eq!(known(&served), [false, true, true]);
    }
}
