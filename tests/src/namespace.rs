//! Network namespaces and the links between them.
//!
//! ```no_run
//! use tests::{Namespace, Switch};
//!
//! let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
//! let switch = Switch::new("lan")?;
//! switch.attach(&client, "eth0", &["192.0.2.1/24"])?;
//! switch.attach(&server, "eth0", &["192.0.2.2/24"])?;
//! let listener = server.run(|| std::net::TcpListener::bind("192.0.2.2:80"))?;
//! # Ok::<(), tests::Error>(())
//! ```
//!
//! A socket belongs to the namespace it was *opened* in, whichever thread uses it later. So a server can be bound in
//! [`Namespace::run`] and served from anywhere.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::error::report_leftover;
use crate::{Error, Result, label};

const DIRECTORY: &str = "/run/netns";

/// A network namespace with `lo` up. It is removed when its last clone is dropped, also when a test panics; what a
/// killed run left behind is removed by the next one.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes `fw-<label>-<pid>-<number>`. Needs root.
    pub fn new(label: &str) -> Result<Self> {
        require_root("making a network namespace")?;
        sweep_once()?;
        let name = label::unique(label);
        command("ip", &["netns", "add", &name])?;
        let path = Path::new(DIRECTORY).join(&name);
        let file = File::open(&path).map_err(Error::system("open", path.display()))?;
        let namespace = Self(Arc::new(Inner { name, file }));
        namespace.run(|| loopback_up().map_err(Error::system("bring up", "lo")))??;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its file, for tools that take a path.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(self.name())
    }

    /// Runs `work` on a thread of its own inside this namespace and returns what it returns. A panic in `work` goes on
    /// in the caller. Files, mounts and `/sys` stay those of the caller: only sockets and children see the difference.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            setns(&self.0.file, CloneFlags::CLONE_NEWNET).map_err(Error::system("enter", self.name()))?;
            Ok(work())
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs `ip -n <this namespace> <arguments>` and returns what it printed.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        command("ip", &[&["-n", self.name()], arguments].concat())
    }

    /// The same for many lines of arguments by one process: in a guest most of the time goes into starting them.
    pub fn ip_lines(&self, lines: &[String]) -> Result<()> {
        let line = || format!("ip -n {} -batch: {}", self.name(), lines.join("; "));
        let failed = || Error::system("run", line());
        let mut child = Command::new("ip")
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.join("\n").as_bytes()).map_err(failed())?;
        }
        printed(line, &child.wait_with_output().map_err(failed())?).map(drop)
    }

    /// Runs `program` inside this namespace to its end and returns what it printed; a non-zero exit is an error.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(|| command(program, arguments))?
    }

    /// Gives `interface` an address with its prefix length (`192.0.2.1/24`, `2001:db8::1/64`), at once usable.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        self.addresses(interface, &[address])
    }

    /// The same for several.
    pub fn addresses(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        self.ip_lines(&addresses.iter().map(|address| adding(interface, address)).collect::<Vec<_>>())
    }

    /// Adds a route: `namespace.route("default", "192.0.2.254")`.
    pub fn route(&self, destination: &str, gateway: &str) -> Result<()> {
        self.ip(&["route", "add", destination, "via", gateway]).map(drop)
    }

    /// Turns on forwarding between its interfaces, both families.
    pub fn forward(&self) -> Result<()> {
        self.run(|| {
            for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
                std::fs::write(file, "1").map_err(Error::system("write", file))?;
            }
            Ok(())
        })?
    }

    /// Brings an interface up.
    pub fn link_up(&self, interface: &str) -> Result<()> {
        self.ip(&["link", "set", interface, "up"]).map(drop)
    }

    /// Takes an interface down; its routes go with it.
    pub fn link_down(&self, interface: &str) -> Result<()> {
        self.ip(&["link", "set", interface, "down"]).map(drop)
    }

    /// Connects two namespaces by a cable (veth) with an interface at each end, both up.
    pub fn cable(&self, interface: &str, other: &Self, other_interface: &str) -> Result<()> {
        self.cable_with(interface, &[], (other, other_interface))?;
        other.link_up(other_interface)
    }

    /// A cable whose near end is up, with these settings; the far one is not.
    fn cable_with(&self, interface: &str, settings: &[&str], (other, far): (&Self, &str)) -> Result<()> {
        let near = ["link", "add", "name", interface, "up"];
        let kind = ["type", "veth", "peer", "name", far, "netns", other.name()];
        self.ip(&[&near, settings, &kind].concat()).map(drop)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            report_leftover(&self.name, &error);
        }
    }
}

/// An Ethernet switch: a bridge in a namespace of its own.
#[derive(Clone, Debug)]
pub struct Switch {
    namespace: Namespace,
    next_port: Arc<AtomicU32>,
}

impl Switch {
    pub(crate) const BRIDGE: &str = "bridge0";

