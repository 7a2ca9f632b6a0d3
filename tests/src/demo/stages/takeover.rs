//! The virtual address moves: its holder dies, or leaves in good order.

use std::time::Duration;

use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise, shown};
use crate::demo::load::{Load, Way};
use crate::demo::network::MASTERS;
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::outage::{self, Dial};

const RATE: u32 = 100;
const MILLISECONDS: u32 = 3000;
/// The fault comes after so many dials.
const CALM: usize = 100;
/// What the death of a node may cost.
const DEATH: Duration = Duration::from_millis(350);
/// What a farewell may cost.
const FAREWELL: Duration = Duration::from_millis(10);
/// How often the front door is stopped.
const STOPS: usize = 3;
/// What the others reached at an advert interval of 100 ms.
const OTHERS_AT_DEATH: &str = "331-358 ms";
const OTHERS_AT_FAREWELL: &str = "70 ms";

/// SIGKILL and a cut cable: the whole node.
pub(crate) fn node_dies(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        3,
        "The node that holds the virtual address dies",
        "cable cut, SIGKILL to fairway-lb and apiserver; a client goes on with 100 new TLS connections a second",
    )?;
    let takeover = death(site, screen)?;
    takeover.show(screen, DEATH)?;
    let back = MASTERS[takeover.before];
    let holder = site.holder(|_| true)?;
    let stays = holder == takeover.after;
    screen.result(stays, &format!("{back} is back, as backup: {} keeps the address", MASTERS[holder]))?;
    Ok(vec![
        Figure::new("node_killed_gap", "node killed: gap", Found::Time(takeover.gap()))
            .promised(Promise::Within(DEATH))
            .against(OTHERS_AT_DEATH),
        Figure::new("node_killed_silence", "node killed: no answer for", Found::Time(takeover.silence())),
        Figure::new("node_killed_failed", "node killed: dials failed", takeover.failures()),
        Figure::new(
            "node_back_role",
            "node back as",
            Found::Word(if stays { "backup" } else { "master" }.into()),
        )
        .promised(Promise::Word("backup")),
    ])
}

/// SIGTERM, a few times.
pub(crate) fn front_door_stops(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    let remark =
        "SIGTERM: it says goodbye, and keeps the address until the next one has it; three times, same client";
    screen.stage(8, "The front door that holds the virtual address is stopped", remark)?;
    let gaps = repeat(site, screen, farewell, STOPS, FAREWELL)?;
    Ok(vec![stopped(gaps)])
}

/// Both, `rounds` times each.
pub(crate) fn again_and_again(site: &mut Site, screen: &mut Screen, rounds: usize) -> Result<Vec<Figure>> {
    let remark = format!("{rounds} rounds, 100 new TLS connections a second");
    screen.stage(2, "The node that holds the virtual address dies", &remark)?;
    let killed = Found::Times(repeat(site, screen, death, rounds, DEATH)?);
    screen.stage(3, "The front door that holds the virtual address is stopped", &remark)?;
    let stopped = stopped(repeat(site, screen, farewell, rounds, FAREWELL)?);
    let killed =
        Figure::new("node_killed_gaps", "node killed: gaps", killed).promised(Promise::Within(DEATH));
    Ok(vec![killed.against(OTHERS_AT_DEATH), stopped])
}

fn stopped(gaps: Vec<Duration>) -> Figure {
    let figure = Figure::new("stopped_gaps", "front door stopped: gaps", Found::Times(gaps));
    figure.promised(Promise::Usually(FAREWELL)).against(OTHERS_AT_FAREWELL)
}

/// The gap of each of so many rounds.
fn repeat(
    site: &mut Site,
    screen: &mut Screen,
    round: fn(&mut Site, &mut Screen) -> Result<Takeover>,
    rounds: usize,
    limit: Duration,
) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let takeover = round(site, screen)?;
        takeover.show(screen, limit)?;
        gaps.push(takeover.gap());
    }
    Ok(gaps)
}

/// What a client saw while the address moved.
struct Takeover {
    before: usize,
    after: usize,
    dials: Vec<Dial>,
}

impl Takeover {
    fn gap(&self) -> Duration {
        outage::longest_gap(&self.dials)
    }

    fn silence(&self) -> Duration {
        outage::longest_silence(&self.dials)
    }

    fn failures(&self) -> Found {
        Found::Count(outage::failed(&self.dials), self.dials.len())
    }

    fn show(&self, screen: &mut Screen, limit: Duration) -> Result<()> {
        screen.say(&chart::timeline(&self.dials, screen.has_colours()))?;
        let [before, after] = [self.before, self.after].map(|position| MASTERS[position]);
        let (gap, silence) = (shown(self.gap()), shown(self.silence()));
        let failed = outage::failed(&self.dials);
        let text = format!(
            "{before} -> {after}: gap {gap}, {failed} dials failed, longest wait for an answer {silence}"
        );
        screen.result(self.gap() <= limit, &text)
    }
}

/// The whole node dies, and comes back.
fn death(site: &mut Site, screen: &mut Screen) -> Result<Takeover> {
    let takeover = watched(site, screen, |site, holder| site.masters[holder].die(&site.network))?;
    site.masters[takeover.before].boot(&site.network, &site.control_plane)?;
    site.settle()?;
    Ok(takeover)
}

/// The front door ends as asked, and is started again.
fn farewell(site: &mut Site, screen: &mut Screen) -> Result<Takeover> {
    let takeover = watched(site, screen, |site, holder| site.masters[holder].stop_front_door())?;
    site.masters[takeover.before].start_front_door(&site.network, &site.control_plane)?;
    site.settle()?;
    Ok(takeover)
}

/// Takes the address from its holder by `fault` under the eyes of a client.
fn watched(
    site: &mut Site,
    screen: &mut Screen,
    fault: impl FnOnce(&mut Site, usize) -> Result<()>,
) -> Result<Takeover> {
    let before = site.holder(|_| true)?;
    let mut load = Load::start(site, Way::FrontDoor, RATE, MILLISECONDS)?;
    load.until(screen, |dials| dials.len() >= CALM)?;
    fault(site, before)?;
    let dials = load.finish(screen)?;
    let after = site.holder(|position| position != before)?;
    Ok(Takeover { before, after, dials })
}
