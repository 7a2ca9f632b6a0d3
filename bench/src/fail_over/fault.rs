//! What goes wrong, and what clients see of it.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tests::outage::{self, Dial};
use tests::traffic::{self, HoldReport};
use tests::{Error, Result, wait};

use super::contender::{ADVERT_INTERVAL, Contender, SHORTEST_ADVERT_INTERVAL};
use super::site::{Servers, Site};

const PATIENCE: Duration = Duration::from_secs(20);
/// The fault comes after so many dials: one second.
const CALM: usize = 100;
const HELD: u32 = 12;
const RELOADS: u32 = 20;
const UPGRADES: u32 = 3;
const IDLE: u32 = 9000;
/// Longer than it takes to open the idle connections and to look at them.
const LONGEST_IDLE: u32 = 60_000;
/// They may settle for so long, and are looked at for so long.
const SETTLED: Duration = Duration::from_secs(1);
const LOOKED_AT: Duration = Duration::from_secs(5);

/// A fault. The holder of the virtual address is the first master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// What holds the address is stopped in good order.
    Stopped,
    /// The same with the shortest advert interval.
    StoppedInHaste,
    /// Everything on the holder's node is killed.
    Killed,
    /// The cable of the holder is pulled.
    Unplugged,
    /// The holder's node dies, and with it its carrier and its apiserver.
    Lost,
    /// The holder is cut off and keeps its carrier; two seconds later it is back.
    Parted,
    /// The apiserver of another node is killed: it refuses.
    Refuses,
    /// The apiserver of another node accepts and says nothing any more.
    Hangs,
    /// What forwards on the holder is killed.
    Headless,
    /// What forwards on the holder reads its configuration anew, twenty times in four seconds.
    Reloaded,
    /// Another process takes the place of what forwards on the holder, three times.
    Upgraded,
    /// None: 9,000 connections idle.
    Idle,
}

/// What is seen of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// From the first dial that failed to the end of the next that did not, ms.
    Gap,
    /// The same after the holder is back, ms.
    GapOnceBack,
    /// Dials that failed.
    Failed,
    /// Dials begun after the service was back, and failed.
    FailedOnceBack,
    /// From the fault to the last dial that was to fail, ms.
    Until,
    /// Of the dials begun in that time, in percent of one second's.
    FailedShare,
    /// Held connections that broke.
    Broken,
    /// Of what forwards on the holder, MiB.
    Resident,
    /// Of the same, percent of a processor.
    Processor,
}

