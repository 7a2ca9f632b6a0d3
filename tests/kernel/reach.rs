//! A client that names a frontend talks to a backend, and sees the frontend.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use plan::Change;

use crate::node::{Node, apply, backend, frontend, serve};
use crate::server::{PATIENCE, TcpServer, UdpServer, ask, connect, exchange, greeting};

/// Frontend of the service, where its backend listens, and what the client names.
const FAMILIES: [(&str, &str, &str); 3] = [
    ("10.254.0.1:80", "127.0.0.2:0", "10.254.0.1:80"),
    ("[fd00:254::1]:80", "[fd00::1]:0", "[fd00:254::1]:80"),
    // An IPv6 socket that talks IPv4.
    ("10.254.0.1:80", "127.0.0.2:0", "[::ffff:10.254.0.1]:80"),
];

#[test]
fn a_tcp_client_reaches_the_backend_and_sees_the_frontend() {
    for (service, server, named) in FAMILIES {
        let node = Node::new("tcp");
        let mut ebpf = node.open();
        node.run(|| {
            let server = TcpServer::start(server);
            serve(&mut ebpf, frontend(&format!("tcp {service}")), &[server.address()]);
            let mut stream = connect(named).unwrap();
            assert_eq!(greeting(&mut stream).unwrap(), server.address());
            assert_eq!(stream.peer_addr().unwrap(), named.parse::<SocketAddr>().unwrap());
        });
    }
}

#[test]
fn a_connected_udp_client_reaches_the_backend_and_sees_the_frontend() {
    for (service, server, named) in FAMILIES {
        let node = Node::new("udp");
        let mut ebpf = node.open();
        node.run(|| {
            let server = UdpServer::start(server);
            serve(&mut ebpf, frontend(&format!("udp {service}")), &[server.address()]);
            let socket = client(named);
            socket.connect(named).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"who?").unwrap();
            let mut buffer = [0; 64];
            let (count, source) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(String::from_utf8_lossy(&buffer[..count]), server.address().to_string());
            let named: SocketAddr = named.parse().unwrap();
            assert_eq!((socket.peer_addr().unwrap(), source), (named, named));
        });
    }
}

#[test]
fn an_unconnected_udp_client_reaches_the_backend_and_sees_the_frontend() {
    for (service, server, named) in FAMILIES {
        let node = Node::new("udp");
        let mut ebpf = node.open();
        node.run(|| {
            let server = UdpServer::start(server);
            serve(&mut ebpf, frontend(&format!("udp {service}")), &[server.address()]);
            let (name, source) = exchange(&client(named), named).unwrap();
            assert_eq!((name, source), (server.address(), named.parse().unwrap()));
        });
    }
}

#[test]
fn a_client_of_a_service_without_backends_is_refused_at_once() {
    for (service, _, named) in FAMILIES {
        let node = Node::new("refuse");
        let mut ebpf = node.open();
        for protocol in ["tcp", "udp"] {
            serve(&mut ebpf, frontend(&format!("{protocol} {service}")), &[]);
        }
        node.run(|| {
            assert_eq!(ask(named).unwrap_err().kind(), ErrorKind::ConnectionRefused, "tcp {named}");
            let socket = client(named);
            assert_eq!(
                socket.send_to(b"who?", named).unwrap_err().kind(),
                ErrorKind::ConnectionRefused,
                "udp {named}"
            );
            assert_eq!(
                socket.connect(named).unwrap_err().kind(),
                ErrorKind::ConnectionRefused,
                "udp {named}"
            );
        });
    }
}

#[test]
fn what_is_no_service_is_left_alone() {
    let node = Node::new("alone");
    let mut ebpf = node.open();
    node.run(|| {
        let server = TcpServer::start("127.0.0.2:0");
        let (own, other) = (server.address(), TcpServer::start("127.0.0.3:0"));
        serve(&mut ebpf, frontend("tcp 10.254.0.1:80"), &[other.address()]);
        // Another port, another protocol, and a server of its own.
        assert_eq!(ask("10.254.0.1:81").unwrap_err().kind(), ErrorKind::NetworkUnreachable);
        let socket = client("10.254.0.1:80");
        assert_eq!(
            socket.send_to(b"who?", "10.254.0.1:80").unwrap_err().kind(),
            ErrorKind::NetworkUnreachable
        );
        let mut stream = connect(&own.to_string()).unwrap();
        assert_eq!((greeting(&mut stream).unwrap(), stream.peer_addr().unwrap()), (own, own));
    });
}

#[test]
fn a_removed_service_is_no_service() {
    let node = Node::new("removed");
    let mut ebpf = node.open();
    node.run(|| {
        let server = TcpServer::start("127.0.0.2:0");
        let service = frontend("tcp 10.254.0.1:80");
        serve(&mut ebpf, service, &[server.address()]);
        ask("10.254.0.1:80").unwrap();
        apply(&mut ebpf, &[Change::RemoveBackend { frontend: service, backend: backend(server.address()) }]);
        assert_eq!(ask("10.254.0.1:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        apply(&mut ebpf, &[Change::RemoveService { frontend: service }]);
        assert_eq!(ask("10.254.0.1:80").unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    });
}

/// A UDP socket of the family in which `named` is written.
fn client(named: &str) -> UdpSocket {
    UdpSocket::bind(if named.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap()
}
