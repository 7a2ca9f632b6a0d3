//! As on an older kernel: where what the programs can do without is hidden from them, calls of it are calls of nothing.

use std::io::ErrorKind::{ConnectionRefused, PermissionDenied};
use std::net::{SocketAddr, UdpSocket};

use dataplane::{Ebpf, Feature, contract};
use plan::{Rules, Scheduler, WhenEmpty};
use socket2::{Domain, Socket, Type};
use tests::Namespace;

use crate::node::{Node, frontend, serve, serve_by};
use crate::server::{PATIENCE, TcpServer, UdpServer, ask, connect, exchange, greeting};

/// What a client names, and where nobody or somebody serves.
const V4: &str = "10.254.0.1:80";
const V6: &str = "[fd00:254::1]:80";
/// An IPv6 socket that talks IPv4.
const MAPPED: &str = "[::ffff:10.254.0.1]:80";

fn older(node: &Node) -> Ebpf {
    node.open_lacking(&Feature::ALL)
}

#[test]
fn the_contract_is_kept() {
    let node = Node::new("contract");
    contract::holds(|| Box::new(older(&node)));
}

#[test]
fn clients_reach_backends_and_see_the_frontend() {
    let node = Node::new("reach");
    let mut ebpf = older(&node);
    node.run(|| {
        for (service, server, clients) in [(V4, "127.0.0.2:0", [V4, MAPPED]), (V6, "[fd00::1]:0", [V6, V6])] {
            let (tcp, udp) = (TcpServer::start(server), UdpServer::start(server));
            serve(&mut ebpf, frontend(&format!("tcp {service}")), &[tcp.address()]);
            serve(&mut ebpf, frontend(&format!("udp {service}")), &[udp.address()]);
            for named in clients {
                let seen: SocketAddr = named.parse().unwrap();
                let mut stream = connect(named).unwrap();
                assert_eq!(
                    (greeting(&mut stream).unwrap(), stream.peer_addr().unwrap()),
                    (tcp.address(), seen)
                );
                assert_eq!(exchange(&datagrams(named), named).unwrap(), (udp.address(), seen));
            }
        }
    });
}

#[test]
fn who_is_refused_is_told_so_and_who_is_dropped_is_told_otherwise() {
    let node = Node::new("refuse");
    let mut ebpf = older(&node);
    for service in [V4, V6] {
        for protocol in ["tcp", "udp"] {
            serve(&mut ebpf, frontend(&format!("{protocol} {service}")), &[]);
        }
    }
    let told = |named: &str| {
        let socket = datagrams(named);
        [
            connect(named).unwrap_err().kind(),
            socket.send_to(b"who?", named).unwrap_err().kind(),
            socket.connect(named).unwrap_err().kind(),
        ]
    };
    node.run(|| {
        for named in [V4, V6, MAPPED] {
            assert_eq!(told(named), [ConnectionRefused, PermissionDenied, PermissionDenied], "{named}");
        }
        // From an address of another interface; and by one interface alone, which does not lead to the host itself.
        let neighbour = Namespace::new("neighbour").unwrap();
        node.namespace().cable("eth0", &neighbour, "eth0").unwrap();
        node.namespace().address("eth0", "10.9.0.1/24").unwrap();
        let client = |device: Option<&[u8]>| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&"10.9.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
            socket.bind_device(device).unwrap();
            let to = V4.parse::<SocketAddr>().unwrap().into();
            socket.connect_timeout(&to, PATIENCE).unwrap_err().kind()
        };
        assert_eq!(client(None), ConnectionRefused);
        assert_eq!(client(Some(b"eth0")), PermissionDenied);
    });
    let silent = Rules { when_empty: WhenEmpty::Drop, ..Rules::default() };
    for protocol in ["tcp", "udp"] {
        serve_by(&mut ebpf, frontend(&format!("{protocol} 10.254.0.2:80")), silent.clone(), &[]);
    }
    node.run(|| assert_eq!(told("10.254.0.2:80"), [PermissionDenied; 3]));
}

#[test]
fn the_fewest_connections_are_looked_for_among_four_backends_in_turn() {
    let node = Node::new("least");
    let mut ebpf = older(&node);
    node.run(|| {
        let rules = Rules { scheduler: Scheduler::LeastConnections, ..Rules::default() };
        let servers: Vec<_> = (1..=8).map(|last| TcpServer::start(&format!("127.0.0.{last}:0"))).collect();
        let addresses: Vec<_> = servers.iter().map(TcpServer::address).collect();
        serve_by(&mut ebpf, frontend("tcp 10.254.0.1:80"), rules.clone(), &addresses[..4]);
        let open = |named| {
            let mut stream = connect(named).unwrap();
            (greeting(&mut stream).unwrap(), stream)
        };
        let mut held: Vec<_> = (0..8).map(|_| open(V4)).collect();
        held.retain(|(met, _)| *met != addresses[2]);
        assert_eq!([ask(V4), ask(V4), ask(V4)].map(Result::unwrap), [addresses[2]; 3]);

        // The first of eight has none when the others have one each; those whose turn is after it do not look so far.
        serve_by(&mut ebpf, frontend("tcp 10.254.0.2:80"), rules, &addresses);
        let mut held: Vec<_> = (0..8).map(|_| open("10.254.0.2:80")).collect();
        held.retain(|(met, _)| *met != addresses[0]);
        let met: Vec<_> = (0..8).map(|_| ask("10.254.0.2:80").unwrap()).collect();
        assert_eq!(met.iter().filter(|met| **met == addresses[0]).count(), 4, "{met:?}");
    });
}

/// A UDP socket of the family in which `named` is written.
fn datagrams(named: &str) -> UdpSocket {
    let socket = UdpSocket::bind(if named.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
