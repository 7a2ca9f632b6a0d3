//! The harness does what it says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{BpfFs, Cgroup, Error, Namespace, Program, Result, Switch, ended_by, wait};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_namespace_is_gone_after_its_last_clone_even_when_a_test_panics() -> Result<()> {
    let namespace = Namespace::new("drop")?;
    let (path, clone) = (namespace.path(), namespace.clone());
    let panicked = std::thread::spawn(move || {
        let _held = namespace;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(path.exists(), "a clone still holds it");
    drop(clone);
    assert!(!path.exists());
    Ok(())
}

#[test]
fn traffic_crosses_a_switch_until_the_cable_is_pulled() -> Result<()> {
    let (client, server, switch) =
        (Namespace::new("client")?, Namespace::new("server")?, Switch::new("lan")?);
    switch.attach(&client, "eth0", &["192.0.2.1/24", "2001:db8::1/64"])?;
    let plug = switch.attach(&server, "eth0", &["192.0.2.2/24", "2001:db8::2/64"])?;
    for address in ["192.0.2.2:80", "[2001:db8::2]:80"] {
        let listener = server.run(|| TcpListener::bind(address))?.map_err(Error::system("bind", address))?;
        let dial = || TcpStream::connect_timeout(&address.parse().expect("an address"), SOON);
        let mut near = client.run(dial)?.map_err(Error::system("connect", address))?;
        let (mut far, from) = listener.accept().map_err(Error::system("accept", address))?;
        assert_ne!(from.ip(), listener.local_addr().expect("bound").ip());
        near.write_all(b"hello").expect("sent");
        let mut buffer = [0; 5];
        far.read_exact(&mut buffer).expect("received");
        assert_eq!(&buffer, b"hello");
    }
    switch.unplug(&plug)?;
    let carrier = || server.ip(&["link", "show", "eth0"]).is_ok_and(|text| text.contains("NO-CARRIER"));
    wait::until("the server's interface lost its carrier", SOON, carrier)
}

#[test]
fn a_process_starts_inside_its_namespace_and_its_cgroup() -> Result<()> {
    let (namespace, cgroup) = (Namespace::new("node")?, Cgroup::new("node")?);
    let script = "readlink /proc/self/ns/net; cat /proc/self/cgroup; ls /sys/fs";
    let (status, printed) =
        Program::new("sh").arguments(["-c", script]).inside(&namespace).in_cgroup(&cgroup).run(SOON)?;
    assert!(status.success());
    let here = std::fs::read_link("/proc/self/ns/net").expect("a link").display().to_string();
    assert!(!printed.contains(&here), "{printed} is not {here}");
    let group = cgroup.path().file_name().expect("a name").to_string_lossy().into_owned();
    assert!(printed.contains(&format!("0::/{group}\n")), "{printed}");
    assert!(printed.contains("cgroup"), "/sys is as it was: {printed}");
    Ok(())
}

#[test]
fn a_process_is_killed_with_its_children() -> Result<()> {
    let script = "sleep 1000 & echo child $!; wait";
    let mut process = Program::new("sh").arguments(["-c", script]).spawn()?;
    process.wait_for_log("child ", SOON)?;
    let child = process.log()?.trim().trim_start_matches("child ").to_owned();
    process.kill()?;
    assert!(ended_by(process.ended()?.expect("ended"), Signal::SIGKILL));
    let stat = Path::new("/proc").join(child).join("stat");
    wait::until("the child died too", SOON, || {
        std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z"))
    })
}

#[test]
fn a_process_ends_when_asked_and_its_early_end_is_noticed() -> Result<()> {
    let mut patient = Program::new("sleep").arguments(["1000"]).spawn()?;
    let status = patient.terminate(SOON)?;
    assert!(ended_by(status, Signal::SIGTERM));
    let mut hasty = Program::new("false").spawn()?;
    let error = hasty.wait_for_log("never", SOON).expect_err("it ended");
    assert!(matches!(error, Error::Ended { .. }), "{error:?}");
    Ok(())
}

#[test]
fn a_cgroup_and_a_bpf_file_system_leave_nothing_behind() -> Result<()> {
    let (group, bpf) = (Cgroup::new("drop")?, BpfFs::new()?);
    let child = group.child("pod")?;
    let mut process = Program::new("sleep").arguments(["1000"]).in_cgroup(&child).spawn()?;
    let members = child.path().join("cgroup.procs");
    wait::until("the process is in", SOON, || {
        std::fs::read_to_string(&members).is_ok_and(|text| text.trim() == process.id().to_string())
    })?;
    let paths = [group.path().to_owned(), child.path().to_owned(), bpf.path().to_owned()];
    drop((child, group, bpf));
    for path in paths {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    assert_eq!(process.ended()?, None, "a process outlives the group it was in");
    process.kill()
}

#[test]
fn what_a_killed_run_left_is_swept_by_the_next_and_nothing_else() -> Result<()> {
    // No process can have this number: it is above the largest there can be.
    let left = "fw-left-4194305-0";
    let own = Namespace::new("own")?;
    let ip = |arguments: &[&str]| Program::new("ip").arguments(arguments.iter().copied()).run(SOON);
    ip(&["netns", "add", left])?;
    let mut resident = Program::new("ip").arguments(["netns", "exec", left, "sleep", "1000"]).spawn()?;
    let sleeps = || ip(&["netns", "pids", left]).is_ok_and(|(_, processes)| !processes.trim().is_empty());
    wait::until("a process lives in what was left", SOON, sleeps)?;
    let next = std::env::current_exe().map_err(Error::system("find", "this test"))?;
    let any = "harness::a_namespace_is_gone_after_its_last_clone_even_when_a_test_panics";
    let (status, _) = Program::new(next).arguments(["--exact", any]).run(SOON)?;
    assert!(status.success());
    let found = [left, own.name()].map(|name| Path::new("/run/netns").join(name).exists());
    assert_eq!(found, [false, true], "only the leftover is gone");
    assert!(ended_by(resident.wait(SOON)?, Signal::SIGKILL), "and who lived in it");
    Ok(())
}
