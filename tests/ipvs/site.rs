//! A director between a client and three servers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use plan::{Backend, Frontend, Port, Protocol, Service};
use tests::{Namespace, Process, Program, Switch, traffic};

/// What the servers are called.
pub(crate) const SERVERS: [&str; 3] = ["one", "two", "three"];
const SERVER_PORT: u16 = 6443;
/// A guest without hardware support is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything in it goes when it is dropped.
pub(crate) struct Site {
    _servers: Vec<Process>,
    client: Namespace,
    director: Namespace,
    _places: (Switch, Vec<Namespace>),
}

impl Site {
    pub(crate) fn new() -> Self {
        let [client, director] = ["client", "director"].map(|label| Namespace::new(label).unwrap());
        client.cable("eth0", &director, "eth0").unwrap();
        client.address("eth0", "10.1.0.2/24").unwrap();
        director.address("eth0", "10.1.0.1/24").unwrap();
        client.route("default", "10.1.0.1").unwrap();
        let switch = Switch::new("servers").unwrap();
        switch.attach(&director, "eth1", &["10.2.0.1/24"]).unwrap();
        let (mut places, mut servers) = (Vec::new(), Vec::new());
        for (number, name) in (11..).zip(SERVERS) {
            let place = Namespace::new(name).unwrap();
            switch.attach(&place, "eth0", &[&format!("10.2.0.{number}/24")]).unwrap();
            place.route("default", "10.2.0.1").unwrap();
            let address = format!("10.2.0.{number}:{SERVER_PORT}");
            servers.push(traffic::serve(&place, name, &address).unwrap());
            places.push(place);
        }
        Self { _servers: servers, client, director, _places: (switch, places) }
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

    /// A connection of the client's that stays.
    pub(crate) fn hold(&self, to: Frontend) -> Held {
        let address = SocketAddr::new(to.address(), to.port().number());
        self.client.run(|| Held::open(address)).unwrap().unwrap()
    }
}

/// A connection and who answers it.
pub(crate) struct Held {
    pub(crate) name: String,
    stream: BufReader<TcpStream>,
}

impl Held {
    fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
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

/// Served by these in turn.
pub(crate) fn service(names: &[&str]) -> Service {
    names.iter().map(|name| server(name)).collect()
}
