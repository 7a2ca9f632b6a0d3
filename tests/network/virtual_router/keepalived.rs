//! Beside keepalived in one virtual router.

use tempfile::TempDir;
use tests::topology::{Host, INTERFACE, VIRTUAL_ADDRESS};
use tests::{Error, Process, Program, Result};

use super::A_WHILE;
use crate::site::{FrontDoor, LIMIT, Plan, Site, throughout, until};

/// A running keepalived. Dropping it kills it.
pub(super) struct Keepalived {
    pub(super) process: Process,
    _files: TempDir,
}

impl Keepalived {
    /// With its defaults beyond what `dialect` says; so it preempts.
    pub(super) fn start(host: &Host, priority: u8, dialect: &Dialect) -> Result<Self> {
        let files = tempfile::tempdir().map_err(Error::system("make", "a directory"))?;
        let path = |name: &str| files.path().join(name).display().to_string();
        let Dialect { version, theirs, .. } = dialect;
        let configuration = format!(
            "global_defs {{\n vrrp_version {version}\n}}\n\
             vrrp_instance V {{\n state BACKUP\n interface {INTERFACE}\n virtual_router_id 51\n \
             priority {priority}\n {theirs}\n virtual_ipaddress {{\n {VIRTUAL_ADDRESS}/32\n }}\n}}\n"
        );
        let file = path("keepalived.conf");
        std::fs::write(&file, configuration).map_err(Error::system("write", &file))?;
        let process = Program::new("keepalived")
            .arguments(["--dont-fork", "--log-console", "--vrrp", "--use-file", &file])
            .arguments(["--pid", &path("pid"), "--vrrp_pid", &path("vrrp.pid")])
            .inside(host.namespace())
            .spawn()?;
        Ok(Self { process, _files: files })
    }
}

enum Router {
    Ours(FrontDoor),
    Keepalived(Keepalived),
}

impl Router {
    fn process(&mut self) -> &mut Process {
        match self {
            Self::Ours(front_door) => &mut front_door.process,
            Self::Keepalived(keepalived) => &mut keepalived.process,
        }
    }
}

/// How the master ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Dead,
}

/// A way to run a virtual router, as either side is told of it. Ours is the first node, theirs the second.
pub(super) struct Dialect {
    pub(super) version: u8,
    pub(super) interval: &'static str,
    pub(super) ours: &'static str,
    pub(super) theirs: &'static str,
}

pub(super) const MULTICAST: Dialect =
    Dialect { version: 3, interval: "200ms", ours: "", theirs: "advert_int 0.2" };
const UNICAST: Dialect = Dialect {
    version: 3,
    interval: "200ms",
    ours: "peers: [172.16.60.242],",
    theirs: "advert_int 0.2\n unicast_src_ip 172.16.60.242\n unicast_peer {\n 172.16.60.241\n }",
};

pub(super) const VERSION_2: Dialect =
    Dialect { version: 2, interval: "1s", ours: "version: 2,", theirs: "advert_int 1" };
const PASSWORD: Dialect = Dialect {
    version: 2,
    interval: "1s",
    ours: "version: 2, authentication: {password: fairway},",
    theirs: "advert_int 1\n authentication {\n auth_type PASS\n auth_pass fairway\n }",
};

#[test]
fn keepalived_and_we_agree_whoever_is_stronger_and_however_it_ends() -> Result<()> {
    for dialect in [MULTICAST, UNICAST] {
        for we_are_stronger in [true, false] {
            for end in [End::Stopped, End::Dead] {
                agree(&dialect, we_are_stronger, end)?;
            }
        }
    }
    Ok(())
}

#[test]
fn version_2_is_spoken_with_and_without_a_password() -> Result<()> {
    for (dialect, end) in [(VERSION_2, End::Dead), (PASSWORD, End::Stopped)] {
        for we_are_stronger in [true, false] {
            agree(&dialect, we_are_stronger, end)?;
        }
    }
    Ok(())
}

#[test]
fn a_keepalived_that_was_told_otherwise_is_refused_for_that_reason() -> Result<()> {
    let other = Dialect {
        theirs: "advert_int 1\n authentication {\n auth_type PASS\n auth_pass another\n }",
        ..PASSWORD
    };
    let slower = Dialect { theirs: "advert_int 2", ..VERSION_2 };
    let cases = [
        (PASSWORD, &other, "password"),
        (VERSION_2, &PASSWORD, "authentication_type"),
        (PASSWORD, &VERSION_2, "authentication_type"),
        (VERSION_2, &slower, "interval"),
        (VERSION_2, &MULTICAST, "version"),
    ];
    for (ours, theirs, reason) in cases {
        let site = Site::new(2)?;
        let _keepalived = Keepalived::start(site.master(1), 200, theirs)?;
        until("keepalived holds the address", || Ok(site.link.holders()? == [1]))?;
        let plan = Plan { advert_interval: ours.interval, router: ours.ours, ..Plan::new(100) };
        let front_door = site.front_door(0, &plan)?;
        let series = format!("vrrp_adverts_rejected_total{{reason=\"{reason}\"}}");
        until(&format!("its adverts are counted as {reason}"), || Ok(front_door.metric(&series)? > 0))?;
        assert_eq!(front_door.metric("vrrp_adverts_received_total")?, 0, "{reason}");
    }
    Ok(())
}

/// The stronger one takes over from the weaker one, holds the address, and is replaced when it ends.
fn agree(dialect: &Dialect, we_are_stronger: bool, end: End) -> Result<()> {
    let site = Site::new(2)?;
    let (stronger, weaker) = if we_are_stronger { (0, 1) } else { (1, 0) };
    let Dialect { version, interval, ours, .. } = dialect;
    let who = if we_are_stronger { "stronger" } else { "weaker" };
    let case = format!("version {version}, {ours} we are {who}, the master is {end:?}");
    let plan =
        |priority| Plan { preempt: true, advert_interval: interval, router: ours, ..Plan::new(priority) };
    let start = |node: usize, priority| match node {
        0 => site.front_door(0, &plan(priority)).map(Router::Ours),
        _ => Keepalived::start(site.master(1), priority, dialect).map(Router::Keepalived),
    };
    let alone = |node: usize| Ok(site.link.holders()? == [node]);

    let _weak = start(weaker, 100)?;
    until(&format!("the only node holds the address: {case}"), || alone(weaker))?;
    let mut strong = start(stronger, 200)?;
    until(&format!("the stronger one takes over: {case}"), || alone(stronger))?;
    throughout(A_WHILE, &format!("the stronger one holds the address: {case}"), || alone(stronger))?;
    match end {
        End::Stopped => {
            assert!(strong.process().terminate(LIMIT)?.success(), "{case}");
            until(&format!("the other one alone takes over: {case}"), || alone(weaker))
        }
        End::Dead => {
            site.link.unplug(site.master(stronger))?;
            strong.process().kill()?;
            let takes_over = || site.master(weaker).holds(VIRTUAL_ADDRESS);
            until(&format!("the other one takes over: {case}"), takes_over)
        }
    }
}
