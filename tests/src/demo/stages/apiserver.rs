//! An apiserver is about to stop: new connections go elsewhere, those it has live on.

use std::time::Duration;

use super::spread::dial_and_count;
use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise, shown};
use crate::demo::load::{self, Held, Load, Way};
use crate::demo::network::MASTERS;
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::outage::{self, Dial};

const RATE: u32 = 100;
const MILLISECONDS: u32 = 3500;
const HELD: u32 = 9;
/// The apiserver drains after so many dials.
const CALM: usize = 100;
/// Two probes, half a second apart, must have failed by then.
const DRAINED: Duration = Duration::from_millis(1500);
/// How many dials show that the one in its place is used.
const DIALS: u32 = 150;

/// It drains while clients watch, and another takes its place.
pub(crate) fn drains(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        4,
        "An apiserver turns unready, and is drained",
        "/readyz fails while it still serves; 100 new connections a second go on, nine held ones keep asking",
    )?;
    let (position, name) = (MASTERS.len() - 1, MASTERS[MASTERS.len() - 1]);
    let held = Held::open(site, HELD, MILLISECONDS)?;
    let mut load = Load::start(site, Way::FrontDoor, RATE, MILLISECONDS)?;
    load.until(screen, |dials| dials.len() >= CALM)?;
    let unready = load::now();
    site.drain_apiserver(position)?;
    let dials = load.finish(screen)?;
    let held = held.finish()?;

    let (failed, broken) = (outage::failed(&dials), held.broken.len());
    let drained = last_on(&dials, name).saturating_sub(unready);
    screen.say(&chart::timeline(&dials, screen.has_colours()))?;
    let text = format!(
        "{failed} of {} connections failed; {name} got its last {} after it turned unready",
        dials.len(),
        shown(drained)
    );
    screen.result(failed == 0 && drained <= DRAINED, &text)?;
    let text = format!(
        "{broken} of {} held connections broke; {} requests answered on them",
        held.opened, held.answered
    );
    screen.result(broken == 0, &text)?;
    screen.live("another apiserver takes its place …")?;
    site.replace_apiserver(position)?;
    site.settle()?;
    let again = dial_and_count(site, screen, Way::FrontDoor, (DIALS, RATE), &MASTERS)?;
    Ok(vec![
        Figure::new("drain_failed", "apiserver drained: dials failed", Found::Count(failed, dials.len()))
            .promised(Promise::None),
        Figure::new("drain_broken", "apiserver drained: held ones broken", Found::Count(broken, held.opened))
            .promised(Promise::None),
        Figure::new("drain_took", "apiserver drained: last new one after", Found::Time(drained))
            .promised(Promise::Within(DRAINED)),
        again.named("spread_after_drain", "spread once it is back"),
    ])
}

/// When the last dial began that `name` answered.
fn last_on(dials: &[Dial], name: &str) -> Duration {
    let on_it = dials.iter().filter(|dial| dial.outcome.as_deref() == Ok(name));
    on_it.map(|dial| dial.start).max().unwrap_or_default()
}
