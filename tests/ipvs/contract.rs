//! Virtual services keep what every dataplane promises.

use dataplane::{Ipvs, IpvsSettings, contract};

use crate::site::Site;

#[test]
fn virtual_services_keep_the_contract() {
    let site = Site::new();
    site.on_director(|| contract::holds(|| Box::new(Ipvs::open(IpvsSettings::default()).unwrap())));
}
