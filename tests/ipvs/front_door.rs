//! The front door, forwarding by virtual services.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use plan::{Frontend, Port, Protocol};
use serde_json::Value;
use tempfile::TempDir;
use tests::{Process, Program, admin, wait};

use crate::site::{Held, SERVERS, Site, server};

const LIMIT: Duration = Duration::from_mins(1);
const METRICS_PORT: u16 = 9448;
const VIRTUAL_ADDRESS: [u8; 4] = [10, 1, 0, 100];

pub(crate) struct FrontDoor {
    pub(crate) site: Site,
    files: TempDir,
}

impl FrontDoor {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let files = tempfile::Builder::new().prefix("fw-").tempdir().unwrap();
        let door = Self { site, files };
        door.configure(&SERVERS);
        door
    }

    /// The file says that these are its backends.
    fn configure(&self, names: &[&str]) {
        self.configure_weighted(names, &[1; SERVERS.len()]);
    }

    /// The file says that these are its backends, and that they have these weights.
    fn configure_weighted(&self, names: &[&str], weights: &[u16]) {
        let mut config = format!(
            "apiVersion: fairway.dev/v1alpha1\n\
             kind: FrontDoor\n\
             virtualRouter: {{interface: eth0, routerId: 51, priority: 250, addresses: [10.1.0.100/32]}}\n\
             frontend: {{listen: '10.1.0.100:8443', forwarding: ipvs}}\n\
             healthCheck: {{kind: tcp, interval: 200ms, timeout: 2s, kill: 4}}\n\
             admin: {{listen: '127.0.0.1:{METRICS_PORT}', socket: '{}'}}\n\
             backends:\n",
            self.path("control.sock").display()
        );
        for (name, weight) in names.iter().zip(weights) {
            writeln!(config, "- {{name: {name}, address: '{}', weight: {weight}}}", server(name)).unwrap();
        }
        std::fs::write(self.path("front-door.yaml"), config).unwrap();
    }

    fn program(&self, arguments: &[&str]) -> Program {
        self.site.inside_director(Program::ours("fairway-lb").unwrap().arguments(arguments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn start(&self) -> Process {
        let mut process = self.spawn(&[]);
        // Who answers before is whom the one before it left.
        process.wait_for_log("front door open", LIMIT).unwrap();
        self.await_backends(&SERVERS);
        process
    }

    fn spawn(&self, arguments: &[&str]) -> Process {
        let config = self.path("front-door.yaml").display().to_string();
        self.program(&["--config", &config]).arguments(arguments.iter().copied()).spawn().unwrap()
    }

    /// A word of the operator's, and what comes of it.
    fn say(&self, words: &[&str]) -> String {
        let socket = self.path("control.sock").display().to_string();
        let (status, said) = self.program(words).arguments(["--socket", &socket]).run(LIMIT).unwrap();
        assert!(status.success(), "{said}");
        said
    }

    /// What the operator is told of each backend: its connections, and those that it has had.
    fn counts(&self) -> BTreeMap<String, (u64, u64)> {
        let status: Value = serde_json::from_str(&self.say(&["status", "--json"])).unwrap();
        let backends = status["backends"].as_array().unwrap().iter().map(|backend| {
            let number = |name: &str| backend[name].as_u64().unwrap();
            let name = backend["name"].as_str().unwrap().to_owned();
            (name, (number("connections"), number("connectionsTotal")))
        });
        backends.collect()
    }

    /// The same of metrics.
    fn measured(&self, name: &str) -> Option<(u64, u64)> {
        let metrics = admin::metrics(&self.site.director, METRICS_PORT, LIMIT).unwrap()?;
        let of = |metric: &str| admin::value(&metrics, &format!("fairway_lb_{metric}{{backend=\"{name}\"}}"));
        Some((of("connections_active")?, of("connections_total")?))
    }

    fn await_backends(&self, names: &[&str]) {
        self.site.await_servers(frontend(), names);
    }

    pub(crate) fn listed(&self) -> String {
        self.site.tool("ipvsadm", &["-Ln"])
    }
}

pub(crate) fn frontend() -> Frontend {
    Frontend::new(VIRTUAL_ADDRESS.into(), Port::new(8443).unwrap(), Protocol::Tcp)
}

#[test]
fn the_front_door_forwards_by_virtual_services() {
    let mut door = FrontDoor::new();
    // A service of the node's own is none of its business.
    door.site.tool("ipvsadm", &["-A", "-t", "10.1.0.1:443", "-s", "wlc"]);
    let mut process = door.start();
    let listed = door.listed();
    assert!(listed.contains("TCP  10.1.0.100:8443 rr\n"), "{listed}");
    assert!(listed.contains("  -> 10.2.0.13:6443               Masq    1"), "{listed}");
    assert!(door.site.tool("nft", &["list", "tables"]).contains("fairway-lb"));
    assert!(!door.site.tool("ip", &["link"]).contains("kube-ipvs0"), "the address is the virtual router's");
    let mut held: BTreeMap<String, _> = BTreeMap::new();
    while held.len() < SERVERS.len() {
        let connection = door.site.hold(frontend());
        held.insert(connection.name.clone(), connection);
    }

    for _ in SERVERS {
        assert_ne!(door.site.hold_beside_servers(frontend()).name, "", "answers come back this way");
    }

    // The kernel counts what the front door tells of.
    wait::until("each connection is counted where it is", LIMIT, || {
        let counts = door.counts();
        SERVERS.iter().all(|name| counts[*name].0 == 1 && counts[*name].1 > 2)
    })
    .unwrap();
    assert!(door.say(&["status"]).contains("accepting, 3 connections"), "{}", door.say(&["status"]));
    assert_eq!(door.measured("one").map(|(connections, _)| connections), Some(1));

    // No new ones, and those it has go on.
    door.say(&["drain", "one"]);
    door.await_backends(&["three", "two"]);
    assert_eq!(held.get_mut("one").unwrap().ask().unwrap(), "one");
    door.say(&["undrain", "one"]);
    door.await_backends(&SERVERS);

    // Whatever ends the process, the kernel goes on, and the next one goes on from there.
    process.kill().unwrap();
    all_answer(&mut held);
    let process = door.start();
    all_answer(&mut held);
    let mut process = reload(&door, process, &mut held);
    process = upgrade(&door, process, &mut held);

    // One that is dead is not even listed.
    door.site.stop("two");
    door.await_backends(&["one", "three"]);
    wait::until("the dead one is gone", LIMIT, || !door.listed().contains("10.2.0.12")).unwrap();
    assert_eq!(held.get_mut("three").unwrap().ask().unwrap(), "three");

    assert!(process.terminate(LIMIT).unwrap().success());
    let listed = door.listed();
    assert!(!door.site.tool("nft", &["list", "tables"]).contains("fairway-lb"));
    assert!(!listed.contains("8443") && listed.contains("10.1.0.1:443 wlc"), "{listed}");
}

fn all_answer(held: &mut BTreeMap<String, Held>) {
    for (name, held) in held {
        assert_eq!(held.ask().unwrap(), *name);
    }
}

/// One that is taken out of the file keeps its connection, which is shown, and comes back. Weights are followed.
fn reload(door: &FrontDoor, mut process: Process, held: &mut BTreeMap<String, Held>) -> Process {
    let [one, two, three] = SERVERS;
    door.configure(&[one, two]);
    process.signal(Signal::SIGHUP).unwrap();
    door.await_backends(&[one, two]);
    all_answer(held);
    let status = door.say(&["status"]);
    let line = status.lines().find(|line| line.starts_with(three)).unwrap();
    assert!(line.contains(", removed") && door.counts()[three].0 == 1, "{status}");
    door.configure_weighted(&[one, two], &[3, 1]);
    process.signal(Signal::SIGHUP).unwrap();
    let shares = BTreeMap::from([(one.to_owned(), 12), (two.to_owned(), 4)]);
    wait::until("three of four are those of the first", LIMIT, || {
        door.site.dial(frontend(), 16).is_ok_and(|answers| answers == shares)
    })
    .unwrap();
    assert!(door.listed().contains("10.1.0.100:8443 wrr"), "{}", door.listed());
    all_answer(held);
    door.configure(&SERVERS);
    process.signal(Signal::SIGHUP).unwrap();
    door.await_backends(&SERVERS);
    all_answer(held);
    assert!(!door.say(&["status"]).contains(", removed"));
    process
}

/// Another process takes over; this one ends, because it carries nothing itself.
fn upgrade(door: &FrontDoor, mut former: Process, held: &mut BTreeMap<String, Held>) -> Process {
    let mut process = door.spawn(&["--take-over"]);
    process.wait_for_log("front door open", LIMIT).unwrap();
    assert_eq!(former.wait(LIMIT).unwrap().code(), Some(0));
    all_answer(held);
    door.await_backends(&SERVERS);
    wait::until("the successor counts them", LIMIT, || {
        let counts = door.counts();
        SERVERS.iter().all(|name| counts[*name].0 == 1)
    })
    .unwrap();
    process
}
