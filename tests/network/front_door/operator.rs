//! What an operator asks a front door, and what a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Error, Program, Result};

use super::{all_used, connect};
use crate::site::{FrontDoor, LIMIT, Plan, Site, until};

/// What `fairway-lb status --json` says.
fn status(front_door: &FrontDoor) -> Result<Value> {
    let (code, printed) = front_door.tell(&["status", "--json"])?;
    assert_eq!(code, Some(0), "{printed}");
    serde_json::from_str(&printed).map_err(|error| Error::Object { reason: error.to_string() })
}

#[test]
fn status_tells_roles_peers_and_backends() -> Result<()> {
    let whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    let [first, second] = [&whole.front_doors[0], &whole.front_doors[1]];
    let _held = connect(&whole.site)?;
    until("the backup has heard the master", || {
        Ok(status(second)?["virtualRouters"][0]["peers"][0]["address"] == "172.16.60.241")
    })?;
    let router = &status(second)?["virtualRouters"][0];
    assert_eq!((&router["role"], &router["priority"]), (&"backup".into(), &200.into()), "{router}");
    assert_eq!(router["peers"][0]["priority"], 250);

    let report = status(first)?;
    let router = &report["virtualRouters"][0];
    assert_eq!(
        (&router["role"], &router["instance"]),
        (&"master".into(), &"eth0-51-ipv4".into()),
        "{router}"
    );
    assert_eq!(router["reason"], "no advert from a master in time");
    assert_eq!(
        (&report["frontend"]["accepting"], &report["frontend"]["connections"]),
        (&true.into(), &1.into())
    );
    let backends = report["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(backends.len(), 2);
    for backend in backends {
        assert_eq!((&backend["state"], &backend["drained"]), (&"up".into(), &false.into()), "{backend}");
        assert!(backend["lastCheck"]["secondsAgo"].as_f64().is_some_and(|age| age < 60.0), "{backend}");
    }
    let (code, table) = first.tell(&["status"])?;
    assert_eq!(code, Some(0));
    for told in [" master ", "172.16.60.241:6443  up", "accepting, 1 connections"] {
        assert!(table.contains(told), "{told} in {table}");
    }
    Ok(())
}

#[test]
fn an_operators_drain_holds_until_it_is_taken_back() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    assert_eq!(whole.front_doors[0].tell(&["drain", "m1"])?, (Some(0), String::new()));
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.get("m2")), (0, Some(&10)), "{report:?}");
    // A reload does not change it.
    whole.front_doors[0].process.signal(Signal::SIGHUP)?;
    let applied = "reloads_total{result=\"applied\"}";
    until("it is reloaded", || Ok(whole.front_doors[0].metric(applied)? == 1))?;
    let backend = &status(&whole.front_doors[0])?["backends"][0];
    assert_eq!((&backend["state"], &backend["drained"]), (&"up".into(), &true.into()), "{backend}");
    let (_, table) = whole.front_doors[0].tell(&["status"])?;
    assert!(table.contains("up, drained by operator"), "{table}");
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.get("m2")), (0, Some(&10)), "{report:?}");
    assert_eq!(whole.front_doors[0].tell(&["undrain", "m1"])?.0, Some(0));
    all_used(&whole)?;
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.get("m1")), (0, Some(&5)), "{report:?}");
    Ok(())
}

#[test]
fn whoever_asks_wrongly_is_told_why() -> Result<()> {
    let mut whole = Site::whole(1, Plan::new)?;
    let front_door = &whole.front_doors[0];
    let (code, printed) = front_door.tell(&["drain", "m7"])?;
    assert_eq!((code, printed.as_str()), (Some(1), "there is no backend \"m7\"\n"));
    // A second one of the same configuration touches nothing.
    let file = whole.site.path("front-door-0.yaml");
    let second = Program::ours("fairway-lb")?.arguments(["--config", &file]);
    let (status, printed) = second.inside(whole.site.master(0).namespace()).run(LIMIT)?;
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("answers on") && printed.contains("--take-over"), "{printed}");
    assert_eq!(whole.site.dial_times(5)?.failed, 0);
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).map(|file| file.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&front_door.control).ok(), Some(0o600));
    whole.front_doors[0].process.terminate(LIMIT)?;
    assert!(mode(&whole.front_doors[0].control).is_err(), "the socket goes with its front door");
    let (code, printed) = whole.front_doors[0].tell(&["status"])?;
    assert_eq!(code, Some(1));
    assert!(printed.starts_with("no front door answers on "), "{printed}");
    Ok(())
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_reloading_alive_and_stopping() -> Result<()> {
    let site = Site::new(1)?;
    let _apiserver = site.apiserver(0)?;
    let path = site.path("notify.sock");
    let manager = UnixDatagram::bind(&path).map_err(Error::system("bind", &path))?;
    manager.set_read_timeout(Some(LIMIT)).map_err(Error::system("wait on", &path))?;
    let hear = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).map_err(Error::system("hear from", "the front door"))?;
        Ok::<_, Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let hear_other_than_alive = || loop {
        let heard = hear()?;
        if heard != "WATCHDOG=1" {
            return Ok::<_, Error>(heard);
        }
    };
    let file = site.write("front-door.yaml", &site.configuration(&Plan::new(100)))?;
    let mut process = Program::ours("fairway-lb")?
        .arguments(["--config", &file])
        .environment("NOTIFY_SOCKET", &path)
        .environment("WATCHDOG_USEC", "200000")
        .inside(site.master(0).namespace())
        .spawn()?;
    assert!(hear()?.starts_with("READY=1\nMAINPID="), "nothing is said before it is open");
    assert_eq!(hear()?, "WATCHDOG=1");
    process.signal(Signal::SIGHUP)?;
    assert!(hear_other_than_alive()?.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(hear_other_than_alive()?.starts_with("READY=1\n"));
    assert_eq!(hear()?, "WATCHDOG=1");
    // Whoever hangs says nothing.
    process.signal(Signal::SIGSTOP)?;
    manager.set_read_timeout(Some(Duration::from_secs(1))).map_err(Error::system("wait on", &path))?;
    while hear().is_ok() {}
    manager.set_read_timeout(Some(LIMIT)).map_err(Error::system("wait on", &path))?;
    process.signal(Signal::SIGCONT)?;
    assert_eq!(hear()?, "WATCHDOG=1");
    process.signal(Signal::SIGTERM)?;
    assert_eq!(hear_other_than_alive()?, "STOPPING=1");
    assert_eq!(process.wait(LIMIT)?.code(), Some(0));
    Ok(())
}
