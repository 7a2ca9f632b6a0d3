//! Pods come and go: traffic follows.

use std::time::Duration;

use super::spread::dial_and_count;
use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise, shown};
use crate::demo::load::{self, Load, Way};
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::demo::worker::Worker;
use crate::outage::{self, Dial};

/// Fine enough to tell milliseconds; a pod's turn comes every three dials.
const RATE: u32 = 500;
const MILLISECONDS: u32 = 4000;
/// How often p3 joins or leaves; it joins last.
const CHANGES: usize = 11;
/// What may pass between a watch event and its change being in force.
const IN_PROXY: Duration = Duration::from_millis(10);
const TWO: &[&str] = &["p1", "p2"];
const THREE: &[&str] = &["p1", "p2", "p3"];
/// So many dials in a row without p3 show that it is out.
const WITHOUT: usize = 6;
/// How many dials show a spread; a multiple of two and three.
const DIALS: u32 = 90;

/// p3 joins and leaves again and again.
pub(crate) fn change(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        5,
        "Pods join and leave a Service",
        "endpoints written through the virtual address, 500 dials a second through the Service from another pod",
    )?;
    let two = dial_and_count(site, screen, Way::Web, (DIALS, RATE), TWO)?;
    let (mut joined, mut left, mut in_proxy) = (Vec::new(), Vec::new(), Vec::new());
    let mut load = Load::start(site, Way::Web, RATE, MILLISECONDS)?;
    for number in 1..=CHANGES {
        let joins = number % 2 == 1;
        let begun = load::now();
        site.write_endpoints(if joins { THREE } else { TWO })?;
        let written = load::now();
        load.until(screen, |dials| has_followed(dials, joins, (begun, written)))?;
        let times = if joins { &mut joined } else { &mut left };
        times.push(delay(load.dials()?, joins, (begun, written)));
        in_proxy.extend(Worker::latest_change(&site.network)?);
    }
    let dials = load.finish(screen)?;
    let failed = outage::failed(&dials);
    screen.say(&chart::timeline(&dials, screen.has_colours()))?;
    let [first, last, proxy] =
        [&joined, &left, &in_proxy].map(|times| shown(outage::median(times).unwrap_or_default()));
    screen.result(true, &format!("first connection on p3 {first} after the write returned, last one {last} after it left; the proxy took {proxy}"))?;
    screen.result(
        failed == 0,
        &format!("{failed} of {} connections failed while it joined and left {CHANGES} times", dials.len()),
    )?;
    let three = dial_and_count(site, screen, Way::Web, (DIALS, RATE), THREE)?;
    let by_udp = dial_and_count(site, screen, Way::WebByUdp, (DIALS, RATE), THREE)?;
    Ok(vec![
        Figure::new("endpoint_joined", "pod joined: first connection", Found::Times(joined)),
        Figure::new("endpoint_left", "pod left: last connection", Found::Times(left)),
        Figure::new("endpoint_in_proxy", "pods changed: watch event to kernel", Found::Times(in_proxy))
            .promised(Promise::Usually(IN_PROXY)),
        Figure::new("endpoints_failed", "pods changed: dials failed", Found::Count(failed, dials.len()))
            .promised(Promise::None),
        two.named("spread_two_pods", "spread over two pods"),
        three.named("spread_three_pods", "spread over three pods"),
        by_udp.named("spread_by_udp", "spread by UDP"),
    ])
}

/// Whether dials show that p3 has joined, or has left, by a write that was begun and had returned at these times.
fn has_followed(dials: &[Dial], joins: bool, (begun, written): (Duration, Duration)) -> bool {
    if joins {
        return dials.iter().any(|dial| dial.start >= begun && is_third(dial));
    }
    let mut after: Vec<&Dial> = dials.iter().filter(|dial| dial.start >= written).collect();
    after.sort_by_key(|dial| dial.start);
    after.len() >= WITHOUT && !after[after.len() - WITHOUT..].iter().any(|dial| is_third(dial))
}

/// From the write's return to the first dial on p3, or the last; zero if that was before.
fn delay(dials: &[Dial], joins: bool, (begun, written): (Duration, Duration)) -> Duration {
    let on_third = dials.iter().filter(|dial| is_third(dial)).map(|dial| dial.start);
    let moment = if joins { on_third.filter(|&start| start >= begun).min() } else { on_third.max() };
    moment.unwrap_or_default().saturating_sub(written)
}

fn is_third(dial: &Dial) -> bool {
    dial.outcome.as_deref() == Ok("p3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dials(rows: &[(u64, &str)]) -> Vec<Dial> {
        let ms = Duration::from_millis;
        rows.iter()
            .map(|&(at, name)| Dial { start: ms(at), end: ms(at + 1), outcome: Ok(name.to_owned()) })
            .collect()
    }

    #[test]
    fn a_pod_has_joined_with_its_first_connection_and_left_after_its_last() {
        let ms = Duration::from_millis;
        let write = (ms(6), ms(10));
        let joined = dials(&[(2, "p3"), (12, "p1"), (14, "p2"), (16, "p3"), (22, "p3")]);
        assert!(has_followed(&joined, true, write) && !has_followed(&joined[..3], true, write));
        assert_eq!(delay(&joined, true, write), ms(6));
        assert_eq!(delay(&dials(&[(8, "p3"), (16, "p3")]), true, write), Duration::ZERO);
        let left =
            dials(&[(12, "p3"), (14, "p1"), (16, "p2"), (18, "p1"), (20, "p2"), (22, "p1"), (24, "p2")]);
        assert!(has_followed(&left, false, write) && !has_followed(&left[..6], false, write));
        assert_eq!(delay(&left, false, write), ms(2));
        assert_eq!(delay(&left, false, (ms(6), ms(13))), Duration::ZERO);
    }
}
