//! Clients reach apiservers through the virtual address.

mod backends;
mod command_line;
mod operator;
mod reload;
mod upgrade;

use std::net::TcpStream;

use tests::topology::FRONT_DOOR;
use tests::{Error, Result};

use crate::site::{LIMIT, Plan, Site, WholeSite, name, until};

#[test]
fn connections_go_to_each_apiserver_in_turn() -> Result<()> {
    let whole = Site::whole(3, Plan::new)?;
    all_used(&whole)?;
    let report = whole.site.dial_times(60)?;
    assert_eq!((report.attempts, report.failed), (60, 0), "{report:?}");
    let spread: Vec<(&str, usize)> =
        report.backends.iter().map(|(name, &count)| (name.as_str(), count)).collect();
    assert_eq!(spread, [("m1", 20), ("m2", 20), ("m3", 20)]);
    Ok(())
}

#[test]
fn connections_go_to_whoever_has_fewest() -> Result<()> {
    let balance = "least-connections";
    let whole = Site::whole(3, |priority| Plan { balance, ..Plan::new(priority) })?;
    all_used(&whole)?;
    let front_door = &whole.front_doors[0];
    let active = || {
        let of = |master| front_door.metric(&format!("connections_active{{backend=\"{}\"}}", name(master)));
        (0..3).map(of).collect::<Result<Vec<u64>>>()
    };
    // One at a time, so that it shows who got which.
    let mut held: Vec<(usize, TcpStream)> = Vec::new();
    let open = || {
        let before = active()?;
        let stream = connect(&whole.site)?;
        let mut taker = None;
        until("somebody has taken the connection", || {
            taker = active()?.iter().zip(&before).position(|(after, before)| after > before);
            Ok(taker.is_some())
        })?;
        Ok::<_, Error>((taker.unwrap_or_default(), stream))
    };
    for _ in 0..6 {
        held.push(open()?);
    }
    assert_eq!(active()?, [2, 2, 2]);
    // In turn would not do from here on.
    held.retain(|(taker, _)| *taker != 1);
    until("the second has none left", || Ok(active()? == [2, 0, 2]))?;
    for _ in 0..2 {
        held.push(open()?);
    }
    assert_eq!(active()?, [2, 2, 2]);
    Ok(())
}

#[test]
fn it_tells_how_it_is_until_it_ends_when_asked() -> Result<()> {
    let mut whole = Site::whole(1, Plan::new)?;
    let healthz = whole.front_doors[0].ask("/healthz")?;
    assert!(healthz.starts_with("HTTP/1.1 200 ") && healthz.ends_with("\r\n\r\nok\n"), "{healthz}");
    assert!(whole.front_doors[0].ask("/metric")?.starts_with("HTTP/1.1 404 "));
    whole.site.dial_times(5)?;
    let metrics = whole.front_doors[0].ask("/metrics")?;
    for line in [
        "fairway_lb_backend_up{backend=\"m1\"} 1",
        "fairway_lb_connections_total{backend=\"m1\"} 5",
        "fairway_lb_connections_refused_total{reason=\"down\"} 0",
        "fairway_lb_vrrp_state{instance=\"eth0-51-ipv4\"} 2",
        "fairway_lb_vrrp_transitions_total{instance=\"eth0-51-ipv4\",to=\"master\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "there is no {line} in {metrics}");
    }
    // With a client that would stay.
    let _client = connect(&whole.site)?;
    let status = whole.front_doors[0].process.terminate(LIMIT)?;
    assert_eq!(status.code(), Some(0));
    assert!(whole.front_doors[0].process.log()?.contains("front door closed"));
    assert_eq!(whole.site.link.holders()?, [0; 0]);
    Ok(())
}

/// Waits until the holder sends connections to every apiserver.
fn all_used(whole: &WholeSite) -> Result<()> {
    let used = || (0..whole.apiservers.len()).map(|master| whole.front_doors[0].uses(master));
    until("every apiserver is used", || Ok(used().collect::<Result<Vec<_>>>()?.iter().all(|used| *used)))
}

/// A connection of the client to the virtual address.
fn connect(site: &Site) -> Result<TcpStream> {
    let connect = || TcpStream::connect_timeout(&FRONT_DOOR, LIMIT);
    site.client().run(connect)?.map_err(Error::system("connect to", FRONT_DOOR))
}
