//! The plan that fairway-proxy makes of a scenario's objects.

use std::collections::{BTreeMap, BTreeSet};

use plan::Forwarding;
use proxy::cluster::{Delta, Name, Refusal, Update, kind};
use proxy::planner::Planner;
use proxy::translate::Settings;
use serde_json::Value;
use tests::scenario::{NODE, Scenario, node};

/// All objects of a kind.
pub(crate) fn listed<T>(objects: Vec<Value>, read: fn(Value) -> Result<Option<T>, Refusal>) -> Delta<T> {
    let mut found = BTreeMap::new();
    for object in objects {
        let name: Name =
            kind::name(&object).unwrap_or_else(|refusal| panic!("a nameless object of the table: {refusal}"));
        let read = read(object).unwrap_or_else(|refusal| panic!("{name} of the table: {refusal}"));
        if let Some(object) = read {
            found.insert(name, object);
        }
    }
    Delta::Listed { objects: found, refused: BTreeSet::new() }
}

/// One on the node of the table, which tells its pods from others.
pub(crate) fn planner() -> Planner {
    let mut planner = Planner::new(NODE, Settings { detects_local: true, ..Settings::default() });
    planner.update(Update::Node(listed(vec![node()], kind::node)));
    planner
}

/// The plan for a scenario with these endpoints.
pub(crate) fn planned(planner: &mut Planner, scenario: &Scenario, endpoints: Update) -> Forwarding {
    planner.update(Update::Services(listed(scenario.services.clone(), kind::service)));
    planner.update(endpoints);
    planner.settle();
    planner.forwarding()
}

/// The endpoints of a scenario.
pub(crate) fn slices(scenario: &Scenario) -> Update {
    Update::Slices(listed(scenario.slices(), kind::endpoint_slice))
}
