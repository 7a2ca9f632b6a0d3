//! Several routers through cuts, losses, pauses, kills and stops, in virtual time.
//!
//! A seed determines everything. A failing one is printed with a diary; `SIMULATION_SEED=<seed> cargo test -p vrrp
//! --test simulation` runs that one alone, `SIMULATION_SEEDS=<count>` more than the usual 256.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod world;

use std::env;
use std::ops::Range;
use std::time::{Duration, Instant};

use vrrp::{Event, Preempt};

use crate::world::{DELAY, INTERVAL, World};

/// Longer than most adverts take to be heard, shorter than most troubles.
const PREEMPT_DELAY: Duration = Duration::from_millis(700);

/// Long enough for every timer that ran when the network became whole, and for the adverts that follow.
const SETTLED: Duration = Duration::from_millis(4 * 100 + 100 + 2 * 5);

#[test]
fn whatever_happened_one_master_remains_and_the_client_finds_it() {
    for seed in seeds() {
        for preempt in [Preempt::After(Duration::ZERO), Preempt::After(PREEMPT_DELAY), Preempt::Never] {
            let mut world = World::new(seed, preempt, epoch());
            if let Err(problem) = story(&mut world, preempt) {
                let diary = world.diary.join("\n");
                panic!("{diary}\n{problem}\npreempt {preempt:?}, replay with SIMULATION_SEED={seed}");
            }
        }
    }
}

fn seeds() -> Range<u64> {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(256),
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do: time is virtual from there")]
fn epoch() -> Instant {
    Instant::now()
}

fn story(world: &mut World, preempt: Preempt) -> Result<(), String> {
    trouble(world)?;
    let rivals = world.masters().len() > 1;
    world.heal()?;
    world.pass(SETTLED, |_| Ok(()))?;
    if rivals {
        // Whoever gave way to whom: the one that remains has noticed, and says so at once.
        client_finds_master(world)?;
    }
    if preempt == Preempt::After(PREEMPT_DELAY) {
        world.pass(PREEMPT_DELAY, |_| Ok(()))?;
    }
    // A client that was cut off from all routers learns from the slow announcements.
    world.pass(Duration::from_secs(10), one_master)?;
    let (master, strongest) = (world.masters()[0], world.strongest());
    if preempt != Preempt::Never && world.priority(master) < world.priority(strongest) {
        return Err(format!("{master} is master, though {strongest} is stronger"));
    }
    client_finds_master(world)?;
    loses_master(world, "kill", 3 * INTERVAL, |world, master| {
        world.kill(master);
        Ok(())
    })?;
    if world.nodes.iter().filter(|node| node.running).count() > 1 {
        loses_master(world, "stop", Duration::ZERO, |world, master| {
            world.handle(master, Event::Stop)?;
            world.nodes[master].running = false;
            Ok(())
        })?;
    }
    Ok(())
}

/// Twenty seconds with a fault every now and then, and up to 300 frames of 1000 lost.
fn trouble(world: &mut World) -> Result<(), String> {
    world.loss = world.random.below(301);
    for _ in 0..25 {
        let span = world.random.milliseconds(50, 1_500);
        world.pass(span, |_| Ok(()))?;
        world.fault()?;
    }
    Ok(())
}

/// The network is whole and the master goes: another is there after `silence` and the skew of the strongest left.
fn loses_master(
    world: &mut World,
    how: &str,
    silence: Duration,
    lose: fn(&mut World, usize) -> Result<(), String>,
) -> Result<(), String> {
    let master = world.masters()[0];
    lose(world, master)?;
    if !world.nodes.iter().any(|node| node.running) {
        return Ok(());
    }
    let skew = INTERVAL * (256 - u32::from(world.priority(world.strongest()).number())) / 256;
    world.pass(silence + skew + DELAY, |_| Ok(()))?;
    if world.masters().is_empty() {
        return Err(format!("no master {:?} after the {how} of {master}", silence + skew + DELAY));
    }
    // Routers whose skews differ by less than the delay may both take over; one advert settles it.
    world.pass(INTERVAL + 2 * DELAY, |_| Ok(()))?;
    world.pass(Duration::from_secs(2), one_master)?;
    client_finds_master(world)
}

fn one_master(world: &World) -> Result<(), String> {
    let masters = world.masters();
    if masters.len() == 1 { Ok(()) } else { Err(format!("masters {masters:?} at a time of peace")) }
}

fn client_finds_master(world: &World) -> Result<(), String> {
    let masters = world.masters();
    if world.client_sends_to == masters.first().copied() {
        return Ok(());
    }
    Err(format!("the client sends to {:?}, masters are {masters:?}", world.client_sends_to))
}
