//! Who holds the virtual address, and what the link is told about it.

mod contents;
mod flood;
mod forgery;
mod formula;
mod keepalived;
mod leave;
mod link;
mod partition;
mod peers;
mod realtime;
mod replay;
mod rival;
mod takeover;
mod tracking;

use std::time::Duration;

use tests::Result;
use tests::topology::VIRTUAL_ADDRESS;

use crate::site::{LIMIT, Plan, Site, WholeSite, throughout, until};

/// Several intervals in which somebody who were to act would.
const A_WHILE: Duration = Duration::from_secs(2);

#[test]
fn three_nodes_that_start_together_elect_exactly_one() -> Result<()> {
    let site = Site::new(3)?;
    let priorities = [230, 250, 240];
    let plan = |priority| Plan { preempt: true, ..Plan::new(priority) };
    let front_doors = std::thread::scope(|scope| {
        let site = &site;
        let start = |(master, priority)| scope.spawn(move || site.front_door(master, &plan(priority)));
        let starting: Vec<_> = priorities.into_iter().enumerate().map(start).collect();
        starting.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    until("the strongest holds the address", || Ok(site.link.holders()? == [1]))?;
    throughout(A_WHILE, "the strongest alone holds the address", || Ok(site.link.holders()? == [1]))?;
    let states = front_doors.iter().map(|front_door| front_door.metric("vrrp_state"));
    assert_eq!(states.collect::<Result<Vec<_>>>()?, [1, 2, 1]);
    Ok(())
}

/// Three nodes whose first, the holder, is dead, and the position of its successor.
fn with_dead_holder() -> Result<(WholeSite, usize)> {
    let mut whole = Site::whole(3, Plan::new)?;
    assert_eq!(whole.site.dial_times(3)?.failed, 0);
    whole.kill_node(0)?;
    let mut successor = 0;
    until("another node holds the address", || {
        let holders = whole.site.link.holders()?;
        assert_eq!(holders[0], 0, "nobody is there to take it off the dead node");
        successor = holders.last().copied().unwrap_or_default();
        Ok(holders.len() == 2)
    })?;
    Ok((whole, successor))
}

#[test]
fn a_dead_node_is_replaced_and_clients_reach_its_successor() -> Result<()> {
    let (whole, successor) = with_dead_holder()?;
    // A third of them is sent to the dead node's apiserver first.
    let report = whole.site.dial_times(30)?;
    assert_eq!((report.attempts, report.failed), (30, 0), "{report:?}");
    assert!(!report.backends.contains_key("m1"), "{report:?}");
    let served: u64 = ["m2", "m3"]
        .map(|backend| format!("connections_total{{backend=\"{backend}\"}}"))
        .iter()
        .map(|series| whole.front_doors[successor].metric(series))
        .sum::<Result<u64>>()?;
    assert!(served >= 30, "the successor passed on {served}");
    Ok(())
}

#[test]
fn a_node_that_returns_takes_its_stale_address_off_and_stays_backup() -> Result<()> {
    let (mut whole, successor) = with_dead_holder()?;
    let site = &whole.site;
    // It was the strongest; without preemption that does not matter.
    whole.front_doors[0] = site.front_door(0, &Plan::new(250))?;
    assert!(
        !site.master(0).holds(VIRTUAL_ADDRESS)?,
        "the stale address goes before anybody can be misled by it"
    );
    site.link.plug(site.master(0))?;
    let returned = &whole.front_doors[0];
    until("it is backup", || Ok(returned.metric("vrrp_state")? == 1))?;
    throughout(A_WHILE, "the successor alone holds the address", || Ok(site.link.holders()? == [successor]))?;
    assert_eq!(site.dial_times(10)?.failed, 0);
    Ok(())
}

#[test]
fn a_preempt_delay_is_waited_for_and_ends_with_the_weaker_master() -> Result<()> {
    let site = Site::new(2)?;
    let mut weaker = site.front_door(1, &Plan::new(100))?;
    until("the weaker one holds the address", || Ok(site.link.holders()? == [1]))?;
    let patient = |router| Plan { preempt: true, router, ..Plan::new(250) };
    let stronger = site.front_door(0, &patient("preemptDelay: 3s,"))?;
    throughout(A_WHILE, "the weaker one holds the address", || Ok(site.link.holders()? == [1]))?;
    until("the stronger one takes over", || Ok(site.link.holders()? == [0]))?;
    drop(stronger);
    site.master(0).namespace().ip(&["address", "delete", "172.16.60.250/32", "dev", "eth0"])?;
    until("the weaker one holds the address again", || Ok(site.link.holders()? == [1]))?;
    let _stronger = site.front_door(0, &patient("preemptDelay: 1h,"))?;
    assert!(weaker.process.terminate(LIMIT)?.success());
    until("the stronger one does not wait for a dead one", || Ok(site.link.holders()? == [0]))
}

#[test]
fn a_killed_process_leaves_an_address_that_its_next_start_takes_off() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    let site = &whole.site;
    whole.front_doors[0].process.kill()?;
    until("both nodes have the address", || Ok(site.link.holders()? == [0, 1]))?;
    whole.front_doors[0] = site.front_door(0, &Plan::new(250))?;
    throughout(A_WHILE, "the successor alone holds the address", || Ok(site.link.holders()? == [1]))?;
    assert_eq!(site.dial_times(10)?.failed, 0);
    Ok(())
}
