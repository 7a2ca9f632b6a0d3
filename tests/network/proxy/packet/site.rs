//! A node between the world and its pods.
//!
//! ```text
//!    out .10    bad .200
//!       |          |
//!   ----+----------+------+---- 172.16.60.0/24, fd60::/64
//!                         | .241
//!                       node ------ local pod 10.42.1.5, fd42:1::5
//!                         | .254
//!   ----+----------+------+---- 10.1.0.0/24, fd00:1::/64
//!       |          |
//!    pod-1 .1   pod-2 .2          pods of other nodes
//! ```
//!
//! Pods answer with their name and the address that they see. The world has a route to everything by the node.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Namespace, Process, Result, Switch, objects, traffic};

use crate::proxy::node::{Node, POD_PORT};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one waits that is to get none.
const DOUBT: Duration = Duration::from_millis(600);

pub(super) const CLUSTER: &str = "10.254.0.10:80";
pub(super) const CLUSTER6: &str = "[fd00:254::10]:80";
pub(super) const LOCAL: &str = "10.42.1.5";
pub(super) const LOCAL6: &str = "fd42:1::5";
pub(super) const REMOTE: &str = "10.1.0.1";
pub(super) const REMOTE6: &str = "fd00:1::1";

pub(super) struct Site {
    // Dropped in this order.
    _servers: Vec<Process>,
    pub(super) node: Node,
    pub(super) out: Namespace,
    pub(super) bad: Namespace,
    pub(super) local: Namespace,
    pub(super) outside: Switch,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answer {
    /// By whom.
    pub(super) pod: String,
    /// Which address the pod saw.
    pub(super) seen: IpAddr,
    /// From which port.
    pub(super) port: u16,
}

impl Site {
    /// With the local pod, and pod-1 and pod-2 elsewhere.
    pub(super) fn new() -> Result<Self> {
        let mut node = Node::new()?;
        node.namespace.forward()?;
        let outside = Switch::new("outside")?;
        outside.attach(&node.namespace, "eth1", &["172.16.60.241/24", "fd60::241/64"])?;
        let client = |label: &str, number: &str| -> Result<Namespace> {
            let namespace = Namespace::new(label)?;
            let addresses = [format!("172.16.60.{number}/24"), format!("fd60::{number}/64")];
            outside.attach(&namespace, "eth0", &addresses.each_ref().map(String::as_str))?;
            namespace.route("default", "172.16.60.241")?;
            namespace.ip(&["-6", "route", "add", "default", "via", "fd60::241"])?;
            // As a router that knows where they are has it.
            for address in ["172.16.60.230", "172.16.60.231"] {
                namespace.route(address, "172.16.60.241")?;
            }
            Ok(namespace)
        };
        let (out, bad) = (client("out", "10")?, client("bad", "200")?);
        let local = local_pod(&node, "local", "5")?;
        let servers = vec![traffic::serve(&local, "local", &format!("[::]:{POD_PORT}"))?];
        for number in 1..=2 {
            node.serve(number, &format!("pod-{number}"), POD_PORT)?;
            let pod = node.pod(number)?;
            pod.route("default", "10.1.0.254")?;
            pod.ip(&["-6", "route", "add", "default", "via", "fd00:1::254"])?;
        }
        Ok(Self { _servers: servers, node, out, bad, local, outside })
    }

    /// The Service `web`, TCP and UDP, in both families, with these endpoints.
    pub(super) fn web(&self, endpoints: &[&str]) -> Result<()> {
        let (ipv4, ipv6): (Vec<&str>, Vec<&str>) =
            endpoints.iter().partition(|address| !address.contains(':'));
        let documents = [
            both(objects::service("web", "10.254.0.10"), 80).json(),
            slice("web", &ipv4),
            both(objects::service("web6", "fd00:254::10"), 80).json(),
            slice("web6", &ipv6),
        ];
        self.objects(&documents)
    }

    /// The Service `web` for the world: node port 30080, a load balancer's address and an external one, with endpoints
    /// here and elsewhere. `policy` is its external traffic policy; `ranges` whom the load balancer lets in.
    pub(super) fn public(
        &self,
        policy: &str,
        here: &[&str],
        elsewhere: &[&str],
        ranges: &[&str],
    ) -> Result<()> {
        let service = both(objects::service("web", "10.254.0.10"), 80)
            .with("/spec", "type", "LoadBalancer")
            .with("/spec", "externalTrafficPolicy", policy)
            .with("/spec", "externalIPs", vec!["172.16.60.231"])
            .with("/spec", "loadBalancerSourceRanges", ranges.to_vec())
            .with("/spec/ports/0", "nodePort", 30_080)
            .with("/spec/ports/1", "nodePort", 30_080)
            .with("", "status", json!({"loadBalancer": {"ingress": [{"ip": "172.16.60.230"}]}}));
        let mut slice = slice("web", &[here, elsewhere].concat());
        for number in 0..here.len() + elsewhere.len() {
            let node = if number < here.len() { "m1" } else { "m2" };
            slice["endpoints"][number]["nodeName"] = node.into();
        }
        self.objects(&[objects::node("m1", "172.16.60.241").json(), service.json(), slice])
    }

