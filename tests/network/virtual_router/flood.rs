//! Packets without end.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::capture::Capture;
use tests::topology::{Family, INTERFACE};
use tests::{Error, Result, wait};

use super::forgery::{Finish, Forger, Forgery, rejected, rhythm};
use crate::site::{FrontDoor, Plan, Site, throughout, until};

/// How many packets are sent between two pauses, and how long these are: at most 60,000 a second.
const BURST: usize = 300;
const PAUSE: Duration = Duration::from_millis(5);
/// Nothing here takes longer.
const SPAN: Duration = Duration::from_secs(5);

/// Sends `forgery` as fast as is allowed here, while `work` goes on.
fn flood<T>(forger: &Forger, forgery: &Forgery, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let begun = wait::now();
            while !done.load(Ordering::Relaxed) && begun.elapsed() < SPAN {
                (0..BURST).try_for_each(|_| forger.send(forgery))?;
                wait::pace(PAUSE);
            }
            Ok(())
        });
        let finish = Finish(&done);
        let outcome = work();
        drop(finish);
        match flooding.join() {
            Ok(flooded) => flooded.and(outcome),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// How much time of a processor the front door has used.
fn used(front_door: &FrontDoor) -> Result<Duration> {
    let path = format!("/proc/{}/stat", front_door.process.id());
    let stat = fs::read_to_string(&path).map_err(Error::system("read", &path))?;
    // `utime` and `stime` are fields 14 and 15, in hundredths of a second (proc_pid_stat(5)); the third follows the name.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split_whitespace();
    let times: Vec<u64> = fields.skip(14 - 3).take(2).filter_map(|time| time.parse().ok()).collect();
    Ok(Duration::from_millis(10 * times.iter().sum::<u64>()))
}

#[test]
fn a_flood_takes_neither_the_address_nor_the_rhythm_nor_the_processor() -> Result<()> {
    let site = Site::new(2)?;
    let (host, forger) = (site.master(0), Forger::new(site.link.client(), Family::Ipv4)?);
    let front_door = site.front_door(0, &Plan::new(250))?;
    until("the first holds the address", || Ok(site.link.holders()? == [0]))?;
    let _backup = site.front_door(1, &Plan::new(240))?;
    let capture = Capture::on_interface(host.namespace(), INTERFACE)?;
    let undisturbed = rhythm(host, &capture)?;
    let strange = Forgery::perfect(forger.from).with(0, 0x41);
    let (begun, before) = (wait::now(), used(&front_door)?);
    let disturbed = flood(&forger, &strange, || rhythm(host, &capture))?;
    let share = used(&front_door)?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    eprintln!("SHARE {share}");
    assert!(share < 0.25, "{share} of a processor");
    let ratio = disturbed.as_secs_f64() / undisturbed.as_secs_f64();
    assert!((0.8..1.2).contains(&ratio), "{undisturbed:?} undisturbed, {disturbed:?} in a flood");
    assert!(rejected(&front_door, "version")? > 1000, "the flood did arrive");
    assert_eq!(site.link.holders()?, [0]);

    // Nothing is wrong with these, but that their sender is the weaker one; each wants an answer.
    let weaker = Forgery::perfect(forger.from).with(2, 1);
    let before = used(&front_door)?;
    let span = Duration::from_secs(2);
    let holds = || throughout(span, "the address stays", || Ok(site.link.holders()? == [0]));
    flood(&forger, &weaker, holds)?;
    let share = used(&front_door)?.saturating_sub(before).as_secs_f64() / span.as_secs_f64();
    eprintln!("SHARE {share}");
    assert!(share < 0.5, "{share} of a processor");
    let log = front_door.process.log()?;
    assert!(log.lines().count() < 50, "{log}");
    Ok(())
}
