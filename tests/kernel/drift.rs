//! What somebody else takes away is put back.

use std::fs;

use dataplane::{Dataplane, Ebpf, Error, Inspection, Settings};
use plan::Change;

use crate::node::{Node, apply, frontend, serve};
use crate::server::{TcpServer, ask};

const FRONTEND: &str = "10.254.0.1:80";
const SERVICE: &str = "tcp 10.254.0.1:80";

#[test]
fn pins_that_are_removed_come_back_and_forwarding_does_not_pause() {
    let node = Node::new("pins");
    let mut ebpf = node.open();
    node.run(|| {
        let server = TcpServer::start("127.0.0.2:0");
        serve(&mut ebpf, frontend(SERVICE), &[server.address()]);
        assert_eq!(ebpf.inspect().unwrap(), Inspection::default(), "nothing is missing");
        for (victim, count) in [
            ("v4/links/connect4", 1),
            ("v4/maps/SERVICES", 1),
            ("v4/maps/ORIGINS", 1),
            ("v4/links", 10),
            ("v4/maps", 18),
            ("", 28),
        ] {
            let victim = node.state().join(victim);
            if victim.is_dir() { fs::remove_dir_all(&victim) } else { fs::remove_file(&victim) }.unwrap();
            assert_eq!(ask(FRONTEND).unwrap(), server.address(), "without {}", victim.display());
            assert_eq!(ebpf.inspect().unwrap().restored, count, "{}", victim.display());
            assert!(victim.exists());
            assert_eq!(ebpf.inspect().unwrap(), Inspection::default(), "once is enough");
        }
        let second = Ebpf::open(&node.settings()).unwrap_err();
        assert!(matches!(second, Error::InUse { .. }), "the new directory is owned too: {second:?}");
        drop(ebpf);
        assert_eq!(ask(FRONTEND).unwrap(), server.address(), "what is pinned again outlives its owner");
        let found = node.open().observe().unwrap().forwarding();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [frontend(SERVICE)]);
    });
}

#[test]
fn entries_that_somebody_else_writes_are_noticed() {
    let node = Node::new("entries");
    let mut ebpf = node.open();
    let (own, foreign) = (frontend(SERVICE), frontend("udp 10.254.0.2:53"));
    serve(&mut ebpf, own, &["127.0.0.2:80".parse().unwrap()]);
    let mut somebody = Somebody::new(&node);
    for change in [
        Change::RemoveService { frontend: own },
        Change::AddService { frontend: foreign, service: plan::Service::default() },
    ] {
        assert!(!ebpf.inspect().unwrap().entries_differ, "before: {change}");
        apply(&mut somebody.0, std::slice::from_ref(&change));
        assert!(ebpf.inspect().unwrap().entries_differ, "{change}");
        // Also when own writes come in between.
        apply(
            &mut ebpf,
            &[Change::AddService {
                frontend: frontend("tcp 10.254.0.3:80"),
                service: plan::Service::default(),
            }],
        );
        assert!(ebpf.inspect().unwrap().entries_differ, "{change}");
        let found = ebpf.observe().unwrap().services;
        assert_eq!(
            (found.contains_key(&own), found.contains_key(&foreign)),
            (false, change.frontend() == foreign)
        );
    }
    assert!(!ebpf.inspect().unwrap().entries_differ);
}

#[test]
fn networks_of_cluster_addresses_come_back() {
    let node = Node::new("networks");
    let mut ebpf = node.open();
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let mut somebody = Somebody::new(&node);
    somebody.0.set_service_cidrs(&networks(&["10.96.0.0/12"])).unwrap();
    assert_eq!(ebpf.inspect().unwrap().restored, 0, "nobody has said yet what they are");
    let own = networks(&["10.254.0.0/16", "fd00:254::/112"]);
    ebpf.set_service_cidrs(&own).unwrap();
    assert_eq!(ebpf.inspect().unwrap(), Inspection::default());
    for (foreign, count) in [
        (networks(&[]), 2),
        (networks(&["10.254.0.0/16"]), 1),
        (networks(&["10.254.0.0/16", "fd00:254::/112", "0.0.0.0/0"]), 1),
    ] {
        somebody.0.set_service_cidrs(&foreign).unwrap();
        assert_eq!(ebpf.inspect().unwrap().restored, count, "{foreign:?}");
        assert_eq!(ebpf.inspect().unwrap(), Inspection::default(), "once is enough");
    }
}

/// Another program that writes to the same maps.
struct Somebody(Ebpf);

impl Somebody {
    fn new(node: &Node) -> Self {
        let elsewhere = node.state().with_file_name("elsewhere");
        fs::create_dir_all(elsewhere.join("v4/maps")).unwrap();
        for pin in fs::read_dir(node.state().join("v4/maps")).unwrap() {
            let pin = pin.unwrap();
            fs::hard_link(pin.path(), elsewhere.join("v4/maps").join(pin.file_name())).unwrap();
        }
        Self(Ebpf::open(&Settings { bpf_fs: elsewhere, ..node.settings() }).unwrap())
    }
}
