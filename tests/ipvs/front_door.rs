//! The front door, forwarding by virtual services.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use plan::{Frontend, Port, Protocol};
use tempfile::TempDir;
use tests::{Process, Program, wait};

use crate::site::{SERVERS, Site};

const LIMIT: Duration = Duration::from_mins(1);
const VIRTUAL_ADDRESS: [u8; 4] = [10, 1, 0, 100];

struct FrontDoor {
    site: Site,
    files: TempDir,
}

impl FrontDoor {
    fn new() -> Self {
        let site = Site::new();
        let files = tempfile::Builder::new().prefix("fw-").tempdir().unwrap();
        let socket = files.path().join("control.sock");
        let config = format!(
            "apiVersion: fairway.dev/v1alpha1\n\
             kind: FrontDoor\n\
             virtualRouter: {{interface: eth0, routerId: 51, priority: 250, addresses: [10.1.0.100/32]}}\n\
             frontend: {{listen: '10.1.0.100:8443', forwarding: ipvs}}\n\
             healthCheck: {{kind: tcp, interval: 200ms, timeout: 2s, kill: 4}}\n\
             admin: {{socket: '{}'}}\n\
             backends:\n\
             - {{name: one, address: '10.2.0.11:6443'}}\n\
             - {{name: two, address: '10.2.0.12:6443'}}\n\
             - {{name: three, address: '10.2.0.13:6443'}}\n",
            socket.display()
        );
        std::fs::write(files.path().join("front-door.yaml"), config).unwrap();
        Self { site, files }
    }

    fn program(&self, arguments: &[&str]) -> Program {
        self.site.inside_director(Program::ours("fairway-lb").unwrap().arguments(arguments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn start(&self) -> Process {
        let config = self.path("front-door.yaml").display().to_string();
        let process = self.program(&["--config", &config]).spawn().unwrap();
        self.await_backends(&SERVERS);
        process
    }

    /// A word of the operator's.
    fn say(&self, words: &[&str]) {
        let socket = self.path("control.sock").display().to_string();
        let (status, said) = self.program(words).arguments(["--socket", &socket]).run(LIMIT).unwrap();
        assert!(status.success(), "{said}");
    }

    fn await_backends(&self, names: &[&str]) {
        wait::until(&format!("{names:?} answer, and no others"), LIMIT, || {
            let answers = self.site.dial(frontend(), 2 * names.len());
            answers.is_ok_and(|found| found == names.iter().map(|name| ((*name).to_owned(), 2)).collect())
        })
        .unwrap();
    }

    fn listed(&self) -> String {
        self.site.tool("ipvsadm", &["-Ln"])
    }
}

fn frontend() -> Frontend {
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

    // No new ones, and those it has go on.
    door.say(&["drain", "one"]);
    door.await_backends(&["three", "two"]);
    assert_eq!(held.get_mut("one").unwrap().ask().unwrap(), "one");
    door.say(&["undrain", "one"]);
    door.await_backends(&SERVERS);

    // Whatever ends the process, the kernel goes on, and the next one goes on from there.
    process.kill().unwrap();
    for (name, held) in &mut held {
        assert_eq!(held.ask().unwrap(), *name);
    }
    let mut process = door.start();
    for (name, held) in &mut held {
        assert_eq!(held.ask().unwrap(), *name);
    }

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
