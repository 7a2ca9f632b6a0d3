//! Connections are spread exactly.

use std::collections::BTreeMap;

use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise};
use crate::demo::load::{Load, Way};
use crate::demo::measure;
use crate::demo::network::MASTERS;
use crate::demo::screen::Screen;
use crate::demo::site::Site;

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
    let even: Vec<_> = MASTERS.iter().map(|master| (*master, DIALS / 3)).collect();
    let door = dial_and_count(site, screen, Way::FrontDoor, (DIALS, RATE), &even)?;
    let service = dial_and_count(site, screen, Way::Kubernetes, (DIALS, RATE), &even)?;
    Ok(vec![
        door.into_figure("spread_front_door", "spread by the front door"),
        service.into_figure("spread_service", "spread by the Service"),
    ])
}

/// A spread as found and as promised.
pub(crate) struct Spread {
    found: BTreeMap<String, usize>,
    promised: BTreeMap<String, usize>,
}

impl Spread {
    /// Names it.
    pub(crate) fn into_figure(self, key: &'static str, title: &'static str) -> Figure {
        Figure::new(key, title, Found::Spread(self.found)).promised(Promise::Exactly(self.promised))
    }
}

/// Dials so many times at a rate and shows who answered; the promise is `expected` of each.
pub(crate) fn dial_and_count(
    site: &Site,
    screen: &mut Screen,
    way: Way,
    (dials, rate): (u32, u32),
    expected: &[(&str, u32)],
) -> Result<Spread> {
    let answers = Load::start(site, way, rate, dials * 1000 / rate)?.finish(screen)?;
    let found = measure::spread(&answers);
    let promised = expected.iter().map(|&(name, share)| (name.to_owned(), share as usize)).collect();
    let name = match way {
        Way::FrontDoor => "virtual address",
        Way::Kubernetes | Way::Web | Way::Nobody => "Service",
    };
    screen.result(found == promised, &format!("{name:<16} {}", chart::bars(&found, BAR)))?;
    Ok(Spread { found, promised })
}
