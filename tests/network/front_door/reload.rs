//! SIGHUP: the front door goes over to another configuration, and nobody who uses it notices.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::Result;
use tests::topology::VIRTUAL_ADDRESS;
use tests::traffic::{self, DialReport, HoldReport};

use super::{all_used, connect};
use crate::site::{FrontDoor, LIMIT, Plan, Site, WholeSite, until};

/// The first front door reads `text` from its file; returns when it has made up its mind, which is to be `result`.
fn reload(whole: &mut WholeSite, text: &str, result: &str) -> Result<()> {
    let front_door = &mut whole.front_doors[0];
    let series = format!("reloads_total{{result=\"{result}\"}}");
    let before = front_door.metric(&series)?;
    whole.site.write("front-door-0.yaml", text)?;
    front_door.process.signal(Signal::SIGHUP)?;
    until(result, || Ok(front_door.metric(&series)? == before + 1))
}

fn transitions(front_door: &FrontDoor) -> Result<u64> {
    ["initialize", "backup", "master"].iter().try_fold(0, |sum, to| {
        Ok(sum + front_door.metric(&format!("vrrp_transitions_total{{to=\"{to}\"}}"))?)
    })
}

#[test]
fn twenty_reloads_under_load_fail_no_dial_and_break_no_connection() -> Result<()> {
    let mut whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    let changes = transitions(&whole.front_doors[0])?;
    let mut held = whole.site.hold(12, Duration::from_secs(8))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    let new = whole.site.dial(100, Duration::from_secs(7))?.spawn()?;
    let full = whole.site.configuration(&Plan::new(250));
    let line = format!("  - {{name: m3, address: \"{}:6443\"}}\n", whole.site.master(2).address());
    assert_eq!(full.matches(&line).count(), 1, "{full}");
    for turn in 0..20 {
        let text = match turn % 4 {
            // A backend goes, others are chosen in another way, a weaker master on another beat, and all is as it was.
            0 => full.replace(&line, ""),
            1 => full.replace("round-robin", "least-connections"),
            2 => full.replace("priority: 250", "priority: 240").replace("200ms", "150ms"),
            _ => full.clone(),
        };
        reload(&mut whole, &text, "applied")?;
    }
    let report: DialReport = traffic::finish(new, LIMIT)?;
    assert_eq!((report.attempts, report.failed), (700, 0), "{report:?}");
    let report: HoldReport = traffic::finish(held, LIMIT)?;
    assert_eq!((report.opened, report.broken.as_slice()), (12, [].as_slice()), "{report:?}");
    assert_eq!(transitions(&whole.front_doors[0])?, changes, "the role never changed");
    assert_eq!(whole.site.link.holders()?, [0]);
    assert!(whole.front_doors[0].metric("connections_total{backend=\"m1\"}")? > 200, "counters are kept");
    Ok(())
}

#[test]
fn a_removed_backend_keeps_its_connections_and_is_forgotten_after_them() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    let held: Vec<_> = (0..4).map(|_| connect(&whole.site)).collect::<Result<_>>()?;
    until("both are taken", || Ok(whole.front_doors[0].metric("connections_active{backend=\"m2\"}")? == 2))?;
    let full = whole.site.configuration(&Plan::new(250));
    let line = format!("  - {{name: m2, address: \"{}:6443\"}}\n", whole.site.master(1).address());
    reload(&mut whole, &full.replace(&line, ""), "applied")?;
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.get("m1")), (0, Some(&10)), "{report:?}");
    assert_eq!(whole.front_doors[0].metric("connections_active{backend=\"m2\"}")?, 2, "old ones stay");
    drop(held);
    until("nothing is left of it", || Ok(!whole.front_doors[0].ask("/metrics")?.contains("backend=\"m2\"")))?;
    // It comes back as a new one does.
    reload(&mut whole, &full, "applied")?;
    all_used(&whole)
}

#[test]
fn an_invalid_file_changes_nothing_and_every_problem_is_told() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    let full = whole.site.configuration(&Plan::new(250));
    let bad = full.replace("name: m2", "name: m1").replace("routerId: 51", "routerId: 0");
    reload(&mut whole, &bad, "refused")?;
    let log = whole.front_doors[0].process.log()?;
    for told in ["path=\"virtualRouter.routerId\"", "path=\"backends[1].name\"", "nothing has changed"] {
        assert!(log.contains(told), "{told} in {log}");
    }
    // Valid, and yet impossible here.
    reload(
        &mut whole,
        &full.replace("interface: eth0, routerId: 51", "interface: eth9, routerId: 51"),
        "refused",
    )?;
    assert!(whole.front_doors[0].process.log()?.contains("there is no interface eth9"));
    reload(&mut whole, "", "refused")?;
    let report = whole.site.dial_times(10)?;
    assert_eq!((report.failed, report.backends.len()), (0, 2), "{report:?}");
    assert_eq!(whole.site.link.holders()?, [0]);
    reload(&mut whole, &full, "applied")
}

#[test]
fn the_frontend_and_the_virtual_address_move() -> Result<()> {
    let mut whole = Site::whole(1, Plan::new)?;
    all_used(&whole)?;
    let full = whole.site.configuration(&Plan::new(250));
    let host = whole.site.master(0).clone();
    // Another address, beside the one that clients use: the virtual router is another one then.
    let more = full.replace("250/32\"]", "250/32\", \"172.16.60.249/32\"]");
    assert_ne!(more, full, "another address");
    reload(&mut whole, &more, "applied")?;
    until("it holds both", || {
        Ok(host.holds(VIRTUAL_ADDRESS)? && host.holds("172.16.60.249".parse().unwrap_or(VIRTUAL_ADDRESS))?)
    })?;
    let _held = connect(&whole.site)?;
    // Nobody of that name is there any longer, and the new one is found where it is.
    let elsewhere =
        full.replace("\"172.16.60.250:8443\"", "[\"172.16.60.250:8443\", \"172.16.60.241:9443\"]");
    reload(&mut whole, &elsewhere, "applied")?;
    let address = std::net::SocketAddr::from((host.address(), 9443));
    let knock = || std::net::TcpStream::connect_timeout(&address, LIMIT).map(drop);
    until("it listens there too", || Ok(whole.site.client().run(knock)?.is_ok()))?;
    reload(&mut whole, &full, "applied")?;
    until("it does no longer", || Ok(whole.site.client().run(knock)?.is_err()))?;
    until("the address is taken off", || Ok(!host.holds("172.16.60.249".parse().unwrap_or(VIRTUAL_ADDRESS))?))
}
