//! What becomes of connected datagram sockets when their backend goes.

use std::io::{BufRead, BufReader, Error, ErrorKind, Lines, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use plan::Change;
use tests::Namespace;

use crate::balance::peer_in_the_kernel;
use crate::node::{Node, another_process, apply, backend, frontend, serve, told};
use crate::server::UdpServer;

const FRONTEND: &str = "10.254.0.1:53";
const SERVICE: &str = "udp 10.254.0.1:53";
/// Promised to the users of UDP services.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_client_is_moved_to_another_backend_and_notices_nothing() {
    let node = Node::new("moved");
    let mut ebpf = node.open();
    let pod = Namespace::new("pod").unwrap();
    for (named, service, own) in [
        (FRONTEND, SERVICE, ["127.0.0.2:0", "127.0.0.3:0"]),
        ("[::ffff:10.254.0.1]:53", SERVICE, ["127.0.0.2:0", "127.0.0.3:0"]),
        ("[fd00:254::1]:53", "udp [fd00:254::1]:53", ["[::1]:0", "[::1]:0"]),
    ] {
        let servers = pod.run(|| own.map(UdpServer::start)).unwrap();
        serve(&mut ebpf, frontend(service), &servers.each_ref().map(UdpServer::address));
        let mut client = Client::start(&node, &pod, named);
        let first = client.exchange().unwrap();
        assert_eq!(client.exchange(), Ok(first.clone()), "a connected socket has one backend");
        let leaves =
            Change::RemoveBackend { frontend: frontend(service), backend: backend(first.parse().unwrap()) };
        apply(&mut ebpf, &[leaves]);
        client.await_answer(|answer| answer.is_ok_and(|server| server != first));
        apply(&mut ebpf, &[Change::RemoveService { frontend: frontend(service) }]);
    }
}

#[test]
fn a_client_of_a_service_that_is_emptied_or_deleted_is_told() {
    let node = Node::new("ended");
    let mut ebpf = node.open();
    let pod = Namespace::new("pod").unwrap();
    let server = pod.run(|| UdpServer::start("127.0.0.2:0")).unwrap();
    let frontend = frontend(SERVICE);
    for leaves in [
        Change::RemoveBackend { frontend, backend: backend(server.address()) },
        Change::RemoveService { frontend },
    ] {
        apply(&mut ebpf, &[Change::RemoveService { frontend }]);
        serve(&mut ebpf, frontend, &[server.address()]);
        let mut client = Client::start(&node, &pod, FRONTEND);
        assert_eq!(client.exchange(), Ok(server.address().to_string()));
        apply(&mut ebpf, &[leaves]);
        client.await_answer(|answer| answer.is_err());
    }
}

#[test]
fn a_socket_that_no_process_is_seen_to_have_is_ended_and_others_are_left_alone() {
    let node = Node::new("unseen");
    let mut ebpf = node.open();
    // This process is in another namespace: only a thread of it visits the pod.
    let pod = Namespace::new("pod").unwrap();
    let [gone, stays]: [SocketAddr; 2] = ["127.0.0.2:53", "127.0.0.3:53"].map(|text| text.parse().unwrap());
    serve(&mut ebpf, frontend(SERVICE), &[gone, stays]);
    let connected = |named: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(named).unwrap();
        socket
    };
    pod.run(|| {
        let of_the_service = [connected(FRONTEND), connected(FRONTEND)];
        assert_eq!(of_the_service.each_ref().map(peer_in_the_kernel), [gone, stays]);
        let direct = connected("127.0.0.2:53");
        apply(&mut ebpf, &[Change::RemoveBackend { frontend: frontend(SERVICE), backend: backend(gone) }]);
        let [left, other] = of_the_service;
        let error = tests::wait::until_some("the socket is ended", SOON, || Ok(left.take_error().unwrap()));
        assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionAborted);
        left.connect(FRONTEND).unwrap();
        assert_eq!(peer_in_the_kernel(&left), stays, "it connects anew");
        apply(&mut ebpf, &[Change::RemoveService { frontend: frontend(SERVICE) }]);
        for socket in [left, other] {
            tests::wait::until_some("it is ended too", SOON, || Ok(socket.take_error().unwrap())).unwrap();
        }
        assert_eq!(peer_in_the_kernel(&direct), gone, "who talks to the pod itself is none of ours");
        assert!(direct.take_error().unwrap().is_none());
    })
    .unwrap();
}

/// A process in a pod with one socket, which it connects once.
struct Client {
    process: Child,
    ask: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(node: &Node, pod: &Namespace, named: &str) -> Self {
        let mut command = another_process("stale_sockets::client", &node.settings(), named);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pod.run(|| command.spawn()).unwrap().unwrap();
        let (ask, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, ask, answers: BufReader::new(answers).lines() }
    }

    /// Who answered a datagram, or why nobody did.
    fn exchange(&mut self) -> Result<String, String> {
        writeln!(self.ask, "now").unwrap();
        let answer = self.answers.find_map(|line| Some(line.unwrap().strip_prefix("met ")?.to_owned()));
        let answer = answer.unwrap();
        answer.strip_prefix("nobody: ").map_or_else(|| Ok(answer.clone()), |reason| Err(reason.to_owned()))
    }

    fn await_answer(&mut self, expected: impl Fn(Result<String, String>) -> bool) {
        tests::wait::until("the client is answered as expected", SOON, || expected(self.exchange())).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
#[ignore = "the process of a Client"]
fn client() {
    let (_, named) = told();
    let socket = UdpSocket::bind(if named.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(&named).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let exchange = || -> Result<String, Error> {
        socket.send(b"who?")?;
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer)?;
        assert_eq!(socket.peer_addr()?, named.parse().unwrap(), "the application sees what it named");
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    };
    for line in std::io::stdin().lines() {
        line.unwrap();
        let met = exchange().unwrap_or_else(|error| format!("nobody: {error}"));
        println!("\nmet {met}");
    }
}
