//! The scenario table, checked on the plan that fairway-proxy makes of each scenario's objects.

use std::collections::{BTreeMap, BTreeSet};

use plan::Forwarding;
use proxy::cluster::{Delta, Name, Refusal, Update, kind};
use proxy::planner::Planner;
use proxy::translate::Settings;
use serde_json::Value;
use tests::scenario::{NODE, Scenario, node, table};

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

/// On the node of the table, which tells its pods from others.
fn planner() -> Planner {
    let mut planner = Planner::new(NODE, Settings { detects_local: true, ..Settings::default() });
    planner.update(Update::Node(listed(vec![node()], kind::node)));
    planner
}

fn planned(planner: &mut Planner, scenario: &Scenario, endpoints: Update) -> Forwarding {
    planner.update(Update::Services(listed(scenario.services.clone(), kind::service)));
    planner.update(endpoints);
    planner.settle();
    planner.forwarding()
}

fn slices(scenario: &Scenario) -> Update {
    Update::Slices(listed(scenario.slices(), kind::endpoint_slice))
}

#[test]
fn packets_go_where_slices_say() {
    let disagreements: Vec<String> = table()
        .iter()
        .flat_map(|scenario| scenario.disagreements(&planned(&mut planner(), scenario, slices(scenario))))
        .collect();
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

#[test]
fn it_does_not_matter_what_was_there_before() {
    let mut planner = planner();
    // Each after each other one in both directions.
    let there_and_back = table().into_iter().chain(table().into_iter().rev());
    for scenario in there_and_back {
        let disagreements = scenario.disagreements(&planned(&mut planner, &scenario, slices(&scenario)));
        assert!(disagreements.is_empty(), "{disagreements:#?}");
    }
}

#[test]
fn endpoints_give_the_plan_that_slices_give() {
    let mut compared = 0;
    for scenario in table() {
        let Some(endpoints) = scenario.endpoints() else { continue };
        let endpoints = Update::Slices(listed(endpoints, kind::endpoints));
        let [new, old] =
            [slices(&scenario), endpoints].map(|update| planned(&mut planner(), &scenario, update));
        assert_eq!(new, old, "{}", scenario.name);
        compared += 1;
    }
    assert!(compared > table().len() / 2, "only {compared} were compared");
}
