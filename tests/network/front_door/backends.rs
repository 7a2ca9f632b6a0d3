//! Apiservers that are not what they should be, and what clients notice of it.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::Result;
use tests::certificates::Authority;
use tests::topology::FRONT_DOOR;
use tests::traffic::{self, DialReport, HoldReport};

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
fn an_apiserver_that_hangs_is_taken_out_and_who_waits_for_it_is_answered_when_it_goes_on() -> Result<()> {
    let mut whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    whole.apiservers[2].process.signal(Signal::SIGSTOP)?;
    // The kernel accepts for it, so nothing can be tried elsewhere: a third of these hang.
    let mut unlucky = whole.site.dial(50, Duration::from_millis(120))?.spawn()?;
    until("it is out", || Ok(!whole.front_doors[0].uses(2)?))?;
    let report = whole.site.dial_times(30)?;
    assert_eq!((report.attempts, report.failed), (30, 0), "{report:?}");
    assert_eq!(report.backends.keys().collect::<Vec<_>>(), ["m1", "m2"]);
    assert_eq!(unlucky.ended()?, None, "some still wait");
    whole.apiservers[2].process.signal(Signal::SIGCONT)?;
    let report: DialReport = traffic::finish(unlucky, LIMIT)?;
    assert_eq!((report.failed, report.backends.get("m3")), (0, Some(&2)), "{report:?}");
    all_used(&whole)
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
