//! What a node loses beside its link, and what becomes of the address.

use std::fs;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tests::capture::Capture;
use tests::topology::INTERFACE;
use tests::{Error, Result, wait};

use super::A_WHILE;
use super::contents::advert_of;
use crate::site::{FrontDoor, LIMIT, Plan, Site, throughout, until};

/// How soon an address is to leave a relay that hangs.
const HUNG_LIMIT: Duration = Duration::from_secs(2);

/// A thread of a front door that does not run while this is there.
struct Held(Pid);

impl Held {
    fn thread(front_door: &FrontDoor, name: &str) -> Result<Self> {
        let failed = || Error::system("hold", name);
        let tasks = format!("/proc/{}/task", front_door.process.id());
        for task in fs::read_dir(&tasks).map_err(failed())? {
            let task = task.map_err(failed())?;
            if fs::read_to_string(task.path().join("comm")).map_err(failed())?.trim() == name {
                let number = task.file_name().to_string_lossy().parse().unwrap_or_default();
                let thread = Pid::from_raw(number);
                ptrace::seize(thread, ptrace::Options::empty())
                    .and_then(|()| ptrace::interrupt(thread))
                    .and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)))
                    .map_err(Error::system("hold", name))?;
                return Ok(Self(thread));
            }
        }
        Err(Error::Object { reason: format!("no thread is called {name}") })
    }

    fn let_go(self) -> Result<()> {
        ptrace::detach(self.0, None).map_err(Error::system("let go", self.0))
    }
}

#[test]
fn the_address_leaves_a_node_whose_relay_hangs() -> Result<()> {
    let whole = Site::whole(2, Plan::new)?;
    let (site, hung) = (&whole.site, &whole.front_doors[0]);
    throughout(A_WHILE, "nothing happens while all is well", || Ok(site.link.holders()? == [0]))?;
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    let begun = wait::now();
    let held = Held::thread(hung, "relay-0")?;
    let farewell =
        capture.wait_for("the farewell", LIMIT, |frame| advert_of(site.master(0), frame) == Some(0))?;
    assert!(farewell.at - begun < HUNG_LIMIT, "only after {:?}", farewell.at - begun);
    until("the other node alone holds the address", || Ok(site.link.holders()? == [1]))?;
    assert_eq!(site.dial_times(10)?.failed, 0);
    assert_eq!(hung.metric("vrrp_priority")?, 0);
    held.let_go()?;
    until("it takes part again", || Ok(hung.metric("vrrp_state")? == 1))?;
    assert_eq!((site.link.holders()?, hung.metric("vrrp_priority")?), (vec![1], 250));
    Ok(())
}

#[test]
fn the_address_stays_where_it_is_when_all_apiservers_are_sick() -> Result<()> {
    let plan = |priority| Plan {
        preempt: true,
        router: "track: {backends: {weight: -20, delay: 2s}},",
        ..Plan::new(priority)
    };
    let mut whole = Site::whole(3, |priority| plan(250 - (250 - priority) / 5))?;
    for apiserver in &mut whole.apiservers {
        apiserver.process.kill()?;
    }
    let site = &whole.site;
    let lowered = || Ok(whole.front_doors[0].metric("vrrp_priority")? == 230);
    until("the master counts the loss", || {
        assert_eq!(site.link.holders()?, [0]);
        lowered()
    })?;
    throughout(A_WHILE, "the address stays", || Ok(site.link.holders()? == [0]))?;
    let priorities = whole.front_doors.iter().map(|front_door| front_door.metric("vrrp_priority"));
    assert_eq!(priorities.collect::<Result<Vec<_>>>()?, [230, 220, 210]);
    Ok(())
}

#[test]
fn the_address_leaves_a_node_that_alone_sees_no_apiserver() -> Result<()> {
    let router = "track: {backends: {weight: -100, delay: 500ms}},";
    let mut whole = Site::whole(2, |priority| Plan { preempt: true, router, ..Plan::new(priority) })?;
    whole.apiservers[0].process.kill()?;
    let (blind, other) = (whole.site.master(0), whole.site.master(1).address());
    throughout(A_WHILE, "one backend is enough", || Ok(whole.site.link.holders()? == [0]))?;
    // By a gateway that is not there.
    let other = format!("{other}/32");
    let detour = [other.as_str(), "via", "172.16.60.99"];
    blind.namespace().ip(&[&["route", "add"], &detour[..]].concat())?;
    until("the other node alone holds the address", || Ok(whole.site.link.holders()? == [1]))?;
    assert_eq!(whole.site.dial_times(10)?.failed, 0);
    blind.namespace().ip(&[&["route", "delete"], &detour[..]].concat())?;
    until("it comes back", || Ok(whole.site.link.holders()? == [0]))
}
