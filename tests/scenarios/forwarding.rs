//! The scenario table, checked on the plan that fairway-proxy makes of each scenario's objects.

use std::collections::{BTreeMap, BTreeSet};

use plan::Forwarding;
use proxy::cluster::{Delta, Name, Refusal, Update, kind};
use proxy::planner::Planner;
use serde_json::Value;
use tests::scenario::table;

fn listed<T>(objects: Vec<Value>, read: fn(Value) -> Result<Option<T>, Refusal>) -> Delta<T> {
    let mut found = BTreeMap::new();
    for object in objects {
        let name: Name = kind::name(&object).expect("an object of the table has a name");
        if let Some(object) = read(object).expect("an object of the table is well-formed") {
            found.insert(name, object);
        }
    }
    Delta::Listed { objects: found, refused: BTreeSet::new() }
}

fn forwarding(services: &[Value], endpoints: Update) -> Forwarding {
    let mut planner = Planner::default();
    planner.update(Update::Services(listed(services.to_vec(), kind::service)));
    planner.update(endpoints);
    planner.update(Update::NodeUnknown);
    planner.settle();
    planner.forwarding()
}

#[test]
fn packets_go_where_slices_say() {
    let disagreements: Vec<String> = table()
        .iter()
        .flat_map(|scenario| {
            let slices = Update::Slices(listed(scenario.slices(), kind::endpoint_slice));
            scenario.disagreements(&forwarding(&scenario.services, slices))
        })
        .collect();
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

#[test]
fn endpoints_give_the_plan_that_slices_give() {
    for scenario in table() {
        let of_one_family = |objects: &[Value]| {
            objects
                .iter()
                .all(|object| object["spec"]["clusterIPs"].as_array().is_none_or(|all| all.len() == 1))
        };
        // An Endpoints object has the endpoints of one family only.
        if !of_one_family(&scenario.services) {
            continue;
        }
        let slices = Update::Slices(listed(scenario.slices(), kind::endpoint_slice));
        let endpoints = Update::Slices(listed(scenario.endpoints(), kind::endpoints));
        let [new, old] = [slices, endpoints].map(|update| forwarding(&scenario.services, update));
        assert_eq!(new, old, "{}", scenario.name);
    }
}
