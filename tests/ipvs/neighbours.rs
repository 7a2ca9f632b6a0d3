//! The front door and the proxy on one node, both by virtual services: neither touches what is the other's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tests::objects;
use tests::{Process, Program};

use crate::front_door::{self, FrontDoor};
use crate::site::{SERVERS, Site, frontend};

const LIMIT: Duration = Duration::from_mins(1);

/// The proxy of a node where one Service is, with these arguments.
fn proxy(site: &Site, manifests: &Path, arguments: &[&str]) -> Program {
    let service = objects::service("web", "10.254.0.1").port("https", "TCP", 443);
    let slice = objects::slice("web", "web-1").port("https", "TCP", 6443);
    let slice = slice.ready(&["10.2.0.11", "10.2.0.12", "10.2.0.13"]);
    for (name, object) in [("service", service), ("slice", slice)] {
        fs::write(manifests.join(format!("{name}.yaml")), object.json().to_string()).unwrap();
    }
    let manifests = format!("--manifests={}", manifests.display());
    let program = Program::ours("fairway-proxy").unwrap().arguments([manifests]);
    site.inside_director(program.arguments(arguments.iter().copied()))
}

fn stop(process: &mut Process) {
    assert!(process.terminate(LIMIT).unwrap().success());
}

#[test]
fn the_front_door_and_the_proxy_leave_each_other_alone() {
    let door = FrontDoor::new();
    let manifests = tempfile::Builder::new().prefix("fw-").tempdir().unwrap();
    let (site, start_proxy) = (&door.site, || {
        let process = proxy(&door.site, manifests.path(), &["--proxy-mode=ipvs"]).spawn().unwrap();
        door.site.await_servers(frontend(), &SERVERS);
        process
    });
    let (mut front_door, mut process) = (door.start(), start_proxy());
    let addresses = site.tool("ip", &["-brief", "address", "show", "dev", "kube-ipvs0"]);
    assert!(addresses.contains("10.254.0.1/32") && !addresses.contains("10.1.0.100"), "{addresses}");

    // Each ends what is its own, and the other's connections go on.
    let mut held = site.hold(frontend());
    stop(&mut front_door);
    assert!(!door.listed().contains("8443"), "{}", door.listed());
    assert_eq!(held.ask().unwrap(), held.name);
    let mut front_door = door.start();
    let mut held = site.hold(front_door::frontend());
    stop(&mut process);
    let (status, said) = proxy(site, manifests.path(), &["--cleanup"]).run(LIMIT).unwrap();
    assert!(status.success(), "{said}");
    let tables = site.tool("nft", &["list", "tables"]);
    assert!(tables.contains("fairway-lb") && !tables.contains("fairway-proxy"), "{tables}");
    assert!(!door.listed().contains("10.254.0.1"), "{}", door.listed());
    assert_eq!(held.ask().unwrap(), held.name);

    // Each puts back what is its own.
    let _process = start_proxy();
    assert_eq!(held.ask().unwrap(), held.name);
    site.tool("ipvsadm", &["-C"]);
    site.await_servers(frontend(), &SERVERS);
    site.await_servers(front_door::frontend(), &SERVERS);
    stop(&mut front_door);
}