impl Figure {
    /// Its name and unit in the report.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Gap => "gap, ms",
            Self::GapOnceBack => "gap once it is back, ms",
            Self::Failed => "dials failed",
            Self::FailedOnceBack => "dials failed once the service was back",
            Self::Until => "until the last dial that failed, ms",
            Self::FailedShare => "dials failed, %",
            Self::Broken => "held connections broken",
            Self::Resident => "resident memory, MiB",
            Self::Processor => "processor time, %",
        }
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Stopped,
        Self::StoppedInHaste,
        Self::Killed,
        Self::Unplugged,
        Self::Lost,
        Self::Parted,
        Self::Refuses,
        Self::Hangs,
        Self::Headless,
        Self::Reloaded,
        Self::Upgraded,
        Self::Idle,
    ];

    /// Those of a quick run: one of each kind.
    pub const QUICK: [Self; 4] = [Self::Stopped, Self::Lost, Self::Hangs, Self::Headless];

    /// What happens, for progress and report.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Stopped => "holder stopped in good order",
            Self::StoppedInHaste => "the same at an advert interval of 10 ms",
            Self::Unplugged => "holder's carrier lost",
            Self::Killed => "all processes of the holder's node killed",
            Self::Lost => "holder's node lost, carrier and apiserver with it",
            Self::Parted => "holder cut off in silence for 2 s",
            Self::Refuses => "an apiserver refuses",
            Self::Hangs => "an apiserver hangs",
            Self::Headless => "forwarding killed on the holder",
            Self::Reloaded => "20 reloads in 4 s",
            Self::Upgraded => "3 upgrades in 3 s",
            Self::Idle => "9,000 idle connections held",
        }
    }

    /// What `figure` of ours should not exceed, where that of the others is `theirs`.
    pub fn bar(self, figure: Figure, theirs: Option<f64>) -> Option<f64> {
        match (self, figure) {
            (Self::Idle, Figure::Resident) => theirs.map(|theirs| theirs / 4.0),
            (Self::Idle, Figure::Processor) => Some(2.0),
            (Self::Stopped | Self::StoppedInHaste, Figure::Gap) => Some(10.0),
            (Self::Killed | Self::Unplugged | Self::Lost | Self::Parted, Figure::Gap) => Some(330.0),
            (Self::Headless, Figure::Gap) => Some(400.0),
            (Self::Parted, Figure::GapOnceBack) | (Self::Hangs, Figure::Until) => Some(1000.0),
            (Self::Hangs, Figure::FailedShare) => Some(1.0),
            (Self::Lost, Figure::FailedOnceBack)
            | (Self::Refuses, Figure::Failed)
            | (Self::Reloaded | Self::Upgraded, Figure::Failed | Figure::Broken) => Some(0.0),
            _ => None,
        }
    }

    /// Starts `contender` anew, lets it happen under the eyes of a client, and says what that saw.
    pub fn try_on(self, contender: Contender) -> Result<Vec<(Figure, f64)>> {
        let servers = if self == Self::Idle { Servers::Answers } else { Servers::Apiservers };
        let mut site = Site::start(contender, self.advert_interval(), servers)?;
        match self {
            Self::Idle => idle(&site),
            Self::Parted => parted(&site),
            Self::Reloaded => changed(&mut site, (RELOADS, Duration::from_millis(200)), |site| {
                site.masters[0].reload_balancer()
            }),
            Self::Upgraded => changed(&mut site, (UPGRADES, Duration::from_secs(1)), Site::upgrade),
            Self::Stopped
            | Self::StoppedInHaste
            | Self::Killed
            | Self::Unplugged
            | Self::Lost
            | Self::Refuses
            | Self::Hangs
            | Self::Headless => {
                let (dials, fault) = self.watched(&mut site)?;
                Ok(self.figures(&dials, fault))
            }
        }
    }

    const fn advert_interval(self) -> u32 {
        match self {
            Self::StoppedInHaste => SHORTEST_ADVERT_INTERVAL,
            _ => ADVERT_INTERVAL,
        }
    }

    /// For how many milliseconds a client dials, one second of calm before the fault included: longer than it takes either
    /// contender to get over it.
    const fn watch(self) -> u32 {
        match self {
            Self::Hangs => 7000,
            Self::Unplugged | Self::Lost | Self::Headless => 5000,
            _ => 3500,
        }
    }

    fn watched(self, site: &mut Site) -> Result<(Vec<Dial>, Duration)> {
        let mut dialing = site.dialing(self.watch())?;
        dialing.wait_for(CALM, PATIENCE)?;
        let fault = now();
        self.inflict(site)?;
        Ok((undisturbed(dialing.finish(PATIENCE)?, fault)?, fault))
    }

    fn inflict(self, site: &mut Site) -> Result<()> {
        match self {
            Self::Stopped | Self::StoppedInHaste => site.masters[0].router.terminate(PATIENCE).map(drop),
            Self::Unplugged => site.link.unplug(&site.link.masters()[0]),
            Self::Killed => site.masters[0].kill(),
            Self::Lost => {
                site.link.unplug(&site.link.masters()[0])?;
                site.masters[0].kill()
            }
            Self::Refuses => site.masters[1].apiserver.kill(),
            Self::Hangs => site.masters[1].apiserver.signal(Signal::SIGSTOP),
            Self::Headless => site.masters[0].kill_balancer(),
            // These take more than one deed.
            Self::Parted | Self::Reloaded | Self::Upgraded | Self::Idle => Ok(()),
        }
    }

    fn figures(self, dials: &[Dial], fault: Duration) -> Vec<(Figure, f64)> {
        let gap = (Figure::Gap, milliseconds(outage::longest_gap(dials)));
        match self {
            Self::Refuses => vec![gap, (Figure::Failed, count(outage::failed(dials)))],
            Self::Hangs => {
                let failed = dials.iter().filter(|dial| dial.outcome.is_err());
                let last = failed.map(|dial| dial.start).max().unwrap_or(fault);
                let since = dials.iter().filter(|dial| dial.start >= fault).count();
                let share = 100.0 * count(outage::failed(dials)) / count(since.max(1));
                vec![
                    (Figure::Until, milliseconds(last.saturating_sub(fault))),
                    (Figure::FailedShare, share),
                    (Figure::Failed, count(outage::failed(dials))),
                ]
            }
            Self::Killed | Self::Lost => vec![gap, (Figure::FailedOnceBack, count(failed_once_back(dials)))],
            Self::Stopped
            | Self::StoppedInHaste
            | Self::Unplugged
            | Self::Headless
            | Self::Parted
            | Self::Reloaded
            | Self::Upgraded
            | Self::Idle => {
                vec![gap, (Figure::Failed, count(outage::failed(dials)))]
            }
        }
    }
}

