//! Pure work whose instructions are counted: what a proxy does that finds a cluster and an empty kernel.

#![expect(clippy::expect_used, reason = "the inputs are the same every time")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use plan::{Change, Forwarding, Observed, Protocol, Scope, diff};
use proxy::cluster::{
    Delta, Endpoint, EndpointPort, Group, Name, Readiness, Service, ServicePort, Slice, Update,
};
use proxy::planner::Planner;
use proxy::translate::Settings;

use decisions::{PORT, cluster};

const SERVICES: u32 = 1_000;
const ENDPOINTS: u32 = 2;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// Services and endpoints become a plan.
    Planner,
    /// A plan and an empty kernel become changes.
    Diff,
    /// Changes become entries of maps.
    Encoder,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Planner, Self::Diff, Self::Encoder];

    /// As the baseline has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Diff => "diff",
            Self::Encoder => "encoder",
        }
    }

    /// Prepares the inputs and does the work so often: with 0, only what is not to be counted.
    pub fn run(self, times: u32) {
        let desired = cluster(SERVICES, ENDPOINTS);
        let observed = Observed::default();
        match self {
            Self::Planner => {
                let updates = updates(&desired);
                repeat(times, || plan_all(&updates));
            }
            Self::Diff => repeat(times, || diff(&observed, black_box(&desired), &Scope::everything())),
            Self::Encoder => {
                let changes: Vec<Change> = diff(&observed, &desired, &Scope::everything());
                repeat(times, || dataplane::encoded(black_box(&changes)));
            }
        }
    }
}

fn repeat<T>(times: u32, work: impl Fn() -> T) {
    for _ in 0..times {
        black_box(work());
    }
}

fn plan_all(updates: &[Update]) -> usize {
    let mut planner = Planner::new("node", Settings::default());
    for update in updates {
        planner.update(black_box(update).clone());
    }
    let settled = planner.settle();
    black_box(settled);
    planner.forwarding().len()
}

/// What a cluster with this plan tells, as one list of each kind.
fn updates(desired: &Forwarding) -> Vec<Update> {
    let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
    for (number, (frontend, service)) in desired.iter().enumerate() {
        let name = Name::new(Some("default"), &format!("service-{number}"));
        let ports =
            vec![ServicePort { name: "".into(), port: PORT, protocol: Protocol::Tcp, node_port: None }];
        let addresses = [frontend.address()].into();
        services.insert(name.clone(), Service { addresses, ports, ..Service::default() });
        let endpoint = |backend: &plan::Backend| Endpoint {
            readiness: Readiness::Ready,
            address: backend.address(),
            node: None,
            hints: None,
        };
        let group = Group {
            ports: [EndpointPort { name: "".into(), port: PORT, protocol: Protocol::Tcp }].into(),
            endpoints: service.backends.keys().map(endpoint).collect(),
        };
        let slice = Slice { service: name.clone(), groups: vec![group], triggered: None };
        slices.insert(name, slice);
    }
    assert!(u32::try_from(services.len()).expect("a thousand") == SERVICES);
    vec![
        Update::Services(Delta::Listed { objects: services, refused: BTreeSet::new() }),
        Update::Slices(Delta::Listed { objects: slices, refused: BTreeSet::new() }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_does_what_it_says() {
        let desired = cluster(SERVICES, ENDPOINTS);
        assert_eq!(plan_all(&updates(&desired)), 1_000);
        let changes = diff(&Observed::default(), &desired, &Scope::everything());
        assert_eq!(changes.len(), 1_000);
        assert!(dataplane::encoded(&changes) >= 5_000, "a service, two backends and two slots each");
    }
}
