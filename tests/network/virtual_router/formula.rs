//! How long a virtual address is nobody's: the formulas of RFC 9568 §6.1 and RFC 3768 §6.1, seen from the client.

use std::time::Duration;

use tests::Result;
use tests::capture::{Capture, Frame};
use tests::topology::{Family, INTERFACE};

use super::contents::advert_of;
use crate::site::{FrontDoor, LIMIT, Plan, Site, until};

/// How far from its formula a takeover may be.
const TOLERANCE: Duration = Duration::from_millis(30);
/// A busy machine may delay one or another; none comes early.
const ATTEMPTS: usize = 5;

#[derive(Clone, Copy, Debug)]
enum End {
    /// Says farewell: the skew is all there is to wait for.
    Stopped,
    /// Is silent: three intervals more.
    Killed,
}

struct Case {
    family: Family,
    router: &'static str,
    advert_interval: &'static str,
    interval: Duration,
    /// The whole of which skew is a part.
    most_skew: Duration,
}

const CASES: [Case; 3] = [
    Case {
        family: Family::Ipv4,
        router: "",
        advert_interval: "200ms",
        interval: Duration::from_millis(200),
        most_skew: Duration::from_millis(200),
    },
    Case {
        family: Family::Ipv6,
        router: "",
        advert_interval: "200ms",
        interval: Duration::from_millis(200),
        most_skew: Duration::from_millis(200),
    },
    Case {
        family: Family::Ipv4,
        router: "version: 2,",
        advert_interval: "1s",
        interval: Duration::from_secs(1),
        most_skew: Duration::from_secs(1),
    },
];

/// Of both nodes, so that it does not matter whose turn it is.
const PRIORITY: u8 = 100;

#[test]
fn an_address_is_nobodys_for_as_long_as_the_formula_says() -> Result<()> {
    for case in CASES {
        let site = Site::of(case.family, 2)?;
        let plan = Plan { router: case.router, advert_interval: case.advert_interval, ..Plan::new(PRIORITY) };
        let mut front_doors = [site.front_door(0, &plan)?, site.front_door(1, &plan)?];
        for end in [End::Killed, End::Stopped] {
            let skew = case.most_skew * (256 - u32::from(PRIORITY)) / 256;
            let expected = match end {
                End::Killed => 3 * case.interval + skew,
                End::Stopped => skew,
            };
            let what = format!("{:?} {}{end:?}", case.family, case.router);
            let mut seen = Vec::new();
            while seen.last().is_none_or(|&gap| gap > expected + TOLERANCE) {
                assert!(seen.len() < ATTEMPTS, "{what}: {expected:?} expected, {seen:?} seen");
                seen.push(gap(&site, &mut front_doors, end, &plan)?);
            }
            assert!(seen.iter().all(|&gap| gap + TOLERANCE >= expected), "{what}: {expected:?}, {seen:?}");
            println!("{what}: {expected:?} by the formula, {seen:?} seen");
        }
    }
    Ok(())
}

/// Ends the master and starts it anew; returns the time from its last word to its successor's first.
fn gap(site: &Site, front_doors: &mut [FrontDoor; 2], end: End, plan: &Plan) -> Result<Duration> {
    until("there is one master", || Ok(site.holders()?.len() == 1))?;
    let master = site.holders()?[0];
    let (old, new) = (site.master(master), site.master(1 - master));
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    capture.wait_for("the master speaks", LIMIT, |frame| advert_of(old, frame) == Some(PRIORITY))?;
    match end {
        End::Killed => front_doors[master].process.kill()?,
        End::Stopped => assert!(front_doors[master].process.terminate(LIMIT)?.success()),
    }
    let speaks = |frame: &Frame| advert_of(new, frame) == Some(PRIORITY);
    let first = capture.wait_for("the successor speaks", LIMIT, speaks)?;
    let frames = capture.frames();
    let Some(last) = frames.iter().rfind(|frame| advert_of(old, frame).is_some()) else {
        panic!("the master spoke before {first:?}")
    };
    front_doors[master] = site.front_door(master, plan)?;
    Ok(first.at - last.at)
}
