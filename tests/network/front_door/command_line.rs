//! What `fairway-lb` says to whoever starts it wrongly, and how it ends then.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::{Error, Program, Result, binary};

use crate::site::{LIMIT, Plan, Site};

/// How it ended and what it printed.
fn run(site: &Site, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let program = Program::ours("fairway-lb")?.arguments(arguments).inside(site.master(0).namespace());
    let (status, printed) = program.run(LIMIT)?;
    Ok((status.code(), printed))
}

#[test]
fn a_good_file_is_ok_and_nothing_is_touched() -> Result<()> {
    let site = Site::new(1)?;
    let file = site.write("good.yaml", &site.configuration(&Plan::new(100)))?;
    assert_eq!(run(&site, &["check", &file])?, (Some(0), format!("{file}: ok\n")));
    Ok(())
}

#[test]
fn every_problem_of_a_file_is_told_with_its_path() -> Result<()> {
    let site = Site::new(2)?;
    let good = site.configuration(&Plan { tls: ", serverName: \"a b\"".to_owned(), ..Plan::new(100) });
    let mut bad = good;
    for (find, replacement) in [
        ("kind: FrontDoor", "kind: BackDoor"),
        ("routerId: 51", "routerId: 0"),
        ("advertInterval: 200ms", "advertInterval: 205ms"),
        ("balance: round-robin", "balance: fair"),
        ("timeout: 1s", "timeout: 1s, fall: 0"),
        ("ca.crt", "none.crt"),
        ("name: m2", "name: m1"),
        ("172.16.60.242:6443", "172.16.60.242"),
    ] {
        assert_eq!(bad.matches(find).count(), 1, "{find}");
        bad = bad.replace(find, replacement);
    }
    bad.push_str("colour: blue\n");
    let file = site.write("bad.yaml", &bad)?;
    let paths = [
        "kind",
        "virtualRouter.routerId",
        "virtualRouter.advertInterval",
        "frontend.balance",
        "healthCheck.fall",
        "healthCheck.tls.caFile",
        "healthCheck.tls.serverName",
        "backends[1].address",
        "colour",
    ];
    let (code, checked) = run(&site, &["check", &file])?;
    assert_eq!(code, Some(78), "{checked}");
    for path in paths {
        let told = |line: &str| line.strip_prefix(path).is_some_and(|rest| rest.starts_with(": "));
        assert_eq!(checked.lines().filter(|line| told(line)).count(), 1, "{path} in {checked}");
    }
    assert_eq!(checked.lines().count(), paths.len(), "{checked}");
    // Who starts all the same is told the same.
    assert_eq!(run(&site, &["--config", &file])?, (Some(78), checked));
    Ok(())
}

#[test]
fn whoever_starts_it_wrongly_is_told_why() -> Result<()> {
    let site = Site::new(1)?;
    let none = site.path("none.yaml");
    let elsewhere = site.configuration(&Plan::new(100)).replace("interface: eth0", "interface: eth9");
    let elsewhere = site.write("elsewhere.yaml", &elsewhere)?;
    let cases: [(&[&str], i32, &str); 8] = [
        (&["check", &none], 78, "cannot read"),
        (&["--config", &none], 78, "cannot read"),
        (&["--config", "/"], 78, "cannot read"),
        (&[], 2, "--config"),
        (&["check"], 2, "<FILE>"),
        (&["--config"], 2, "a value is required"),
        (&["serve"], 2, "unrecognized subcommand"),
        (&["--config", &elsewhere], 1, "start the virtual router: there is no interface eth9"),
    ];
    for (arguments, code, told) in cases {
        let (ended, printed) = run(&site, arguments)?;
        assert_eq!(ended, Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(told), "{arguments:?}: {told} in {printed}");
    }
    Ok(())
}

#[test]
fn without_the_privileges_it_needs_it_says_which() -> Result<()> {
    let site = Site::new(1)?;
    let file = site.write("good.yaml", &site.configuration(&Plan::new(100)))?;
    // Where an unprivileged user can reach it, wherever the workspace is, and make a control socket.
    let program = site.path("fairway-lb");
    fs::copy(binary("fairway-lb")?, &program).map_err(Error::system("copy", "fairway-lb"))?;
    for path in [site.directory(), Path::new(&program)] {
        fs::set_permissions(path, Permissions::from_mode(0o777))
            .map_err(Error::system("open", path.display()))?;
    }
    let unprivileged = Program::new("setpriv")
        .arguments(["--reuid=65534", "--regid=65534", "--clear-groups", &program, "--config", &file])
        .inside(site.master(0).namespace());
    let (status, printed) = unprivileged.run(LIMIT)?;
    assert_eq!(status.code(), Some(77), "{printed}");
    assert!(printed.contains("not permitted to") && printed.contains("CAP_NET_"), "{printed}");
    Ok(())
}