fn parted(site: &Site) -> Result<Vec<(Figure, f64)>> {
    let holder = &site.link.masters()[0];
    let mut dialing = site.dialing(6000)?;
    dialing.wait_for(CALM, PATIENCE)?;
    let fault = now();
    site.link.part(holder)?;
    dialing.wait_for(3 * CALM, PATIENCE)?;
    let back = now();
    site.link.join(holder)?;
    let dials = undisturbed(dialing.finish(PATIENCE)?, fault)?;
    let (before, after): (Vec<Dial>, Vec<Dial>) = dials.into_iter().partition(|dial| dial.start < back);
    let gap = |dials: &[Dial]| milliseconds(outage::longest_gap(dials));
    Ok(vec![(Figure::Gap, gap(&before)), (Figure::GapOnceBack, gap(&after))])
}

/// `change` so often and at this pace, under the eyes of clients.
fn changed(
    site: &mut Site,
    (times, pace): (u32, Duration),
    change: impl Fn(&mut Site) -> Result<()>,
) -> Result<Vec<(Figure, f64)>> {
    let held = site.hold(HELD, 6000)?;
    let mut dialing = site.dialing(6000)?;
    dialing.wait_for(CALM, PATIENCE)?;
    for _ in 0..times {
        change(site)?;
        wait::pace(pace);
    }
    let dials = dialing.finish(PATIENCE)?;
    let held: HoldReport = traffic::finish(held, PATIENCE)?;
    Ok(vec![(Figure::Failed, count(outage::failed(&dials))), (Figure::Broken, count(held.broken.len()))])
}

fn idle(site: &Site) -> Result<Vec<(Figure, f64)>> {
    let _idle = site.idle(IDLE, LONGEST_IDLE)?;
    let holder = &site.masters[0];
    wait::pace(SETTLED);
    let before = holder.usage()?;
    wait::pace(LOOKED_AT);
    let after = holder.usage()?;
    let share = 100.0 * (after.cpu_seconds - before.cpu_seconds) / LOOKED_AT.as_secs_f64();
    Ok(vec![(Figure::Resident, after.resident), (Figure::Processor, share)])
}

/// The dials, unless one failed before the fault: then the machine was at fault.
fn undisturbed(dials: Vec<Dial>, fault: Duration) -> Result<Vec<Dial>> {
    match dials.iter().find(|dial| dial.end < fault && dial.outcome.is_err()) {
        None => Ok(dials),
        Some(dial) => {
            let reason = format!("a dial failed before the fault: {:?}", dial.outcome);
            Err(Error::system("keep", "the peace")(std::io::Error::other(reason)))
        }
    }
}

/// How many dials failed that were begun after the first outage had ended.
fn failed_once_back(dials: &[Dial]) -> usize {
    let Some(first) = outage::outages(dials).first().copied() else { return 0 };
    dials.iter().filter(|dial| dial.start > first.end && dial.outcome.is_err()).count()
}

fn now() -> Duration {
    Duration::from_nanos_u128(wait::unix_nanoseconds())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn count(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
