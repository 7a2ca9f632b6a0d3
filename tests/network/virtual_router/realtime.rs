//! A node that is short of processors, of memory, or of privileges, or stopped altogether.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::capture::Capture;
use tests::topology::INTERFACE;
use tests::{Error, Process, Program, Result, binary};

use super::A_WHILE;
use super::contents::advert_of;
use crate::site::{FrontDoor, Plan, Site, throughout, until};

/// `SCHED_RR` of sched(7).
const ROUND_ROBIN: &str = "2";

/// Longer than a scheduler takes to be fair to everybody.
const STARVED_FOR: Duration = Duration::from_secs(12);

#[test]
fn busy_processors_change_no_role() -> Result<()> {
    let site = Site::new(3)?;
    let plan = |priority| Plan { preempt: true, advert_interval: "100ms", ..Plan::new(priority) };
    let front_doors: Vec<FrontDoor> = [250, 240, 230]
        .into_iter()
        .enumerate()
        .map(|(master, priority)| site.front_door(master, &plan(priority)))
        .collect::<Result<_>>()?;
    until("the strongest holds the address", || Ok(site.link.holders()? == [0]))?;
    let transitions = || {
        let of = |front_door: &FrontDoor| {
            let to = |role| front_door.metric(&format!("vrrp_transitions_total{{to=\"{role}\"}}"));
            Ok(to("backup")? + to("master")?)
        };
        front_doors.iter().map(of).collect::<Result<Vec<u64>>>()
    };
    let before = transitions()?;
    let busy = || Program::new("sh").arguments(["-c", "while :; do :; done"]).spawn();
    let _busy: [Process; 4] = [busy()?, busy()?, busy()?, busy()?];
    throughout(STARVED_FOR, "the strongest alone holds the address", || Ok(site.link.holders()? == [0]))?;
    assert_eq!(transitions()?, before);
    Ok(())
}

#[test]
fn the_router_runs_in_real_time_and_the_program_stays_in_memory() -> Result<()> {
    let site = Site::new(1)?;
    let front_door = site.front_door(0, &Plan::new(100))?;
    until("its thread is preferred", || Ok(policies(&front_door)? == [ROUND_ROBIN]))?;
    assert!(locked(&front_door)? > 1_000, "KiB of memory are locked");
    assert!(!front_door.process.log()?.contains("LimitRTPRIO"));
    Ok(())
}

#[test]
fn without_the_privileges_it_works_and_says_what_is_missing() -> Result<()> {
    let site = Site::new(1)?;
    let lessened = Program::new("setpriv")
        .arguments(["--bounding-set", "-sys_nice,-ipc_lock"])
        .arguments([binary("fairway-lb")?]);
    let front_door = site.front_door_of(lessened, 0, &Plan::new(100))?;
    until("it holds the address", || Ok(site.link.holders()? == [0]))?;
    assert_ne!(policies(&front_door)?, [ROUND_ROBIN]);
    assert_eq!(locked(&front_door)?, 0);
    let log = front_door.process.log()?;
    for line in ["no real-time priority", "CAP_SYS_NICE", "memory not locked", "CAP_IPC_LOCK"] {
        assert_eq!(log.matches(line).count(), 1, "{line}");
    }
    Ok(())
}

#[test]
fn a_stopped_master_that_goes_on_is_no_second_one() -> Result<()> {
    // The second node is master first: it is stopped while it is the stronger one, and while it is the weaker one.
    for (stopped, other) in [(250, 100), (100, 250)] {
        let site = Site::new(2)?;
        let mut master = site.front_door(1, &Plan::new(stopped))?;
        until("the first to start holds the address", || Ok(site.link.holders()? == [1]))?;
        let _other = site.front_door(0, &Plan::new(other))?;
        let capture = Capture::on_interface(site.client(), INTERFACE)?;
        let adverts = |of: usize| {
            let frames = capture.frames();
            frames.iter().filter(|frame| advert_of(site.master(of), frame).is_some()).count()
        };
        until("the master speaks", || Ok(adverts(1) > 3))?;
        master.process.signal(Signal::SIGSTOP)?;
        until("the other one takes over", || Ok(adverts(0) > 3))?;
        let (stays, yields) = if stopped > other { (1, 0) } else { (0, 1) };
        let before = adverts(yields);
        master.process.signal(Signal::SIGCONT)?;
        until("one master remains", || Ok(site.link.holders()? == [stays]))?;
        throughout(A_WHILE, "one master remains", || Ok(site.link.holders()? == [stays]))?;
        // One that was due anyhow, and the one by which it gives way.
        let after = adverts(yields) - before;
        assert!(after <= 2, "who gives way sent {after} adverts");
    }
    Ok(())
}

/// The scheduling policies of its virtual routers' threads.
fn policies(front_door: &FrontDoor) -> Result<Vec<String>> {
    let tasks = format!("/proc/{}/task", front_door.process.id());
    let mut policies = Vec::new();
    for task in fs::read_dir(&tasks).map_err(Error::system("list", &tasks))? {
        let path = task.map_err(Error::system("list", &tasks))?.path().join("stat");
        let stat = fs::read_to_string(&path).map_err(Error::system("read", path.display()))?;
        // The name is in parentheses; `state` is field 3, `policy` field 41 (proc_pid_stat(5)).
        let Some((name, fields)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            return Err(Error::Object { reason: stat });
        };
        if name == "virtual-router" {
            policies.extend(fields.split_whitespace().nth(41 - 3).map(str::to_owned));
        }
    }
    Ok(policies)
}

/// How many KiB of its memory are locked.
fn locked(front_door: &FrontDoor) -> Result<u64> {
    let path = format!("/proc/{}/status", front_door.process.id());
    let status = fs::read_to_string(&path).map_err(Error::system("read", &path))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.split_whitespace().next());
    size.and_then(|size| size.parse().ok()).ok_or(Error::Object { reason: status })
}