    /// A switch without ports, which floods multicast as VRRP needs it.
    pub fn new(label: &str) -> Result<Self> {
        let namespace = Namespace::new(label)?;
        namespace.ip(&[
            "link",
            "add",
            "name",
            Self::BRIDGE,
            "up",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
        Ok(Self { namespace, next_port: Arc::new(AtomicU32::new(0)) })
    }

    /// Plugs `namespace` in by a new interface that has `addresses`; returns the port to [`Switch::unplug`].
    pub fn attach(&self, namespace: &Namespace, interface: &str, addresses: &[&str]) -> Result<Plug> {
        let port = format!("port{}", self.next_port.fetch_add(1, Ordering::Relaxed));
        self.namespace.cable_with(&port, &["master", Self::BRIDGE], (namespace, interface))?;
        let up = format!("link set {interface} up");
        let addresses = addresses.iter().map(|address| adding(interface, address));
        namespace.ip_lines(&std::iter::once(up).chain(addresses).collect::<Vec<_>>())?;
        Ok(Plug(port))
    }

    /// Takes the cable out: the interface at the other end loses its carrier and keeps its addresses.
    pub fn unplug(&self, plug: &Plug) -> Result<()> {
        self.namespace.link_down(&plug.0)
    }

    /// Puts the cable back.
    pub fn plug(&self, plug: &Plug) -> Result<()> {
        self.namespace.link_up(&plug.0)
    }

    /// Takes a port out of the switch while the cable stays in: the other end keeps its carrier and reaches nobody.
    pub fn detach(&self, plug: &Plug) -> Result<()> {
        self.namespace.ip(&["link", "set", &plug.0, "nomaster"]).map(drop)
    }

    /// Makes a detached port one of the switch again.
    pub fn reattach(&self, plug: &Plug) -> Result<()> {
        self.namespace.ip(&["link", "set", &plug.0, "master", Self::BRIDGE]).map(drop)
    }

    /// From now on this port loses frames at random, so many of a hundred in either direction.
    pub fn lose(&self, plug: &Plug, percent: u32) -> Result<()> {
        // Load a random number, take it modulo 100; below `percent`: `TC_ACT_SHOT`, else `TC_ACT_UNSPEC`.
        let program = format!("5,32 0 0 4294963256,148 0 0 100,53 1 0 {percent},6 0 0 2,6 0 0 4294967295");
        self.tc(&["qdisc", "add", "dev", &plug.0, "clsact"])?;
        for direction in ["ingress", "egress"] {
            let filter = ["filter", "add", "dev", &plug.0, direction];
            self.tc(&[&filter[..], &["bpf", "direct-action", "bytecode", &program]].concat())?;
        }
        Ok(())
    }

    /// It loses none any more.
    pub fn lose_nothing(&self, plug: &Plug) -> Result<()> {
        self.tc(&["qdisc", "delete", "dev", &plug.0, "clsact"])
    }

    fn tc(&self, arguments: &[&str]) -> Result<()> {
        command("tc", &[&["-n", self.namespace.name()], arguments].concat()).map(drop)
    }

    /// The namespace of the switch: a capture there sees every port.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// A port of a [`Switch`] in use.
#[derive(Clone, Debug)]
pub struct Plug(String);

/// Fails with a clear sentence unless this process is root.
pub fn require_root(action: &'static str) -> Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::Privilege { action }) }
}

/// Runs a tool to its end and returns what it printed.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(Error::system("run", line()))?;
    printed(line, &output)
}

/// What the command of this `line` printed.
fn printed(line: impl FnOnce() -> String, output: &Output) -> Result<String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command { command: line(), output: printed })
    }
}

/// Brings up `lo` of the namespace that this thread is in, as `ip link set lo up` does.
fn loopback_up() -> std::io::Result<()> {
    const UP: u32 = nix::libc::IFF_UP as u32;
    const LOOPBACK: u32 = 1;
    let (length, kind, flags) =
        (32_u32, nix::libc::RTM_NEWLINK, nix::libc::NLM_F_REQUEST | nix::libc::NLM_F_ACK);
    // struct nlmsghdr: length, type, flags, sequence, port; struct ifinfomsg: family, type, index, flags, mask.
    let (header, numbers) = ([length, 0, 0, 0], [0, LOOPBACK, UP, UP]);
    let mut request = [header, numbers].concat().into_iter().flat_map(u32::to_ne_bytes).collect::<Vec<u8>>();
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 64];
    recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // struct nlmsgerr follows the header, and begins with the error, below zero.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(-code)),
    }
}

/// What `ip` is told to give an interface an address that can be used at once.
fn adding(interface: &str, address: &str) -> String {
    let at_once = if address.contains(':') { " nodad" } else { "" };
    format!("address add {address} dev {interface}{at_once}")
}

/// As `ip netns delete` does.
fn delete(name: &str) -> Result<()> {
    let path = Path::new(DIRECTORY).join(name);
    umount2(&path, MntFlags::MNT_DETACH).map_err(Error::system("unmount", path.display()))?;
    std::fs::remove_file(&path).map_err(Error::system("remove", path.display()))
}

/// Removes the namespaces of runs that are dead, with the processes still in them.
fn sweep_once() -> Result<()> {
    static SWEPT: Once = Once::new();
    let mut outcome = Ok(());
    SWEPT.call_once(|| outcome = sweep());
    outcome
}

pub(crate) fn sweep() -> Result<()> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::system("list", DIRECTORY)(error)),
    };
    for entry in entries {
        let name = entry.map_err(Error::system("list", DIRECTORY))?.file_name();
        let Some(name) = name.to_str().filter(|name| label::is_orphan(name)) else { continue };
        let removed = command("ip", &["netns", "pids", name]).and_then(|processes| {
            processes.split_whitespace().for_each(kill_leftover);
            delete(name)
        });
        match removed {
            // Another run swept it at the same time.
            Err(_) if !Path::new(DIRECTORY).join(name).exists() => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

fn kill_leftover(process: &str) {
    use nix::errno::Errno;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let Ok(process) = process.parse::<i32>() else { return };
    match kill(Pid::from_raw(process), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => report_leftover(&format!("process {process}"), &error),
    }
}
