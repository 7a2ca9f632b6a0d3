//! Adverts to peers by name, for links without multicast.

use std::net::IpAddr;

use tests::Result;
use tests::capture::{Capture, Content, Frame};
use tests::topology::INTERFACE;

use crate::site::{LIMIT, Plan, Site, until};

fn plan(priority: u8, router: &'static str) -> Plan {
    Plan { router, ..Plan::new(priority) }
}

#[test]
fn adverts_go_to_every_peer_and_to_nobody_else() -> Result<()> {
    let site = Site::new(3)?;
    let peers = "peers: [172.16.60.241, 172.16.60.242, 172.16.60.243],";
    let seen: Vec<Capture> = site
        .link
        .masters()
        .iter()
        .map(|it| Capture::on_interface(it.namespace(), INTERFACE))
        .collect::<Result<_>>()?;
    let client = Capture::on_interface(site.client(), INTERFACE)?;
    let mut first = site.front_door(0, &plan(250, peers))?;
    until("the first holds the address", || Ok(site.link.holders()? == [0]))?;
    let _others = [site.front_door(1, &plan(240, peers))?, site.front_door(2, &plan(230, peers))?];
    let own = IpAddr::from(site.master(0).address());
    for other in [1, 2] {
        let address = IpAddr::from(site.master(other).address());
        let is_it = |frame: &Frame| matches!(&frame.content, Content::Advert { from, to, ttl: 255, priority: 250, .. } if (*from, *to) == (own, address));
        seen[other].wait_for("an advert for this peer", LIMIT, is_it)?;
    }
    let to_the_first = |frame: &&Frame| matches!(frame.content, Content::Advert { to, .. } if to == own);
    let before = seen[0].frames();
    assert_eq!(before.iter().find(to_the_first), None, "it does not speak to itself, and backups are silent");
    assert!(first.process.terminate(LIMIT)?.success());
    until("the next one takes over", || Ok(site.link.holders()? == [1]))?;
    let is_advert = |frame: &&Frame| matches!(frame.content, Content::Advert { .. });
    assert_eq!(client.frames().iter().find(is_advert), None, "the client is no peer");
    Ok(())
}

#[test]
fn who_was_told_otherwise_is_refused_for_that_reason() -> Result<()> {
    let site = Site::new(3)?;
    let rejected = |front_door: &crate::site::FrontDoor, reason: &str| {
        front_door.metric(&format!("vrrp_adverts_rejected_total{{reason=\"{reason}\"}}"))
    };
    // The second speaks to the group; the third speaks to the first, which does not know it.
    let first = site.front_door(0, &plan(100, "peers: [172.16.60.242],"))?;
    let second = site.front_door(1, &plan(200, ""))?;
    let _third = site.front_door(2, &plan(250, "peers: [172.16.60.241],"))?;
    until("an advert to the group is refused where peers are listed", || {
        Ok(rejected(&first, "destination")? > 0)
    })?;
    until("an advert of nobody's peer is refused", || Ok(rejected(&first, "peer")? > 0))?;
    until("an advert to one host is refused where none is listed", || {
        Ok(rejected(&second, "destination")? > 0)
    })?;
    assert_eq!(site.link.holders()?, [0, 1, 2], "whoever does not hear the others is on its own");
    Ok(())
}
