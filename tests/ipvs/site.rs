//! A director between a client, a pod and three servers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use dataplane::{Dataplane, Ipvs, IpvsSettings, Surroundings};
use plan::{Backend, Change, Frontend, Port, Protocol, Service};
use socket2::{Domain, Socket, Type};
use tests::{Namespace, Process, Program, Switch, traffic, wait};

/// What the servers are called.
pub(crate) const SERVERS: [&str; 3] = ["one", "two", "three"];
const SERVER_PORT: u16 = 6443;
/// A guest without hardware support is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything in it goes when it is dropped.
pub(crate) struct Site {
    processes: Vec<Process>,
    pub(crate) client: Namespace,
    pub(crate) director: Namespace,
    /// Behind an interface of the director's that is known for its pods.
    pub(crate) pod: Namespace,
    /// In the order of their names.
    pub(crate) servers: Vec<Namespace>,
    _switch: Switch,
}

impl Site {
    pub(crate) fn new() -> Self {
        let [client, director, pod] =
            ["client", "director", "pod"].map(|label| Namespace::new(label).unwrap());
        for (place, network, interface) in [(&client, 1, "eth0"), (&pod, 3, "pod")] {
            place.cable("eth0", &director, interface).unwrap();
            director
                .addresses(interface, &[&format!("10.{network}.0.1/24"), &format!("fd00:{network}::1/64")])
                .unwrap();
            leave_by(place, network, 2);
        }
        let switch = Switch::new("servers").unwrap();
        switch.attach(&director, "eth1", &["10.2.0.1/24", "fd00:2::1/64"]).unwrap();
        let (mut servers, mut processes) = (Vec::new(), Vec::new());
        for (number, name) in (11..).zip(SERVERS) {
            let place = Namespace::new(name).unwrap();
            switch.attach(&place, "eth0", &[]).unwrap();
            leave_by(&place, 2, number);
            processes.push(traffic::serve(&place, name, &format!("[::]:{SERVER_PORT}")).unwrap());
            servers.push(place);
        }
        director.forward().unwrap();
        Self { processes, client, director, pod, servers, _switch: switch }
    }

    /// The director's virtual services.
    pub(crate) fn open(&self) -> Ipvs {
        self.on_director(open)
    }

    /// Runs `work` inside the director's network.
    pub(crate) fn on_director<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.director.run(work).unwrap()
    }

    /// `program`, to be run there.
    pub(crate) fn inside_director(&self, program: Program) -> Program {
        program.inside(&self.director)
    }

    /// Runs a tool there.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> String {
        self.director.command(program, arguments).unwrap()
    }

    /// Who answers a client that connects so often, one connection after the other; the error of the first that fails.
    pub(crate) fn dial(&self, to: Frontend, times: usize) -> std::io::Result<BTreeMap<String, usize>> {
        let address = SocketAddr::new(to.address(), to.port().number());
        let dial = || {
            let mut names = BTreeMap::new();
            for _ in 0..times {
                *names.entry(Held::open(address)?.name).or_default() += 1;
            }
            Ok(names)
        };
        self.client.run(dial).unwrap()
    }

    /// Waits until these servers answer at `to` in turn, and no others.
    pub(crate) fn await_servers(&self, to: Frontend, names: &[&str]) {
        wait::until(&format!("{names:?} answer at {to}, and no others"), Duration::from_mins(1), || {
            let answers = self.dial(to, 2 * names.len());
            answers.is_ok_and(|found| found == names.iter().map(|name| ((*name).to_owned(), 2)).collect())
        })
        .unwrap();
    }

    /// Kills the server of this name.
    pub(crate) fn stop(&mut self, name: &str) {
        let position = SERVERS.iter().position(|server| *server == name).unwrap();
        self.processes[position].kill().unwrap();
    }

    /// The same by this one of its addresses, if it is served.
    pub(crate) fn hold_as(&self, client: IpAddr, to: Frontend) -> std::io::Result<Held> {
        let address = SocketAddr::new(to.address(), to.port().number());
        let open = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(client, 0).into())?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            Held::of(socket.into())
        };
        self.client.run(open).unwrap()
    }

    /// A socket of the client's that sends datagrams to one place.
    pub(crate) fn sender(&self, to: Frontend) -> Sender {
        let address = SocketAddr::new(to.address(), to.port().number());
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(address).map(|()| Sender(socket))
        };
        self.client.run(open).unwrap().unwrap()
    }

    /// A connection of the client's that stays.
    pub(crate) fn hold(&self, to: Frontend) -> Held {
        Self::hold_from(&self.client, to)
    }

    /// The same of somebody on the link of the servers, to whom they could answer past the director.
    pub(crate) fn hold_beside_servers(&self, to: Frontend) -> Held {
        Self::hold_from(&self.servers[0], to)
    }

    /// The same of a process of the director itself.
    pub(crate) fn hold_on_director(&self, to: Frontend) -> Held {
        Self::hold_from(&self.director, to)
    }

    fn hold_from(place: &Namespace, to: Frontend) -> Held {
        let address = SocketAddr::new(to.address(), to.port().number());
        place.run(|| Held::open(address)).unwrap().unwrap()
    }
}

