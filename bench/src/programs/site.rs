//! A node with two interfaces, an open dataplane, and two services each of which is the other's only backend.
//!
//! A run does not make its packet anew, so what is translated must be for a service again: it is the other's turn then.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use dataplane::{Dataplane, Ebpf, PacketSettings, PacketTiming, Settings};
use nix::net::if_::if_nametoindex;
use plan::{Backend, Forwarding, Frontend, Observed, Port, Protocol, Scope, diff};
use tests::{BpfFs, Cgroup, Error, Namespace, Result, wait};

use super::frame::{ACK, FIRST_FRAGMENT, LATER_FRAGMENT, SYN, UDP};
use super::{Case, Frame};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 254, 0, 80), 80);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 254, 0, 81), 8080);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 80);
/// What a program says of a packet that it sends on itself, and of one that it lets pass.
const REDIRECT: i32 = 7;
const NEXT: i32 = -1;
/// Runs on one packet: each takes one of its 255 hops.
const REPEAT: u32 = 250;
/// So many times in a round.
const PACKETS: u32 = 40;
/// Sockets connected in a round.
const CONNECTS: u32 = 5_000;

pub(super) struct Site {
    timing: PacketTiming,
    dataplane: Ebpf,
    network: Namespace,
    _world: Namespace,
    /// Outside of the control group, and in it.
    sockets: [UdpSocket; 2],
    _cgroup: Cgroup,
    _bpf_fs: BpfFs,
    /// Index and address of the interfaces: clients' and backends'.
    interfaces: [(u32, [u8; 6]); 2],
    /// The next client's port.
    port: u16,
}

impl Site {
    pub(super) fn start() -> Result<Self> {
        let (network, world) = (Namespace::new("node")?, Namespace::new("world")?);
        for (interface, subnet) in [("eth0", "10.80.0"), ("eth1", "10.81.0")] {
            network.cable(interface, &world, interface)?;
            network.address(interface, &format!("{subnet}.254/24"))?;
            let neighbour = format!("{subnet}.1");
            let lladdr = ["lladdr", "02:00:00:00:00:01", "dev", interface];
            network.ip(&[&["neigh", "replace", &neighbour][..], &lladdr].concat())?;
        }
        network.route("10.254.0.0/24", "10.81.0.1")?;
        network.forward()?;
        let (cgroup, bpf_fs) = (Cgroup::new("node")?, BpfFs::new()?);
        let settings = Settings { cgroup: cgroup.path().to_owned(), bpf_fs: bpf_fs.path().join("fairway") };
        let outside = network.run(socket)??;
        join(&cgroup)?;
        let inside = network.run(socket)??;
        let (dataplane, timing) = network.run(|| open(&settings))??;
        let interfaces = [interface(&network, "eth0")?, interface(&network, "eth1")?];
        let mut site = Self {
            timing,
            dataplane,
            network,
            _world: world,
            sockets: [outside, inside],
            _cgroup: cgroup,
            _bpf_fs: bpf_fs,
            interfaces,
            port: 2000,
        };
        site.prepare()?;
        Ok(site)
    }

    /// The programs, and how many instructions the verifier walked through.
    pub(super) fn verified(&self) -> Vec<(&'static str, Option<u32>)> {
        let programs = self.dataplane.programs().iter();
        programs.map(|program| (program.name, program.verified_instructions)).collect()
    }

    /// Nanoseconds for a packet.
    pub(super) fn packet(&mut self, case: Case) -> Result<f64> {
        let client = SocketAddrV4::new(CLIENT, 1000);
        match case {
            Case::Pass => self.run_often(PacketTiming::PASS, Frame::tcp(client, SERVICE, ACK), 0, NEXT),
            Case::Miss => self.run_often("fairway_in", Frame::tcp(client, NOBODY, ACK), 0, NEXT),
            Case::Hit => self.run_often("fairway_in", Frame::tcp(client, SERVICE, ACK), 0, REDIRECT),
            Case::Reverse => self.run_often("fairway_in", Frame::tcp(SERVICE, client, ACK), 1, REDIRECT),
            Case::Leaving => self.run_often("fairway_out", Frame::tcp(SERVICE, client, ACK), 0, NEXT),
            Case::Fragment => {
                // Without ports, in whose place is payload.
                let later = Frame { fragment: LATER_FRAGMENT, ..fragment(client, SERVICE) };
                self.run_often("fairway_in", later, 0, REDIRECT)
            }
            Case::PassOnce => self.run_each(PacketTiming::PASS, NEXT),
            Case::New => self.run_each("fairway_in", REDIRECT),
        }
    }

