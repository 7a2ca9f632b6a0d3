//! The scenario table, checked on the plan that fairway-proxy makes of each scenario's objects.

use proxy::cluster::{Update, kind};
use tests::scenario::table;

use crate::planned::{listed, planned, planner, slices};

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
