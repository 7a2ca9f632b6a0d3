//! Apiservers that are not what they should be, and what clients notice of it.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::certificates::Authority;
use tests::topology::{FRONT_DOOR, VIRTUAL_ADDRESS};
use tests::traffic::{self, DialReport, HoldReport};
use tests::{Result, wait};

use super::all_used;
use crate::site::{LIMIT, Plan, Site, name, until};

#[test]
fn a_refused_connect_is_tried_elsewhere_before_the_client_notices() -> Result<()> {
    // Health checks have no say in this: they come too late.
    let mut whole = Site::whole(3, |priority| Plan { interval: "60s", ..Plan::new(priority) })?;
    all_used(&whole)?;
    whole.apiservers[1].process.kill()?;
    let report = whole.site.dial_times(30)?;
    assert_eq!((report.attempts, report.failed), (30, 0), "{report:?}");
    let refused = whole.front_doors[0].metric("connect_failures_total{backend=\"m2\",reason=\"refused\"}")?;
    assert!((1..10).contains(&refused), "{refused} of the ten whose turn it was: refusals count against it");
    until("it is out", || Ok(!whole.front_doors[0].uses(1)?))?;
    Ok(())
}

#[test]
fn an_apiserver_that_this_node_cannot_send_to_is_out_until_it_can() -> Result<()> {
    let whole = Site::whole(2, Plan::new)?;
    let (site, front_door) = (&whole.site, &whole.front_doors[0]);
    let other = format!("{}/32", site.master(1).address());
    for kind in ["blackhole", "prohibit", "unreachable"] {
        all_used(&whole)?;
        site.master(0).namespace().ip(&["route", "add", kind, &other])?;
        until(&format!("{kind}: it is out"), || Ok(!front_door.uses(1)?))?;
        assert_eq!(site.dial_times(5)?.failed, 0, "{kind}");
        site.master(0).namespace().ip(&["route", "delete", kind, &other])?;
        until(&format!("{kind}: it is used again"), || front_door.uses(1))?;
    }
    Ok(())
}

#[test]
fn an_apiserver_that_comes_back_is_used_again() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    whole.apiservers[1].process.kill()?;
    until("it is out", || Ok(!whole.front_doors[0].uses(1)?))?;
    whole.apiservers[1] = whole.site.apiserver(1)?;
    all_used(&whole)?;
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.get("m2")), (0, Some(&5)), "{report:?}");
    Ok(())
}

#[test]
fn an_apiserver_that_hangs_is_out_within_a_second_and_who_waits_for_it_is_answered_by_another() -> Result<()>
{
    let by_default = |priority| Plan { interval: "250ms", check: "", ..Plan::new(priority) };
    let mut whole = Site::whole(3, by_default)?;
    all_used(&whole)?;
    let front_door = &whole.front_doors[0];
    let dial = whole.site.dial(100, Duration::from_secs(4))?.spawn()?;
    let has = || front_door.metric("connections_total{backend=\"m3\"}");
    until("clients are on their way", || Ok(has()? > 10))?;
    whole.apiservers[2].process.signal(Signal::SIGSTOP)?;
    let stopped = wait::now();
    until("it is out", || Ok(!front_door.uses(2)?))?;
    let found = wait::now() - stopped;
    // Its kernel goes on accepting for it: a third of the clients were sent there meanwhile.
    let report: DialReport = traffic::finish(dial, LIMIT)?;
    let moved = front_door.metric("connections_moved_total{backend=\"m3\"}")?;
    println!("found after {found:?}, {moved} connections moved, slowest answer {} ms", report.slowest);
    assert!(found < Duration::from_secs(1), "{found:?}");
    // Who has half an answer already cannot be passed on: of those, one may be on its way at a time.
    assert!(report.attempts == 400 && report.failed <= 1, "{report:?}");
    assert!(moved > 0 && report.slowest < 2000.0, "{moved} {report:?}");
    whole.apiservers[2].process.signal(Signal::SIGCONT)?;
    all_used(&whole)
}

#[test]
fn connections_outlive_a_pause_of_their_apiserver() -> Result<()> {
    let mut whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    let mut held = whole.site.hold(9, Duration::from_secs(6))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    whole.apiservers[2].process.signal(Signal::SIGSTOP)?;
    until("it is out", || Ok(!whole.front_doors[0].uses(2)?))?;
    whole.apiservers[2].process.signal(Signal::SIGCONT)?;
    all_used(&whole)?;
    let report: HoldReport = traffic::finish(held, LIMIT)?;
    assert_eq!((report.opened, report.broken.as_slice()), (9, [].as_slice()), "{report:?}");
    Ok(())
}

#[test]
fn connections_of_an_apiserver_that_is_silent_for_long_are_reset() -> Result<()> {
    let impatient = |priority| Plan { check: "timeout: 300ms, kill: 4,", ..Plan::new(priority) };
    let mut whole = Site::whole(3, impatient)?;
    all_used(&whole)?;
    let mut held = whole.site.hold(9, Duration::from_secs(8))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    whole.apiservers[2].process.signal(Signal::SIGSTOP)?;
    let report: HoldReport = traffic::finish(held, LIMIT)?;
    only_reset(&report, "m3");
    let ended = "connections_ended_total{backend=\"m3\",reason=\"killed\"}";
    assert_eq!(whole.front_doors[0].metric(ended)?, 3);
    Ok(())
}