    /// Nanoseconds for connecting a datagram socket, which sends nothing.
    pub(super) fn connects(&self) -> Result<[(&'static str, f64); 3]> {
        let [outside, inside] = &self.sockets;
        let time = |socket: &UdpSocket, address: SocketAddrV4| -> Result<f64> {
            let start = wait::now();
            for _ in 0..CONNECTS {
                socket.connect(address).map_err(Error::system("connect to", address))?;
            }
            Ok(nanoseconds(wait::now() - start) / f64::from(CONNECTS))
        };
        self.network.run(|| {
            Ok([
                ("no program", time(outside, SERVICE)?),
                ("program, no service", time(inside, SocketAddrV4::new(CLIENT, 80))?),
                ("program, a service", time(inside, SERVICE)?),
            ])
        })?
    }

    /// Conversations under way.
    fn prepare(&mut self) -> Result<()> {
        let client = SocketAddrV4::new(CLIENT, 1000);
        let both = [SERVICE, OTHER];
        let opened = both.map(|service| (Frame::tcp(client, service, SYN), 0));
        let answered = both.map(|service| (Frame::tcp(service, client, SYN | ACK), 1));
        let whole = both.map(|service| (fragment(client, service), 0));
        let first = both.map(|service| (Frame { fragment: FIRST_FRAGMENT, ..fragment(client, service) }, 0));
        for (frame, interface) in [opened, answered, whole, first].concat() {
            self.run("fairway_in", frame, interface, (1, REDIRECT))?;
        }
        Ok(())
    }

    fn run_often(
        &mut self,
        program: &'static str,
        frame: Frame,
        interface: usize,
        verdict: i32,
    ) -> Result<f64> {
        let mut sum = 0.0;
        for _ in 0..PACKETS {
            sum += self.run(program, frame, interface, (REPEAT, verdict))?;
        }
        Ok(sum / f64::from(PACKETS))
    }

    /// Each time another client's first packet, once.
    fn run_each(&mut self, program: &'static str, verdict: i32) -> Result<f64> {
        let mut sum = 0.0;
        for _ in 0..REPEAT {
            let client = SocketAddrV4::new(CLIENT, self.port);
            self.port = self.port.checked_add(1).unwrap_or(2000);
            sum += self.run(program, Frame::tcp(client, SERVICE, SYN), 0, (1, verdict))?;
        }
        Ok(sum / f64::from(REPEAT))
    }

    fn run(
        &mut self,
        program: &'static str,
        frame: Frame,
        interface: usize,
        (repeat, verdict): (u32, i32),
    ) -> Result<f64> {
        let (index, hardware_address) = self.interfaces[interface];
        let bytes = frame.bytes(hardware_address);
        let timing = &mut self.timing;
        let run = self.network.run(|| timing.run(program, &bytes, index, repeat))?;
        let run = run.map_err(|error| failed("run a program", &error))?;
        if run.verdict == verdict {
            return Ok(nanoseconds(run.duration));
        }
        let what = format!("{program} said {} and not {verdict} of {frame:?}", run.verdict);
        Err(Error::Object { reason: what })
    }
}

const fn fragment(client: SocketAddrV4, service: SocketAddrV4) -> Frame {
    Frame { source: client, destination: service, protocol: UDP, flags: 0, fragment: 0 }
}

fn socket() -> Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).map_err(Error::system("bind", "a socket"))
}

/// Makes this process one of the node's: its next sockets are translated.
fn join(cgroup: &Cgroup) -> Result<()> {
    let members = cgroup.path().join("cgroup.procs");
    std::fs::write(&members, std::process::id().to_string()).map_err(Error::system("join", members.display()))
}

fn open(settings: &Settings) -> Result<(Ebpf, PacketTiming)> {
    let mut dataplane = Ebpf::open(settings).map_err(|error| failed("open the dataplane", &error))?;
    let failures = dataplane.apply(&diff(&Observed::default(), &services(), &Scope::everything()));
    if let Some(failure) = failures.first() {
        return Err(failed("write services", failure));
    }
    dataplane.serve_packets(PacketSettings::default()).map_err(|error| failed("serve packets", &error))?;
    let timing = dataplane.packet_timing().map_err(|error| failed("load programs", &error))?;
    Ok((dataplane, timing))
}

fn services() -> Forwarding {
    let port = |service: SocketAddrV4| Port::new(service.port());
    let (Some(port), Some(other_port)) = (port(SERVICE), port(OTHER)) else { return Forwarding::default() };
    let [address, other_address] = [SERVICE, OTHER].map(|service| IpAddr::from(*service.ip()));
    let backend = |address, port| [Backend::new(address, port)].into_iter().collect();
    let both = |protocol| {
        [
            (Frontend::new(address, port, protocol), backend(other_address, other_port)),
            (Frontend::new(other_address, other_port, protocol), backend(address, port)),
        ]
    };
    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(both).collect()
}

fn interface(network: &Namespace, name: &str) -> Result<(u32, [u8; 6])> {
    let unknown = || std::io::Error::other("no hardware address");
    let shown = network.ip(&["-brief", "link", "show", name])?;
    let digits = shown.split_whitespace().nth(2).unwrap_or_default().split(':');
    let address: Option<Vec<u8>> = digits.map(|digits| u8::from_str_radix(digits, 16).ok()).collect();
    let address = address.and_then(|address| address.try_into().ok()).ok_or_else(unknown);
    let index = network.run(|| if_nametoindex(name))?.map_err(Error::system("find", name))?;
    Ok((index, address.map_err(Error::system("understand", name))?))
}

fn failed(action: &'static str, error: &dyn std::error::Error) -> Error {
    let mut reason = format!("{action}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        reason.extend([": ", &error.to_string()]);
        source = error.source();
    }
    Error::Object { reason }
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}
