//! Pods come and go: traffic follows.

use std::time::Duration;

use super::spread::dial_and_count;
use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise, shown};
use crate::demo::load::{self, Load, Way};
use crate::demo::measure::{self, Dial};
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::demo::worker::Worker;

/// Fine enough to tell milliseconds; a pod's turn comes every three dials.
const RATE: u32 = 500;
const MILLISECONDS: u32 = 6000;
/// How often p3 joins and leaves.
const CHANGES: usize = 10;
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
    let two = dial_and_count(site, screen, Way::Web, (DIALS, RATE), &[("p1", DIALS / 2), ("p2", DIALS / 2)])?;
    let (mut followed, mut in_proxy) = (Vec::new(), Vec::new());
    let mut load = Load::start(site, Way::Web, RATE, MILLISECONDS)?;
    for number in 0..CHANGES {
        let joins = number % 2 == 0;
        site.write_endpoints(if joins { &["p1", "p2", "p3"] } else { &["p1", "p2"] })?;
        let written = load::now();
        load.until(screen, |dials| has_followed(dials, joins, written))?;
        followed.push(delay(load.dials()?, joins, written));
        in_proxy.extend(Worker::latest_change(&site.network)?);
    }
    site.write_endpoints(&["p1", "p2", "p3"])?;
    let written = load::now();
    load.until(screen, |dials| has_followed(dials, true, written))?;
    let dials = load.finish(screen)?;
    let failed = measure::failed(&dials);
    screen.say(&chart::timeline(&dials, screen.has_colours()))?;
    screen.result(
        failed == 0,
        &format!(
            "traffic followed {} after the write returned (median of {CHANGES}), {} in the proxy; {failed} of {} dials failed",
            shown(measure::median(&followed).unwrap_or_default()),
            shown(measure::median(&in_proxy).unwrap_or_default()),
            dials.len()
        ),
    )?;
    let third = DIALS / 3;
    let three = dial_and_count(
        site,
        screen,
        Way::Web,
        (DIALS, RATE),
        &[("p1", third), ("p2", third), ("p3", third)],
    )?;
    Ok(vec![
        Figure::new("endpoints_followed", "endpoints changed: traffic after", Found::Times(followed)),
        Figure::new("endpoints_proxy", "... of that in the proxy", Found::Times(in_proxy)),
        Figure::new("endpoints_failed", "... dials failed", Found::Count(failed, dials.len()))
            .promised(Promise::None),
        two.into_figure("spread_two_pods", "spread over two pods"),
        three.into_figure("spread_three_pods", "spread over three pods"),
    ])
}

/// Whether the dials begun after a write show that p3 has joined, or has left.
fn has_followed(dials: &[Dial], joins: bool, written: Duration) -> bool {
    let mut after: Vec<&Dial> = dials.iter().filter(|dial| dial.start >= written).collect();
    after.sort_by_key(|dial| dial.start);
    if joins {
        after.iter().any(|dial| is_third(dial))
    } else {
        after.len() >= WITHOUT && !after[after.len() - WITHOUT..].iter().any(|dial| is_third(dial))
    }
}

/// From the write's return to the first dial on p3, or the last; zero if that was before.
fn delay(dials: &[Dial], joins: bool, written: Duration) -> Duration {
    let on_third = dials.iter().filter(|dial| is_third(dial)).map(|dial| dial.start);
    let moment = if joins { on_third.filter(|&start| start >= written).min() } else { on_third.max() };
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
        let written = Duration::from_millis(10);
        let joined = dials(&[(8, "p3"), (12, "p1"), (14, "p2"), (16, "p3"), (22, "p3")]);
        assert!(has_followed(&joined, true, written) && !has_followed(&joined[..3], true, written));
        assert_eq!(delay(&joined, true, written), Duration::from_millis(6));
        let left =
            dials(&[(12, "p3"), (14, "p1"), (16, "p2"), (18, "p1"), (20, "p2"), (22, "p1"), (24, "p2")]);
        assert!(has_followed(&left, false, written) && !has_followed(&left[..6], false, written));
        assert_eq!(delay(&left, false, written), Duration::from_millis(2));
        assert_eq!(delay(&left, false, Duration::from_millis(13)), Duration::ZERO);
    }
}
