//! Forwarding outlives the process that set it up, and the next one takes it over.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::{Dataplane, Ebpf, Error, Settings};

use crate::node::{Node, another_process, apply, frontend, serve, told};
use crate::server::{TcpServer, ask};

const FRONTEND: &str = "10.254.0.1:80";
const SERVICE: &str = "tcp 10.254.0.1:80";

#[test]
fn a_killed_owner_leaves_forwarding_and_the_next_one_adopts_it() {
    let node = Node::new("killed");
    node.run(|| {
        let server = TcpServer::start("127.0.0.2:0");
        let mut owner = spawn_owner(&node.settings(), &server.address().to_string());
        assert_eq!(ask(FRONTEND).unwrap(), server.address());
        let second = Ebpf::open(&node.settings()).unwrap_err();
        assert!(matches!(&second, Error::InUse { path } if *path == node.state()), "{second:?}");
        assert!(matches!(Ebpf::cleanup(&node.state()), Err(Error::InUse { .. })), "nor can it be cleaned up");

        owner.kill().unwrap();
        owner.wait().unwrap();
        assert_eq!(ask(FRONTEND).unwrap(), server.address(), "nobody owns it, and it forwards");
        let mut next = node.open();
        let found = next.observe().unwrap().forwarding();
        assert_eq!(found.get(&frontend(SERVICE)).map(|service| service.backends.len()), Some(1));
        apply(&mut next, &[plan::Change::RemoveService { frontend: frontend(SERVICE) }]);
        assert_eq!(ask(FRONTEND).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    });
}

#[test]
fn the_next_owner_continues_the_round() {
    let node = Node::new("round");
    node.run(|| {
        let servers = [1, 2, 3].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        let addresses = servers.each_ref().map(TcpServer::address);
        serve(&mut node.open(), frontend(SERVICE), &addresses);
        let met = (0..6).map(|_| {
            // A new owner before every connection.
            drop(node.open());
            ask(FRONTEND).unwrap()
        });
        let met: Vec<_> = met.collect();
        assert_eq!(met, [addresses, addresses].concat());
    });
}

#[test]
fn programs_are_exchanged_under_load_without_a_failed_connection() {
    let node = Node::new("upgrade");
    node.run(|| {
        let servers = [1, 2, 3].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        serve(&mut node.open(), frontend(SERVICE), &servers.each_ref().map(TcpServer::address));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients = [0, 1].map(|_| {
                scope.spawn(|| {
                    let mut met = BTreeMap::new();
                    while !stop.load(Ordering::Relaxed) {
                        *met.entry(ask(FRONTEND).unwrap()).or_insert(0_i32) += 1;
                    }
                    met
                })
            });
            (0..10).for_each(|_| drop(node.open()));
            stop.store(true, Ordering::Relaxed);
            let mut met: BTreeMap<_, i32> = BTreeMap::new();
            for (address, count) in clients.into_iter().flat_map(|client| client.join().unwrap()) {
                *met.entry(address).or_default() += count;
            }
            println!("connections while programs were exchanged 10 times: {met:?}");
            // Old and new programs together count a connection once, so the round stays exact.
            let (least, most) = (met.values().min().unwrap(), met.values().max().unwrap());
            assert!(met.len() == 3 && most - least <= 1, "{met:?}");
        });
    });
}

#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() {
    let node = Node::new("cleanup");
    node.run(|| {
        let server = TcpServer::start("127.0.0.2:0");
        serve(&mut node.open(), frontend(SERVICE), &[server.address()]);
        ask(FRONTEND).unwrap();
        for _ in 0..2 {
            Ebpf::cleanup(&node.state()).unwrap();
            assert!(!node.state().exists());
        }
        tests::wait::until("the programs are detached", Duration::from_secs(5), || {
            ask(FRONTEND).is_err_and(|error| error.kind() == ErrorKind::NetworkUnreachable)
        })
        .unwrap();
        // And a new start starts from nothing.
        assert!(node.open().observe().unwrap().services.is_empty());
    });
}

#[test]
fn the_verifier_accepts_every_program() {
    let node = Node::new("verifier");
    let ebpf = node.open();
    for program in ebpf.programs() {
        let instructions = program.verified_instructions.expect("the kernel says since 5.16");
        println!("{:>14}: {instructions} instructions verified", program.name);
        // The limit is a million; a change that comes near wants to be noticed.
        assert!(instructions < 20_000, "{program:?}");
    }
    assert_eq!(ebpf.programs().len(), 8);
}

/// Another process that owns the state, sets up a service and waits to be killed.
fn spawn_owner(settings: &Settings, server: &str) -> Child {
    let mut owner = another_process("lifecycle::owner", settings, server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("forwarding")), "the owner ended early");
    owner
}

#[test]
#[ignore = "the other process of a_killed_owner_leaves_forwarding_and_the_next_one_adopts_it"]
fn owner() {
    let (settings, server) = told();
    let mut ebpf = Ebpf::open(&settings).unwrap();
    serve(&mut ebpf, frontend(SERVICE), &[server.parse().unwrap()]);
    println!("forwarding");
    // Until killed, or until the test that started it is gone.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
