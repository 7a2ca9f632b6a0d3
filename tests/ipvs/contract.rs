//! Virtual services keep what every dataplane promises.

use dataplane::contract;

use crate::site::{self, Site};

#[test]
fn virtual_services_keep_the_contract() {
    let site = Site::new();
    site.on_director(|| contract::holds(|| Box::new(site::open())));
}
