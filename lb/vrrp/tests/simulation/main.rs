//! Several routers through cuts, losses, pauses, kills and stops, in virtual time.
//!
//! A seed determines everything. A failing one is printed with a diary; `SIMULATION_SEED=<seed> cargo test -p vrrp
//! --test simulation` runs that one alone, `SIMULATION_SEEDS=<count>` more than the usual 256.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod world;

use std::env;
use std::ops::Range;
use std::time::{Duration, Instant};

use vrrp::{AdvertInterval, Checksum, Event, Preempt, Version, WholeSeconds};

use crate::world::{DELAY, World};

/// In intervals: longer than most adverts take to be heard, shorter than most troubles.
const PATIENCE: u32 = 7;

/// In intervals: long enough for every timer that ran when the network became whole, and for the adverts that follow.
const SETTLED: u32 = 5;

#[test]
fn whatever_happened_one_master_remains_and_the_client_finds_it() {
    for version in versions() {
        let patience = version.interval() * PATIENCE;
        for preempt in [Preempt::After(Duration::ZERO), Preempt::After(patience), Preempt::Never] {
            for seed in seeds() {
                let mut world = World::new(seed, version, preempt, epoch());
                if let Err(problem) = story(&mut world, preempt) {
                    let diary = world.diary.join("\n");
                    panic!(
                        "{diary}\n{problem}\n{version:?}, {preempt:?}, replay with SIMULATION_SEED={seed}"
                    );
                }
            }
        }
    }
}

/// An interval other than the second from which version 2 takes its skew.
fn versions() -> [Version; 2] {
    let three = AdvertInterval::new(Duration::from_millis(100)).unwrap();
    let two = WholeSeconds::new(Duration::from_secs(2)).unwrap();
    [
        Version::Three { interval: three, checksum: Checksum::PseudoHeader },
        Version::Two { interval: two, password: None },
    ]
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
    // One that leaves and is cut off is a rival that nobody hears of.
    let rivals = world.masters().iter().filter(|&&node| !world.leaves(node)).count() > 1;
    world.heal()?;
    world.pass(SETTLED * world.interval() + 2 * DELAY, |_| Ok(()))?;
    if rivals {
        // Whoever gave way to whom: the one that remains has noticed, and says so at once.
        client_finds_master(world)?;
    }
    if let Preempt::After(patience) = preempt {
        world.pass(patience, |_| Ok(()))?;
    }
    // A client that was cut off from all routers learns from the slow announcements.
    world.pass(100 * world.interval(), one_master)?;
    let (master, strongest) = (world.masters()[0], world.strongest());
    if preempt != Preempt::Never && world.priority(master) < world.priority(strongest) {
        return Err(format!("{master} is master, though {strongest} is stronger"));
    }
    client_finds_master(world)?;
    loses_master(world, "kill", 3 * world.interval(), |world, master| {
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
    if world.nodes.iter().filter(|node| node.running).count() > 1 { leaves(world) } else { Ok(()) }
}

/// Two hundred intervals with a fault every now and then, and up to 300 frames of 1000 lost.
fn trouble(world: &mut World) -> Result<(), String> {
    world.loss = world.random.below(301);
    for _ in 0..25 {
        let span = world.a_while(15_000);
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
    let skew = world.most_skew() * (256 - u32::from(world.priority(world.strongest()).number())) / 256;
    world.pass(silence + skew + DELAY, |_| Ok(()))?;
    if world.masters().is_empty() {
        return Err(format!("no master {:?} after the {how} of {master}", silence + skew + DELAY));
    }
    // Routers whose skews differ by less than the delay may both take over; one advert settles it.
    world.pass(world.interval() + 2 * DELAY, |_| Ok(()))?;
    world.pass(20 * world.interval(), one_master)?;
    client_finds_master(world)
}

/// The network is whole and the master leaves: at no time is the address nobody's, and it is its successor's in the end.
fn leaves(world: &mut World) -> Result<(), String> {
    let leaver = world.masters()[0];
    let held = |world: &World| {
        let somebody = world.nodes.iter().any(|node| node.holds);
        somebody.then_some(()).ok_or_else(|| format!("the address is nobody's while {leaver} leaves"))
    };
    world.handle(leaver, Event::Leave)?;
    world.pass(world.most_skew() + 2 * DELAY, held)?;
    world.nodes[leaver].running = false;
    if world.nodes[leaver].holds {
        return Err(format!(
            "{leaver} still holds the address {:?} after it left",
            world.most_skew() + 2 * DELAY
        ));
    }
    world.pass(world.interval() + 2 * DELAY, held)?;
    world.pass(20 * world.interval(), one_master)?;
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
