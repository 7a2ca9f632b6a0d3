//! The proxy is killed, and what a Service without endpoints answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Result;
use crate::demo::chart;
use crate::demo::figure::{Figure, Found, Promise, shares, shown};
use crate::demo::load::{Load, Way};
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::outage;

const RATE: u32 = 100;
const MILLISECONDS: u32 = 3000;
/// The proxy is killed after so many dials, and started again after so many more.
const CALM: usize = 75;
/// How a refusal reads to a client.
const REFUSED: &str = "Connection refused (os error 111)";
/// A refusal must come before anything could have been sent and waited for.
const AT_ONCE: Duration = Duration::from_millis(50);

/// `kill -9`, and a start.
pub(crate) fn is_killed(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        6,
        "kill -9 of fairway-proxy",
        "a pod goes on dialing the Service 100 times a second while the proxy is dead, and while it starts again",
    )?;
    let mut load = Load::start(site, Way::Web, RATE, MILLISECONDS)?;
    load.until(screen, |dials| dials.len() >= CALM)?;
    site.worker.kill_proxy()?;
    load.until(screen, |dials| dials.len() >= 2 * CALM)?;
    site.worker.start_proxy(&site.network)?;
    site.worker.await_proxy(&site.network)?;
    let dials = load.finish(screen)?;
    let failed = outage::failed(&dials);
    screen.say(&chart::timeline(&dials, screen.has_colours()))?;
    let spread = shares(&outage::spread(&dials));
    screen.result(failed == 0, &format!("{failed} of {} connections failed ({spread})", dials.len()))?;
    let found = Found::Count(failed, dials.len());
    Ok(vec![Figure::new("proxy_killed_failed", "proxy killed: dials failed", found).promised(Promise::None)])
}

/// Nobody is behind the Service: the client is told so at once.
pub(crate) fn refuses(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(7, "A Service without endpoints", "a pod dials it ten times")?;
    let dials = Load::start(site, Way::Nobody, 20, 500)?.finish(screen)?;
    let times: Vec<Duration> = dials.iter().map(|dial| dial.end.saturating_sub(dial.start)).collect();
    let reasons = outage::reasons(&dials);
    let as_expected = BTreeMap::from([(REFUSED.to_owned(), dials.len())]);
    let answer = if reasons == as_expected {
        "refused".to_owned()
    } else {
        format!("not all refused: {}", shares(&reasons))
    };
    let time = outage::median(&times).unwrap_or_default();
    screen.result(reasons == as_expected, &format!("{answer}, {} after the dial", shown(time)))?;
    Ok(vec![
        Figure::new("no_endpoints_answer", "no endpoints: connections are", Found::Word(answer))
            .promised(Promise::Word("refused")),
        Figure::new("no_endpoints_time", "no endpoints: told so after", Found::Times(times))
            .promised(Promise::Within(AT_ONCE)),
    ])
}
