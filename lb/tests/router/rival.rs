//! Another host that has a virtual address of ours.

use std::time::Duration;

use lb::router::{Router, RouterAddresses, RouterConfig, RouterMetrics};
use prometheus::Registry;
use vrrp::Role;

use crate::config;
use crate::lab::{INTERFACE, Lab, await_that, holds_throughout};

#[test]
fn a_neighbour_that_advertises_our_address_is_counted_while_we_are_master() {
    let lab = Lab::new();
    let registry = Registry::new();
    let metrics = RouterMetrics::register(&registry).unwrap();
    let addresses = RouterAddresses::new(vec!["fd00::fa/128".parse().unwrap()]).unwrap();
    let config = RouterConfig { addresses, ..config(100, false) };
    let router = lab.ours.run(|| Router::start(config, &metrics)).unwrap();
    await_that("we are master", || router.role() == Role::Master);
    let conflicts = || {
        let families = registry.gather();
        let family = families.iter().find(|it| it.name() == "fairway_lb_vrrp_address_conflicts_total");
        family.unwrap().get_metric()[0].get_counter().get_value()
    };
    lab.other.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/ndisc_notify", "1").unwrap());
    // A host that is told to notify says where its addresses are when its hardware address changes.
    let moves = |mac: &str| lab.other.ip(&["link", "set", INTERFACE, "address", mac]);
    lab.other.ip(&["address", "add", "fd00::fb/128", "dev", INTERFACE, "nodad"]);
    moves("02:00:00:00:00:51");
    let nothing = || conflicts() == 0.0 && router.role() == Role::Master;
    assert!(holds_throughout(Duration::from_millis(500), nothing), "another address is none of ours");
    lab.other.ip(&["address", "add", "fd00::fa/128", "dev", INTERFACE, "nodad"]);
    moves("02:00:00:00:00:52");
    await_that("the claim is counted", || conflicts() > 0.0);
    assert_eq!(router.role(), Role::Master);
}