/// Gives a place its addresses in a network, and the director as its gateway.
fn leave_by(place: &Namespace, network: u8, number: u8) {
    let lines = [
        format!("address add 10.{network}.0.{number}/24 dev eth0"),
        format!("address add fd00:{network}::{number}/64 dev eth0 nodad"),
        format!("route add default via 10.{network}.0.1"),
        format!("route add default via fd00:{network}::1"),
    ];
    place.ip_lines(&lines).unwrap();
}

/// The virtual services of this network. Pods are those behind the interface `pod`.
pub(crate) fn open() -> Ipvs {
    let surroundings = Surroundings { pod_interfaces: vec!["pod".to_owned()], ..Surroundings::default() };
    Ipvs::open(IpvsSettings::default(), surroundings).unwrap()
}

/// Carries out `changes`, which nothing refuses.
pub(crate) fn apply(ipvs: &mut Ipvs, changes: &[Change]) {
    let failures = ipvs.apply(changes);
    assert!(failures.is_empty(), "{failures:?}");
}

/// A connection and who answers it.
pub(crate) struct Held {
    pub(crate) name: String,
    stream: BufReader<TcpStream>,
}

impl Held {
    fn open(address: SocketAddr) -> std::io::Result<Self> {
        Self::of(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    fn of(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut held = Self { name: String::new(), stream: BufReader::new(stream) };
        held.name = held.ask()?;
        Ok(held)
    }

    /// The name of who answers now.
    pub(crate) fn ask(&mut self) -> std::io::Result<String> {
        self.stream.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Sends datagrams, all from one port.
pub(crate) struct Sender(UdpSocket);

impl Sender {
    /// The name of who answers now, within so long.
    pub(crate) fn ask(&mut self, patience: Duration) -> std::io::Result<String> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.send(b"who\n")?;
        let mut buffer = [0; 200];
        let length = self.0.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Where the client knocks.
pub(crate) fn frontend() -> Frontend {
    Frontend::new(IpAddr::from([10, 254, 0, 1]), Port::new(443).unwrap(), Protocol::Tcp)
}

/// The server of this name.
pub(crate) fn server(name: &str) -> Backend {
    let position = SERVERS.iter().position(|server| *server == name).unwrap();
    let last = u8::try_from(11 + position).unwrap();
    Backend::new(IpAddr::from([10, 2, 0, last]), Port::new(SERVER_PORT).unwrap())
}

/// Every server so often.
pub(crate) fn each(times: usize) -> BTreeMap<String, usize> {
    SERVERS.iter().map(|name| ((*name).to_owned(), times)).collect()
}

/// Served by these in turn.
pub(crate) fn service(names: &[&str]) -> Service {
    names.iter().map(|name| server(name)).collect()
}
