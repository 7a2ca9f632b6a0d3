//! One process takes the place of another, and nobody who uses the front door notices.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::capture::{Capture, Content};
use tests::topology::FRONT_DOOR;
use tests::traffic::{self, DialReport, HoldReport};
use tests::{Error, Process, Program, Result};

use super::{all_used, connect};
use crate::site::{LIMIT, Plan, Site, WholeSite, until};

/// Another process of the first front door, told to take over, whose file is `file`.
fn successor(whole: &WholeSite, file: &str) -> Result<Process> {
    let program = Program::ours("fairway-lb")?.arguments(["--config", file, "--take-over"]);
    program.inside(whole.site.master(0).namespace()).spawn()
}

#[test]
fn three_upgrades_under_load_fail_no_dial_break_no_connection_and_leave_the_address() -> Result<()> {
    let mut whole = Site::whole(2, Plan::new)?;
    all_used(&whole)?;
    let file = whole.site.path("front-door-0.yaml");
    let mut held = whole.site.hold(12, Duration::from_secs(8))?.spawn()?;
    held.wait_for_log("holding", LIMIT)?;
    let new = whole.site.dial(100, Duration::from_secs(7))?.spawn()?;
    assert_eq!(whole.front_doors[0].tell(&["drain", "m2"])?.0, Some(0));
    let capture = Capture::on_interface(whole.site.client(), "eth0")?;
    let mut predecessors = Vec::new();
    for _ in 0..3 {
        let mut next = successor(&whole, &file)?;
        next.wait_for_log("front door open", LIMIT)?;
        let former = std::mem::replace(&mut whole.front_doors[0].process, next);
        let log = former.log()?;
        assert!(log.contains("succeeded: ending with the last connection"), "{log}");
        predecessors.push(former);
        assert_eq!(whole.site.link.holders()?, [0]);
    }
    let report: DialReport = traffic::finish(new, LIMIT)?;
    assert_eq!((report.attempts, report.failed), (700, 0), "{report:?}");
    let report: HoldReport = traffic::finish(held, LIMIT)?;
    assert_eq!((report.opened, report.broken.as_slice()), (12, [].as_slice()), "{report:?}");
    // The last connection of each has ended.
    for mut former in predecessors {
        assert_eq!(former.wait(LIMIT)?.code(), Some(0));
    }
    let mut speakers = std::collections::BTreeSet::new();
    for frame in capture.frames() {
        if let Content::Advert { from, priority, .. } = frame.content {
            assert_ne!(priority, 0, "nobody says goodbye");
            speakers.insert(from);
        }
    }
    assert_eq!(
        speakers.into_iter().collect::<Vec<_>>(),
        [whole.site.master(0).address()],
        "no second master"
    );
    // The third knows what the first was told.
    let report = whole.site.dial_times(6)?;
    assert_eq!((report.failed, report.backends.get("m1")), (0, Some(&6)), "{report:?}");
    let (code, table) = whole.front_doors[0].tell(&["status"])?;
    assert_eq!(code, Some(0));
    assert!(table.contains("handed over by the former process"), "{table}");
    assert_eq!(whole.front_doors[0].process.terminate(LIMIT)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_successor_that_fails_leaves_everything_as_it_was() -> Result<()> {
    let mut whole = Site::whole(1, Plan::new)?;
    all_used(&whole)?;
    let held = connect(&whole.site)?;
    let text = whole.site.configuration(&Plan::new(250));
    // One cannot start at all, another has no interface for its router and is found out late.
    let bad = whole.site.write("bad.yaml", &text.replace("routerId: 51", "routerId: 0"))?;
    let late = whole.site.write("late.yaml", &text.replace("interface: eth0", "interface: eth9"))?;
    for (file, code) in [(bad, 78), (late, 1)] {
        let status = successor(&whole, &file)?.wait(LIMIT)?;
        assert_eq!(status.code(), Some(code));
        assert_eq!(whole.site.dial_times(5)?.failed, 0);
        until("it answers", || Ok(whole.front_doors[0].tell(&["status"])?.0 == Some(0)))?;
    }
    // One hangs in the middle of it: it has the sockets and waits for a backend that says nothing.
    let file = whole.site.path("front-door-0.yaml");
    let silent = || TcpListener::bind("172.16.60.20:6443");
    let _silent = whole.site.client().run(silent)?.map_err(Error::system("bind", "a silent backend"))?;
    let hanging = whole.site.configuration(&Plan { check: "timeout: 1h,", ..Plan::new(250) });
    let hanging = hanging.replace("172.16.60.241:6443", "172.16.60.20:6443");
    let hanging = whole.site.write("hanging.yaml", &hanging)?;
    let mut hung = successor(&whole, &hanging)?;
    hung.wait_for_log("front door bound", LIMIT)?;
    assert_eq!(whole.site.dial_times(5)?.failed, 0);
    hung.kill()?;
    until("it goes on", || Ok(whole.front_doors[0].process.log()?.contains("the successor has failed")))?;
    assert_eq!(whole.site.dial_times(5)?.failed, 0);
    assert_eq!(whole.site.link.holders()?, [0]);
    // And a good one still can.
    let mut next = successor(&whole, &file)?;
    next.wait_for_log("front door open", LIMIT)?;
    let mut former = std::mem::replace(&mut whole.front_doors[0].process, next);
    assert_eq!(former.ended()?, None, "a connection is left");
    drop(held);
    assert_eq!(former.wait(LIMIT)?.code(), Some(0));
    assert_eq!(whole.site.dial_times(5)?.failed, 0);
    Ok(())
}

#[test]
fn a_signal_makes_it_start_its_own_successor() -> Result<()> {
    let mut whole = Site::whole(1, Plan::new)?;
    all_used(&whole)?;
    let process = |whole: &WholeSite| {
        let (_, printed) = whole.front_doors[0].tell(&["status", "--json"])?;
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap_or_default();
        Ok::<_, Error>(report["process"].as_u64())
    };
    let first = process(&whole)?;
    assert_eq!(first, Some(whole.front_doors[0].process.id().into()));
    whole.front_doors[0].process.signal(Signal::SIGUSR2)?;
    assert_eq!(whole.front_doors[0].process.wait(LIMIT)?.code(), Some(0));
    let second = process(&whole)?;
    assert!(second.is_some() && second != first, "{second:?}");
    assert_eq!(whole.site.dial_times(10)?.failed, 0);
    assert_eq!(whole.site.link.holders()?, [0]);
    let second = nix::unistd::Pid::from_raw(second.and_then(|id| i32::try_from(id).ok()).unwrap_or_default());
    nix::sys::signal::kill(second, Signal::SIGTERM).map_err(Error::system("end", "the successor"))?;
    until("the address is off", || Ok(whole.site.link.holders()?.is_empty()))
}

#[test]
fn a_service_manager_may_bind_the_frontend() -> Result<()> {
    let site = Site::new(1)?;
    let _apiserver = site.apiserver(0)?;
    let file = site.write("front-door.yaml", &site.configuration(&Plan::new(100)))?;
    // What systemd does for a socket unit: descriptor 3 and two variables, then the program in the same process.
    let script = format!(
        "import os, socket, sys\n\
         s = socket.socket()\n\
         s.setsockopt(socket.IPPROTO_IP, 15, 1)\n\
         s.bind(('{}', {}))\n\
         s.listen(16)\n\
         os.dup2(s.fileno(), 3)\n\
         os.set_inheritable(3, True)\n\
         os.environ['LISTEN_FDS'], os.environ['LISTEN_PID'] = '1', str(os.getpid())\n\
         os.execv(sys.argv[1], sys.argv[1:])\n",
        FRONT_DOOR.ip(),
        FRONT_DOOR.port()
    );
    let program = tests::binary("fairway-lb")?.display().to_string();
    let mut process = Program::new("python3")
        .arguments(["-c", &script, &program, "--config", &file])
        .inside(site.master(0).namespace())
        .spawn()?;
    process.wait_for_log("front door open", LIMIT)?;
    until("it holds the address", || Ok(site.link.holders()? == [0]))?;
    // Nobody else could have bound it: there is no SO_REUSEPORT on that socket.
    assert_eq!(site.dial_times(10)?.failed, 0);
    assert_eq!(process.terminate(LIMIT)?.code(), Some(0));
    Ok(())
}
