//! An interface that comes and goes, and a link that loses frames.

use std::fs;
use std::time::Duration;

use tests::capture::{Capture, Frame};
use tests::topology::INTERFACE;
use tests::{Error, Result, wait};

use super::contents::advert_of;
use crate::site::{FrontDoor, Plan, Site, throughout, until};

const INTERVAL: Duration = Duration::from_millis(200);
/// Three intervals and a skew, of the weakest router here.
const DOWN: Duration = Duration::from_millis(620);

/// How many descriptors and threads a front door has.
fn belongings(front_door: &FrontDoor) -> Result<(usize, usize)> {
    let count = |of: &str| {
        let path = format!("/proc/{}/{of}", front_door.process.id());
        fs::read_dir(&path).map(Iterator::count).map_err(Error::system("list", path))
    };
    Ok((count("fd")?, count("task")?))
}

fn two_nodes() -> Result<(Site, FrontDoor, FrontDoor)> {
    let site = Site::new(2)?;
    let first = site.front_door(0, &Plan::new(250))?;
    until("the first holds the address", || Ok(site.link.holders()? == [0]))?;
    let second = site.front_door(1, &Plan::new(240))?;
    Ok((site, first, second))
}

#[test]
fn a_flapping_link_settles_and_leaves_nothing_behind() -> Result<()> {
    let (site, first, _second) = two_nodes()?;
    let before = belongings(&first)?;
    let flapping = site.master(0).namespace();
    for _ in 0..20 {
        flapping.link_down(INTERFACE)?;
        wait::pace(INTERVAL);
        flapping.link_up(INTERFACE)?;
        wait::pace(INTERVAL * 3 / 2);
    }
    let settled = wait::now();
    until("one node holds the address", || Ok(site.link.holders()?.len() == 1))?;
    let holder = site.link.holders()?;
    assert!(settled.elapsed() < DOWN + Duration::from_secs(1), "only after {:?}", settled.elapsed());
    throughout(2 * DOWN, "the same node holds the address", || Ok(site.link.holders()? == holder))?;
    until("it has what it had before", || Ok(belongings(&first)? == before))
}

#[test]
fn an_interface_that_is_made_anew_is_taken_up_again() -> Result<()> {
    let (site, first, mut second) = two_nodes()?;
    let before = belongings(&first)?;
    let host = site.master(0);
    for _ in 0..3 {
        site.link.remove(host)?;
        until("the second alone holds the address", || Ok(site.link.holders()? == [1]))?;
        assert_eq!(first.metric("vrrp_state")?, 0);
        let _anew = site.link.restore(host)?;
        until("the first takes part again", || Ok(first.metric("vrrp_state")? == 1))?;
        throughout(2 * DOWN, "nothing else changes", || Ok(site.link.holders()? == [1]))?;
    }
    assert_eq!(belongings(&first)?, before);
    second.process.terminate(DOWN * 10)?;
    until("the first takes over", || Ok(site.link.holders()? == [0]))
}

#[test]
fn a_backup_takes_over_only_after_real_silence_however_many_frames_are_lost() -> Result<()> {
    let (site, _first, second) = two_nodes()?;
    let (master, backup) = (site.master(0), site.master(1));
    let takeovers = || second.metric("vrrp_transitions_total{to=\"master\"}");
    let (mut arrived, mut sent) = (0, 0);
    for (percent, span) in [(10, 5), (30, 8)] {
        let (heard, said) = (
            Capture::on_interface(backup.namespace(), INTERFACE)?,
            Capture::on_interface(master.namespace(), INTERFACE)?,
        );
        let before = takeovers()?;
        let mut both_since = None;
        site.link.lose(backup, percent)?;
        throughout(Duration::from_secs(span), "there are two masters for a second at most", || {
            if site.link.holders()?.len() < 2 {
                both_since = None;
                return Ok(true);
            }
            let since = *both_since.get_or_insert_with(wait::now);
            Ok(since.elapsed() < Duration::from_secs(1))
        })?;
        site.link.lose(backup, 0)?;
        until("the stronger alone holds the address", || Ok(site.link.holders()? == [0]))?;
        // What it heard of the master, and how long it heard nothing.
        let frames = heard.frames();
        let of_master = |frame: &&Frame| advert_of(master, frame).is_some();
        let adverts: Vec<_> = frames.iter().filter(of_master).map(|frame| frame.at).collect();
        let silences = adverts.windows(2).filter(|pair| pair[1] - pair[0] > 3 * INTERVAL).count();
        assert!(takeovers()? - before <= silences as u64, "{percent} %: {silences} silences");
        arrived += adverts.len();
        sent += said.frames().iter().filter(of_master).count();
    }
    // Of the few of one round, chance may spare all.
    assert!(arrived < sent, "nothing was lost: {arrived} of {sent}");
    Ok(())
}
