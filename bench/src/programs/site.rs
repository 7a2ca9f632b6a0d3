//! A node with two interfaces, an open dataplane, and two services each of which is the other's only backend.
//!
//! A run does not make its packet anew, so what is translated must be for a service again: it is the other's turn then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::{Dataplane, Ebpf, PacketSettings, PacketTiming, Settings};
use nix::net::if_::if_nametoindex;
use plan::{Backend, Forwarding, Frontend, Observed, Port, Protocol, Scope, diff};
use tests::{BpfFs, Cgroup, Error, Namespace, Result, wait};

use super::frame::{ACK, FIRST_FRAGMENT, LATER_FRAGMENT, SYN, UDP};
use super::{Case, Frame};

const CLIENT: SocketAddr = v4([10, 80, 0, 1], 1000);
const SERVICE: SocketAddr = v4([10, 254, 0, 80], 80);
const OTHER: SocketAddr = v4([10, 254, 0, 81], 8080);
/// The same over IPv6.
const CLIENT_V6: SocketAddr = v6(0x80, 1, 1000);
const SERVICE_V6: SocketAddr = v6(0x254, 0x80, 80);
const OTHER_V6: SocketAddr = v6(0x254, 0x81, 8080);
/// A service without backends.
const CLOSED: SocketAddr = v4([10, 254, 0, 82], 80);
/// No service.
const NOBODY: SocketAddr = v4([10, 9, 9, 9], 80);
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
        for (interface, subnet, subnet_v6) in
            [("eth0", "10.80.0", "2001:db8:80:"), ("eth1", "10.81.0", "2001:db8:81:")]
        {
            network.cable(interface, &world, interface)?;
            network.address(interface, &format!("{subnet}.254/24"))?;
            network.address(interface, &format!("{subnet_v6}:254/64"))?;
            for neighbour in [format!("{subnet}.1"), format!("{subnet_v6}:1")] {
                let lladdr = ["lladdr", "02:00:00:00:00:01", "dev", interface];
                network.ip(&[&["neigh", "replace", &neighbour][..], &lladdr].concat())?;
            }
        }
        network.route("10.254.0.0/24", "10.81.0.1")?;
        network.route("2001:db8:254::/64", "2001:db8:81::1")?;
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
        let to_service = Frame::tcp(CLIENT, SERVICE, ACK);
        let from_service = Frame::tcp(SERVICE, CLIENT, ACK);
        match case {
            Case::Pass => self.run_often(PacketTiming::PASS, to_service, 0, NEXT),
            Case::Miss => self.run_often("fairway_in", Frame::tcp(CLIENT, NOBODY, ACK), 0, NEXT),
            Case::MissOpening => self.run_often("fairway_in", Frame::tcp(CLIENT, NOBODY, SYN), 0, NEXT),
            Case::LookUp => self.run_often(PacketTiming::LOOK_UP, to_service, 0, NEXT),
            Case::Hit => self.run_often("fairway_in", to_service, 0, REDIRECT),
            Case::HitV6 => self.run_often("fairway_in", Frame::tcp(CLIENT_V6, SERVICE_V6, ACK), 0, REDIRECT),
            Case::Reverse => self.run_often("fairway_in", from_service, 1, REDIRECT),
            Case::Leaving => self.run_often("fairway_out", from_service, 0, NEXT),
            Case::FirstFragment => self.run_often("fairway_in", fragment(FIRST_FRAGMENT), 0, REDIRECT),
            // Without ports, in whose place is payload.
            Case::Fragment => self.run_often("fairway_in", fragment(LATER_FRAGMENT), 0, REDIRECT),
            Case::PassOnce => self.run_each(PacketTiming::PASS, SERVICE, NEXT),
            Case::New => self.run_each("fairway_in", SERVICE, REDIRECT),
            Case::Refused => self.run_each("fairway_in", CLOSED, REDIRECT),
        }
    }

    /// Nanoseconds for connecting a datagram socket, which sends nothing.
    pub(super) fn connects(&self) -> Result<[(&'static str, f64); 3]> {
        let [outside, inside] = &self.sockets;
        let time = |socket: &UdpSocket, address: SocketAddr| -> Result<f64> {
            let start = wait::now();
            for _ in 0..CONNECTS {
                socket.connect(address).map_err(Error::system("connect to", address))?;
            }
            Ok(nanoseconds(wait::now() - start) / f64::from(CONNECTS))
        };
        self.network.run(|| {
            Ok([
                ("no program", time(outside, SERVICE)?),
                ("program, no service", time(inside, v4([10, 80, 0, 1], 80))?),
                ("program, a service", time(inside, SERVICE)?),
            ])
        })?
    }

    /// Conversations under way.
    fn prepare(&mut self) -> Result<()> {
        let pairs = [(CLIENT, SERVICE), (CLIENT, OTHER), (CLIENT_V6, SERVICE_V6), (CLIENT_V6, OTHER_V6)];
        // Who answers is the other service's backend.
        for flags in [SYN, SYN | ACK, ACK] {
            for (client, service) in pairs {
                let (frame, interface) = if flags == SYN | ACK {
                    (Frame::tcp(service, client, flags), 1)
                } else {
                    (Frame::tcp(client, service, flags), 0)
                };
                self.run("fairway_in", frame, interface, (1, REDIRECT))?;
            }
        }
        for part in [0, FIRST_FRAGMENT] {
            for destination in [SERVICE, OTHER] {
                let frame = Frame { destination, ..fragment(part) };
                self.run("fairway_in", frame, 0, (1, REDIRECT))?;
            }
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
    fn run_each(&mut self, program: &'static str, service: SocketAddr, verdict: i32) -> Result<f64> {
        let mut sum = 0.0;
        for _ in 0..REPEAT {
            let client = SocketAddr::new(CLIENT.ip(), self.port);
            self.port = self.port.checked_add(1).unwrap_or(2000);
            sum += self.run(program, Frame::tcp(client, service, SYN), 0, (1, verdict))?;
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

/// Of a datagram to the service.
const fn fragment(fragment: u16) -> Frame {
    Frame { source: CLIENT, destination: SERVICE, protocol: UDP, flags: 0, fragment }
}

const fn v4(address: [u8; 4], port: u16) -> SocketAddr {
    let [first, second, third, fourth] = address;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(first, second, third, fourth)), port)
}

const fn v6(network: u16, host: u16, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host)), port)
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
    let pairs = [(SERVICE, OTHER), (OTHER, SERVICE), (SERVICE_V6, OTHER_V6), (OTHER_V6, SERVICE_V6)];
    let served = pairs.map(|(service, backend)| (service, Some(backend)));
    let of = |protocol| {
        let service = move |(service, backend): (SocketAddr, Option<SocketAddr>)| {
            let backends = backend
                .into_iter()
                .filter_map(|backend| Some(Backend::new(backend.ip(), Port::new(backend.port())?)));
            let frontend = Frontend::new(service.ip(), Port::new(service.port())?, protocol);
            Some((frontend, backends.collect()))
        };
        served.into_iter().chain([(CLOSED, None)]).filter_map(service)
    };
    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(of).collect()
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