    /// Writes the manifests.
    pub(super) fn objects(&self, documents: &[Value]) -> Result<()> {
        let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
        self.node.write("services.yaml", &texts.join("\n---\n")).map(drop)
    }

    /// Starts the proxy with these flags.
    pub(super) fn proxy(&self, flags: &[&str]) -> Result<Process> {
        let directory = self.node.directory().display().to_string();
        self.node.proxy(&[&["--manifests", &directory], flags].concat())
    }
}

/// A pod of the node on a cable of its own, as most networks of clusters have it.
pub(super) fn local_pod(node: &Node, label: &str, number: &str) -> Result<Namespace> {
    let namespace = Namespace::new(label)?;
    let interface = format!("pod{number}");
    node.namespace.cable(&interface, &namespace, "eth0")?;
    namespace.address("eth0", &format!("10.42.1.{number}/32"))?;
    namespace.address("eth0", &format!("fd42:1::{number}/128"))?;
    node.namespace.address(&interface, "10.42.1.1/32")?;
    node.namespace.address(&interface, "fd42:1::1/128")?;
    node.namespace.ip(&["route", "add", &format!("10.42.1.{number}"), "dev", &interface])?;
    node.namespace.ip(&["-6", "route", "add", &format!("fd42:1::{number}"), "dev", &interface])?;
    namespace.ip(&["route", "add", "10.42.1.1", "dev", "eth0"])?;
    namespace.ip(&["route", "add", "default", "via", "10.42.1.1"])?;
    namespace.ip(&["-6", "route", "add", "fd42:1::1", "dev", "eth0"])?;
    namespace.ip(&["-6", "route", "add", "default", "via", "fd42:1::1"])?;
    Ok(namespace)
}

/// A Service's or a slice's port, TCP and UDP.
pub(super) fn both(object: objects::Object, port: u16) -> objects::Object {
    object.port("t", "TCP", port).port("u", "UDP", port)
}

/// A slice of `service` with these endpoints at the port where pods listen.
pub(super) fn slice(service: &str, endpoints: &[&str]) -> Value {
    both(objects::slice(service, &format!("{service}-1")), POD_PORT).ready(endpoints).json()
}

/// Asks so often; the answers in order.
pub(super) fn ask_often(
    client: &Namespace,
    protocol: &str,
    target: &str,
    times: usize,
) -> Result<Vec<Answer>> {
    client
        .run(|| {
            let answer = |_| exchange(protocol, target, PATIENCE);
            (0..times).map(answer).collect::<io::Result<_>>()
        })?
        .map_err(|error| tests::Error::system("ask", format!("{protocol} {target}"))(error))
}

/// Asks, and is to get no answer of any kind.
pub(super) fn is_dropped(client: &Namespace, protocol: &str, target: &str) -> Result<bool> {
    let outcome = client.run(|| exchange(protocol, target, DOUBT))?;
    let silent = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
    Ok(outcome.is_err_and(|error| silent.contains(&error.kind())))
}

/// Asks, and is to be told that nobody is there.
pub(super) fn is_refused(client: &Namespace, protocol: &str, target: &str) -> Result<bool> {
    let outcome = client.run(|| exchange(protocol, target, PATIENCE))?;
    Ok(outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

fn exchange(protocol: &str, target: &str, patience: Duration) -> io::Result<Answer> {
    let target: SocketAddr = target.parse().map_err(io::Error::other)?;
    let line = match protocol {
        "tcp" => exchange_lines(&mut connect(target, patience)?)?,
        "udp" => {
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(patience))?;
            socket.connect(target)?;
            socket.send(b"who\n")?;
            let mut answer = [0; 256];
            let length = socket.recv(&mut answer)?;
            String::from_utf8_lossy(&answer[..length]).into_owned()
        }
        other => return Err(io::Error::other(format!("{other} is no protocol of these tests"))),
    };
    parse(&line).ok_or_else(|| io::Error::other(format!("answered {line:?}")))
}

/// A connection on which a client does not wait for ever.
pub(super) fn connect(target: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// One question and its answer, on a connection that goes on.
pub(super) fn exchange_lines(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn parse(line: &str) -> Option<Answer> {
    let (pod, seen) = line.trim().split_once(' ')?;
    let seen: SocketAddr = seen.parse().ok()?;
    // Servers of both families see IPv4 in its mapped form.
    Some(Answer { pod: pod.to_owned(), seen: seen.ip().to_canonical(), port: seen.port() })
}

/// Whether an address is one of the node's own.
pub(super) fn is_of_node(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            ["172.16.60.241", "10.1.0.254", "10.42.1.1"].contains(&address.to_string().as_str())
        }
        IpAddr::V6(address) => {
            let own: [Ipv6Addr; 3] = ["fd60::241", "fd00:1::254", "fd42:1::1"]
                .map(|text| text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
            own.contains(&address)
        }
    }
}
