//! Connections are spread exactly.

use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise};
use crate::demo::load::{Load, Way};
use crate::demo::network::MASTERS;
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::outage;

/// How many connections each way; a multiple of three.
const DIALS: u32 = 300;
const RATE: u32 = 200;
/// How wide the bar of the largest share is.
const BAR: usize = 16;

/// Over the apiservers: by the relay of the front door, and by the kernel of the worker.
pub(crate) fn over_apiservers(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        2,
        "Connections spread over the three apiservers",
        "300 TLS connections with a request each: through the virtual address, and through Service 10.254.0.1",
    )?;
    let door = dial_and_count(site, screen, Way::FrontDoor, (DIALS, RATE), &MASTERS)?;
    let service = dial_and_count(site, screen, Way::Kubernetes, (DIALS, RATE), &MASTERS)?;
    Ok(vec![
        door.named("spread_front_door", "spread by the front door"),
        service.named("spread_service", "spread by the Service"),
    ])
}

/// A spread without a name.
pub(crate) struct Spread {
    found: Found,
    promise: Promise,
}

impl Spread {
    /// Names it.
    pub(crate) fn named(self, key: &'static str, title: &'static str) -> Figure {
        Figure::new(key, title, self.found).promised(self.promise)
    }
}

/// Dials so many times at a rate and shows who answered: each of `names` as often as any other, that is the promise.
pub(crate) fn dial_and_count(
    site: &Site,
    screen: &mut Screen,
    way: Way,
    (dials, rate): (u32, u32),
    names: &'static [&'static str],
) -> Result<Spread> {
    let answers = Load::start(site, way, rate, dials * 1000 / rate)?.finish(screen)?;
    let spread = outage::spread(&answers);
    let share = answers.len() / names.len();
    let kept = spread.len() == names.len() && spread.values().all(|&found| found == share);
    let name = match way {
        Way::FrontDoor => "virtual address",
        Way::Kubernetes | Way::Web | Way::Nobody => "Service",
        Way::WebByUdp => "Service, UDP",
    };
    screen.result(kept, &format!("{name:<16} {}", chart::bars(&spread, BAR)))?;
    Ok(Spread { found: Found::Spread(spread), promise: Promise::Even(names, share) })
}
