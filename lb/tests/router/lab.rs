//! Two hosts on one cable, in network namespaces of their own: ours, and the other one.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

pub(crate) const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 241));
pub(crate) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 242));
pub(crate) const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 250));
pub(crate) const INTERFACE: &str = "eth0";

/// A namespace that is removed with this value.
pub(crate) struct Host {
    name: String,
}

impl Host {
    fn new(label: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(geteuid().is_root(), "this test makes network namespaces: run it as root");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fw-vr-{}-{number}-{label}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// Runs `work` on a thread inside this host.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let namespace = fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// `ip -n <this host> …`.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Whether this host has the virtual address.
    pub(crate) fn holds_virtual_address(&self) -> bool {
        self.run(holds_virtual_address)
    }

    /// Whether this host has `address`.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.run(|| UdpSocket::bind((address, 0)).is_ok())
    }
}

/// Whether the host that the calling thread is in has the virtual address.
pub(crate) fn holds_virtual_address() -> bool {
    UdpSocket::bind((VIRTUAL, 0)).is_ok()
}

impl Drop for Host {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "delete", &self.name]).status();
        assert!(removed.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The cable.
pub(crate) struct Lab {
    pub(crate) ours: Host,
    pub(crate) other: Host,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self { ours: Host::new("a"), other: Host::new("b") };
        let (ours, other) = (lab.ours.name.as_str(), lab.other.name.as_str());
        ip(&[
            "link", "add", INTERFACE, "netns", ours, "type", "veth", "peer", "name", INTERFACE, "netns",
            other,
        ]);
        for (host, address) in [(&lab.ours, OURS), (&lab.other, OTHER)] {
            host.ip(&["address", "add", &format!("{address}/24"), "dev", INTERFACE]);
            host.ip(&["link", "set", "lo", "up"]);
            host.ip(&["link", "set", INTERFACE, "up"]);
        }
        await_that("the cable carries", || lab.ours.ip(&["link", "show", INTERFACE]).contains("LOWER_UP"));
        lab
    }

    /// A raw socket of the other host that hears the VRRP group.
    pub(crate) fn listener(&self) -> Socket {
        self.other.run(|| {
            let socket = raw_socket();
            let index = nix::net::if_::if_nametoindex(INTERFACE).unwrap();
            let group = Ipv4Addr::new(224, 0, 0, 18);
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index)).unwrap();
            socket
        })
    }
}

fn raw_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(112))).unwrap();
    socket.bind_device(Some(INTERFACE.as_bytes())).unwrap();
    socket
}

/// The next packet that `socket` hears within `limit`, IPv4 header included.
pub(crate) fn hear(socket: &Socket, limit: Duration) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    if poll(&mut descriptors, PollTimeout::try_from(limit).unwrap()).unwrap() == 0 {
        return None;
    }
    let mut packet = vec![0; 2048];
    let length = (&mut &*socket).read(&mut packet).unwrap();
    packet.truncate(length);
    Some(packet)
}

/// A keepalived on the other host; it is ended with this value.
pub(crate) struct Keepalived {
    child: Child,
    directory: PathBuf,
}

impl Keepalived {
    /// Starts it with an interval of 100 ms, and its defaults else.
    pub(crate) fn start(lab: &Lab, priority: u8) -> Self {
        Self::start_with(lab, priority, &format!("virtual_ipaddress {{\n {VIRTUAL}/32\n }}"))
    }

    /// With these addresses and whatever else a `vrrp_instance` may have.
    pub(crate) fn start_with(lab: &Lab, priority: u8, further: &str) -> Self {
        let directory = std::env::temp_dir().join(&lab.other.name);
        fs::create_dir_all(&directory).unwrap();
        let configuration = format!(
            "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance V {{\n state BACKUP\n interface {INTERFACE}\n \
             virtual_router_id 51\n priority {priority}\n advert_int 0.1\n {further}\n}}\n"
        );
        let file = directory.join("keepalived.conf");
        fs::write(&file, configuration).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.other.name, "keepalived", "--dont-fork", "--log-console", "--vrrp"])
            .arg("--use-file")
            .arg(&file)
            .arg("--pid")
            .arg(directory.join("pid"))
            .arg("--vrrp_pid")
            .arg(directory.join("vrrp.pid"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// Waits until `condition` holds; it has 10 s, more than any election takes here.
#[track_caller]
pub(crate) fn await_that(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(Duration::from_secs(10), condition), "not in 10 s: {what}");
}

/// Whether `condition` never fails to hold during `span`.
pub(crate) fn holds_throughout(span: Duration, mut condition: impl FnMut() -> bool) -> bool {
    !holds_within(span, || !condition())
}

#[expect(clippy::disallowed_methods, reason = "a test that awaits what the kernel and other programs do")]
fn holds_within(span: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + span;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