#[test]
fn connections_of_an_apiserver_that_is_not_ready_are_reset_at_the_deadline() -> Result<()> {
    let limited = |priority| Plan { check: "timeout: 1s, drainDeadline: 1s,", ..Plan::new(priority) };
    let whole = Site::whole(3, limited)?;
    all_used(&whole)?;
    let mut held = whole.site.hold(9, Duration::from_secs(5))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    whole.apiservers[0].set_ready(false)?;
    let report: HoldReport = traffic::finish(held, LIMIT)?;
    only_reset(&report, "m1");
    let ended = "connections_ended_total{backend=\"m1\",reason=\"drained\"}";
    assert_eq!(whole.front_doors[0].metric(ended)?, 3);
    Ok(())
}

/// The three connections that this apiserver had, and no others, were reset.
fn only_reset(report: &HoldReport, apiserver: &str) {
    assert_eq!((report.opened, report.broken.len()), (9, 3), "{report:?}");
    for broken in &report.broken {
        assert_eq!(broken.backend, apiserver, "{report:?}");
        assert!(broken.error.contains("reset"), "{report:?}");
    }
}

#[test]
fn after_the_loss_of_a_whole_node_no_client_notices_that_its_apiserver_is_gone_too() -> Result<()> {
    let mut whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    whole.kill_node(0)?;
    until("another master takes over", || whole.site.master(1).holds(VIRTUAL_ADDRESS))?;
    let report = whole.site.dial_times(100)?;
    assert_eq!((report.attempts, report.failed), (100, 0), "{report:?}");
    assert_eq!(report.backends.keys().collect::<Vec<_>>(), ["m2", "m3"]);
    Ok(())
}

#[test]
fn an_unready_apiserver_is_drained() -> Result<()> {
    let whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    let mut held = whole.site.hold(9, Duration::from_secs(6))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    let new = whole.site.dial(20, Duration::from_secs(5))?.spawn()?;

    whole.apiservers[0].set_ready(false)?;
    until("it is out", || Ok(!whole.front_doors[0].uses(0)?))?;
    let report = whole.site.dial_times(20)?;
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(report.backends.keys().collect::<Vec<_>>(), ["m2", "m3"], "no new connections go there");
    let active = whole.front_doors[0].metric("connections_active{backend=\"m1\"}")?;
    assert_eq!(active, 3, "old ones stay");
    assert!(whole.front_doors[0].process.log()?.contains("to=Unready reason=answered 500"));
    whole.apiservers[0].set_ready(true)?;
    all_used(&whole)?;
    let report = whole.site.dial_times(9)?;
    assert!(report.backends.contains_key("m1"), "{report:?}");

    let report: HoldReport = traffic::finish(held, LIMIT)?;
    assert_eq!((report.opened, report.broken.as_slice()), (9, [].as_slice()), "{report:?}");
    let report: DialReport = traffic::finish(new, LIMIT)?;
    assert_eq!((report.attempts, report.failed), (100, 0), "{report:?}");
    Ok(())
}

#[test]
fn without_an_apiserver_a_client_is_reset() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    for apiserver in &mut whole.apiservers {
        apiserver.process.kill()?;
    }
    // Whether or not that is known already.
    assert_eq!(fate(&whole.site)?, Some(ErrorKind::ConnectionReset));
    for master in 0..2 {
        until("it is out", || Ok(!whole.front_doors[0].uses(master)?))?;
    }
    assert_eq!(fate(&whole.site)?, Some(ErrorKind::ConnectionReset));
    assert_eq!(whole.front_doors[0].metric("connections_refused_total{reason=\"down\"}")?, 2);
    assert_eq!(whole.site.link.holders()?, [0], "to move the address would not help");
    Ok(())
}

/// How the client's connection to the virtual address fails, if it does. The reset may come before or after it knows that it is
/// connected.
fn fate(site: &Site) -> Result<Option<ErrorKind>> {
    let knock = || {
        let mut stream = TcpStream::connect_timeout(&FRONT_DOOR, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.read(&mut [0])
    };
    Ok(site.client().run(knock)?.err().map(|error| error.kind()))
}

#[test]
fn an_apiserver_that_cannot_be_trusted_or_does_not_trust_us_is_down_with_a_reason() -> Result<()> {
    let site = Site::new(3)?;
    let stranger = Authority::new("stranger")?;
    let address = |master: usize| site.master(master).address().to_string();
    // The first has a certificate from somewhere else, the second one for somebody else, and the third wants to see
    // certificates from somewhere else.
    stranger.server("m1", &[&address(0)])?.write(site.directory(), "m1")?;
    site.authority.server("m2", &["172.16.60.99"])?.write(site.directory(), "m2")?;
    site.authority.server("m3", &[&address(2)])?.write(site.directory(), "m3")?;
    let client_authority = site.write("stranger.crt", stranger.pem())?;
    let _apiservers = [
        site.apiserver_with(0, &[])?,
        site.apiserver_with(1, &[])?,
        site.apiserver_with(2, &["--client-authority", &client_authority])?,
    ];
    site.authority.client("front-door", None)?.write(site.directory(), "client")?;
    let (certificate, key) = (site.path("client.crt"), site.path("client.key"));
    let tls = format!(", certificateFile: \"{certificate}\", keyFile: \"{key}\"");
    let front_door = site.front_door(0, &Plan { tls, ..Plan::new(100) })?;

    let log = front_door.process.log()?;
    for (master, reason) in [(0, "UnknownIssuer"), (1, "not valid for name"), (2, "UnknownCA")] {
        let name = name(master);
        let line = format!("backend changed backend={name} ");
        let line = log.lines().find(|found| found.contains(&line)).unwrap_or_default();
        assert!(line.contains("to=Down") && line.contains(reason), "{reason} in {line:?} of {log}");
        assert!(front_door.metric(&format!("probes_total{{backend=\"{name}\",result=\"failed\"}}"))? > 0);
        assert!(!front_door.uses(master)?);
    }
    Ok(())
}
