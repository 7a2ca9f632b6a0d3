//! Packets that were good once, and come again: from a loop in the network, or from somebody who has recorded them.

use std::net::IpAddr;

use tests::Result;
use tests::capture::Capture;
use tests::topology::{Family, Host, INTERFACE};

use super::contents::{advert_of, announces, mac};
use super::forgery::{Forger, Forgery, rejected};
use crate::site::{LIMIT, Plan, Site, until};

const OFTEN: u64 = 50;
/// Where a priority is in an advert.
const PRIORITY: usize = 2;

fn of(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => host.address().into(),
        Family::Ipv6 => host.link_local().into(),
    }
}

#[test]
fn our_own_packets_that_come_back_are_counted_and_change_nothing() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(ours_come_back)
}

fn ours_come_back(family: Family) -> Result<()> {
    let site = Site::of(family, 1)?;
    let host = site.master(0);
    // By default the kernel drops what comes from its own address, over IPv4: then nothing is there to count.
    host.namespace().command("sysctl", &["-qw", "net.ipv4.conf.all.accept_local=1"])?;
    let forger = Forger::new(site.link.client(), family)?;
    let front_door = site.front_door(0, &Plan::new(100))?;
    until("it is master", || host.holds(family.virtual_address()))?;
    let own = Forgery::perfect(of(host, family));
    for _ in 0..OFTEN {
        // What it says now, and what it said when it left.
        forger.send(&own.clone().with(PRIORITY, 100))?;
        forger.send(&own.clone().with(PRIORITY, 0))?;
    }
    let expected = 2 * OFTEN;
    until("all of them were counted", || Ok(rejected(&front_door, "own_address")? == expected))?;
    assert!(host.holds(family.virtual_address())?);
    assert_eq!(front_door.metric("vrrp_transitions_total{to=\"backup\"}")?, 1, "only at its start");
    let log = front_door.process.log()?;
    assert_eq!(log.matches("it comes from our own address").count(), 1, "{log}");
    Ok(())
}

#[test]
fn a_farewell_that_is_replayed_leaves_the_address_with_its_holder() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(replayed_farewell)
}

fn replayed_farewell(family: Family) -> Result<()> {
    let whole = Site::whole_of(family, 2, Plan::new)?;
    let (site, forger) = (&whole.site, Forger::new(whole.site.link.client(), family)?);
    let (holder, backup) = (site.master(0), site.master(1));
    let holders_mac = mac(holder)?;
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    forger.send(&Forgery::perfect(of(holder, family)).with(PRIORITY, 0))?;
    // The backup cannot know better; the holder contradicts it at once, and clients hear that.
    let usurped =
        capture.wait_for("the backup takes over", LIMIT, |frame| advert_of(backup, frame) == Some(200))?;
    capture.wait_for("the holder announces itself", LIMIT, |frame| {
        frame.at > usurped.at && announces(holders_mac, frame)
    })?;
    until("the holder alone holds the address", || Ok(site.holders()? == [0]))?;
    assert_eq!(site.dial_times(10)?.failed, 0);
    assert_eq!(whole.front_doors[0].metric("vrrp_transitions_total{to=\"master\"}")?, 1, "it never gave way");
    Ok(())
}

#[test]
fn an_advert_of_a_dead_router_that_is_replayed_is_believed_for_one_down_time() -> Result<()> {
    let whole = Site::whole(2, Plan::new)?;
    let (site, forger) = (&whole.site, Forger::new(whole.site.link.client(), Family::Ipv4)?);
    forger.send(&Forgery::perfect(forger.from))?;
    until("the holder gives way", || Ok(!site.holders()?.contains(&0)))?;
    until("one of them holds the address", || Ok(site.holders()?.len() == 1))?;
    let log = whole.front_doors[0].process.log()?;
    assert!(log.contains(&format!("advert of priority 255 from {}", forger.from)), "{log}");
    assert_eq!(site.dial_times(10)?.failed, 0);
    Ok(())
}
