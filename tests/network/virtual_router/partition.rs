//! A link that was cut in two without anybody's noticing, and came together again.

use tests::Result;
use tests::capture::Capture;
use tests::topology::{Family, INTERFACE};

use super::contents::{advert_of, announces, mac};
use crate::site::{LIMIT, Plan, Site, until};

/// How many adverts of the remaining master may come before it announces itself: it does so for its own reasons too,
/// now and then, but that is no help to a client that waits.
const ADVERTS: usize = 5;

#[test]
fn one_master_remains_and_clients_find_it_at_once() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(one_remains)
}

fn one_remains(family: Family) -> Result<()> {
    let whole = Site::whole_of(family, 2, Plan::new)?;
    let site = &whole.site;
    let (strong, weak) = (site.master(0), site.master(1));
    // What the client has learned it believes for ever, unless it is told otherwise.
    for family in ["ipv4", "ipv6"] {
        let setting = format!("net.{family}.neigh.eth0.base_reachable_time_ms=3600000");
        site.client().command("sysctl", &["-qw", &setting])?;
    }
    let client_believes = |host| {
        let neighbour = site.client().ip(&["neighbour", "show", &site.virtual_address().to_string()])?;
        Ok(neighbour.contains(&tests::topology::Host::hardware_address(host)?))
    };
    // Which of the two masters speaks first once they hear each other is a matter of luck.
    for _ in 0..4 {
        assert_eq!(site.dial_times(5)?.failed, 0);
        site.link.part(strong)?;
        until("each half has a master", || Ok(site.holders()? == [0, 1]))?;
        until("the client is told of the weaker one", || client_believes(weak))?;
        assert_eq!(site.dial_times(5)?.failed, 0);

        let capture = Capture::on_interface(site.client(), INTERFACE)?;
        site.link.join(strong)?;
        until("the stronger one alone holds the address", || Ok(site.holders()? == [0]))?;
        let strong_mac = mac(strong)?;
        capture.wait_for("the stronger one announces itself", LIMIT, |frame| announces(strong_mac, frame))?;
        until("the client is told of the stronger one", || client_believes(strong))?;
        let frames = capture.frames();
        let before = frames.iter().take_while(|frame| !announces(strong_mac, frame));
        let adverts = before.filter(|frame| advert_of(strong, frame).is_some()).count();
        assert!(adverts <= ADVERTS, "it announced itself only after {adverts} adverts");
    }
    assert_eq!(site.dial_times(5)?.failed, 0);
    Ok(())
}
