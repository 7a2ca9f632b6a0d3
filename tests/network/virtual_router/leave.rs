//! A master that is stopped in good order: no client notices, whoever comes next.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::capture::Capture;
use tests::topology::{Family, INTERFACE, Link};
use tests::traffic::{self, Dialing, HoldReport};
use tests::{Process, Program, Result, outage};

use super::contents::{advert_of, announces, mac};
use super::keepalived::{Keepalived, MULTICAST};
use crate::site::{LIMIT, Plan, Site, WholeSite, until};

/// What a kernel waits for before it sends the first packet of a connection again: no client may have to.
const LOST: Duration = Duration::from_secs(1);
const RATE: u32 = 200;
const DIALING: Duration = Duration::from_secs(1);
/// So many dials before the stop.
const CALM: usize = 40;
/// Each time there is another dial on its way at the moment of the move.
const ROUNDS: usize = 4;

#[test]
fn no_dial_fails_when_the_holder_is_stopped_however_short_the_interval() -> Result<()> {
    for (family, advert_interval) in
        [(Family::Ipv4, "100ms"), (Family::Ipv4, "10ms"), (Family::Ipv6, "100ms")]
    {
        let plan = |priority| Plan { advert_interval, ..Plan::new(priority) };
        let mut whole = Site::whole_of(family, 2, plan)?;
        for round in 0..ROUNDS {
            let (holder, successor) = (round % 2, 1 - round % 2);
            let case = format!("{family:?}, {advert_interval}, round {round}");
            let WholeSite { front_doors, site, .. } = &mut whole;
            stopped(site, &mut front_doors[holder].process, &case)?;
            until("the successor alone holds the address", || Ok(site.holders()? == [successor]))?;
            assert_eq!(front_doors[successor].metric("vrrp_address_conflicts_total")?, 0, "{case}");
            front_doors[holder] = site.front_door(holder, &plan(250))?;
        }
    }
    Ok(())
}

#[test]
fn no_dial_fails_when_keepalived_comes_next() -> Result<()> {
    let site = Site::new(2)?;
    let _apiservers = [site.apiserver(0)?, site.apiserver(1)?];
    let plan = Plan::new(250);
    let mut holder = site.front_door(0, &plan)?;
    let mut relay = relay(&site, &plan)?;
    relay.wait_for_log("front door open", LIMIT)?;
    let _keepalived = Keepalived::start(site.master(1), 200, &MULTICAST)?;
    until("we hold the address", || Ok(site.holders()? == [0]))?;
    stopped(&site, &mut holder.process, "keepalived")?;
    until("keepalived alone holds the address", || Ok(site.holders()? == [1]))
}

/// A front door on the second master that leaves the address to others.
fn relay(site: &Site, plan: &Plan) -> Result<Process> {
    let text = site.configuration(plan).replace("control-0.sock", "control-1.sock");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("virtualRouter")).collect();
    let file = site.write("relay.yaml", &lines.join("\n"))?;
    Program::ours("fairway-lb")?.arguments(["--config", &file]).inside(site.master(1).namespace()).spawn()
}

/// Clients dial and hold connections while `holder` is told to stop.
fn stopped(site: &Site, holder: &mut Process, case: &str) -> Result<()> {
    let log = site.path("dial.log");
    let mut held = site.hold(4, DIALING)?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    let mut dialing = Dialing::start(site.dial(RATE, DIALING)?, Path::new(&log))?;
    dialing.wait_for(CALM, LIMIT)?;
    assert!(holder.terminate(LIMIT)?.success(), "{case}");
    let dials = dialing.finish(LIMIT)?;
    assert_eq!(outage::reasons(&dials), [].into(), "{case}");
    let slowest = dials.iter().map(|dial| dial.end.saturating_sub(dial.start)).max();
    assert!(slowest < Some(LOST), "{case}: one took {slowest:?}");
    let held: HoldReport = traffic::finish(held, LIMIT)?;
    assert_eq!((held.opened, held.broken.len()), (4, 4), "{case}");
    Ok(())
}

#[test]
fn the_address_stays_until_the_successor_announces_itself() -> Result<()> {
    for family in Family::BOTH {
        // Slow enough to look at the address in between: the skew is nearly half a second.
        let plan = |priority: u8| Plan { advert_interval: "1s", ..Plan::new(priority.min(150)) };
        let mut whole = Site::whole_of(family, 2, plan)?;
        let WholeSite { front_doors, site, .. } = &mut whole;
        let (leaver, successor) = (site.master(0), site.master(1));
        let successors_mac = mac(successor)?;
        let capture = Capture::on_interface(site.client(), INTERFACE)?;
        front_doors[0].process.signal(Signal::SIGTERM)?;
        capture.wait_for("the farewell", LIMIT, |frame| advert_of(leaver, frame) == Some(0))?;
        until("the successor alone holds the address", || {
            let holders = site.holders()?;
            let announced = capture.frames().iter().any(|frame| announces(successors_mac, frame));
            assert!(!holders.is_empty(), "{family:?}: it is nobody's");
            assert!(announced || holders.contains(&0), "{family:?}: it is given up too early");
            Ok(holders == [1])
        })?;
    }
    Ok(())
}

#[test]
fn an_address_that_nobody_takes_is_given_up() -> Result<()> {
    let site = Site::new(1)?;
    let mut front_door = site.front_door(0, &Plan::new(100))?;
    let held = |link: &Link| Ok(link.holders()? == [0]);
    until("it holds the address", || held(&site.link))?;
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    front_door.process.signal(Signal::SIGTERM)?;
    capture.wait_for("the farewell", LIMIT, |frame| advert_of(site.master(0), frame) == Some(0))?;
    assert!(front_door.process.wait(LIMIT)?.success());
    assert!(!held(&site.link)?);
    Ok(())
}
