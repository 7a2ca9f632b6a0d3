//! Translation of packets: programs at the interfaces of the node serve what reaches it for a service and was not
//! translated at a socket of its own.
//!
//! ```text
//!   route netlink --"something changed"--> interfaces --what is to be attached--> attach (tcx, or clsact)
//!                        every second -->      \--what they are--> maps
//! ```

mod attach;
mod flows;
mod interfaces;
mod timing;
#[cfg(feature = "contract")]
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use ebpf_abi::{Address, Counter};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use self::attach::Attachments;
use self::flows::{Fill, Flows};
use self::interfaces::Interface;
pub use self::timing::{PacketRun, PacketTiming};
#[cfg(feature = "contract")]
pub use self::trial::Trial;
use super::maps::take_map;
use super::pins::Pins;
use super::pod::Plain;
use super::prefixes::Prefixes;
use super::{Program, encode, load};
use crate::Error;
use crate::kernel::Feature;

/// What `build.rs` compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/packet"));

/// What an interface and its programs are looked at again after, whether the kernel said something or not: programs that
/// somebody took off are back before two seconds have passed.
const LOOKED_AT_EVERY: u16 = 1000;

/// Which packets are served, and which of them are the cluster's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSettings {
    /// Interfaces at which packets are served, by name; `*` at the end of a name stands for anything. Loopback is never
    /// one of them.
    pub interfaces: Vec<String>,
    /// The addresses of pods (`clusterCIDR`).
    pub pods: Vec<IpNet>,
    /// The interfaces by which the packets of this node's pods come in, in the same spelling (`detectLocal`).
    pub pod_interfaces: Vec<String>,
    /// How they go on.
    pub forwarding: PacketForwarding,
    /// How many entries the table of conversations has; each has two, or three where the node stands in for a client on the way
    /// through the stack. One that is pinned already keeps the size it has.
    pub flow_entries: u32,
}

/// How translated packets go on to their backends, and to their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketForwarding {
    /// Straight to the neighbour that the kernel's routes name. The node's netfilter does not see them.
    #[default]
    Redirect,
    /// Through the node's stack, where its netfilter sees the client and the backend, as with kube-proxy.
    Stack,
}

impl Default for PacketSettings {
    fn default() -> Self {
        Self {
            interfaces: vec!["*".to_owned()],
            pods: Vec::new(),
            pod_interfaces: Vec::new(),
            forwarding: PacketForwarding::default(),
            flow_entries: ebpf_abi::CONNECTIONS.capacity,
        }
    }
}

/// What the packet programs have counted since their maps were made.
#[derive(Clone)]
pub struct PacketCounters {
    counters: Arc<PerCpuArray<MapData, u64>>,
    fill: Arc<Fill>,
}

impl fmt::Debug for PacketCounters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PacketCounters")
    }
}

impl PacketCounters {
    /// The sum over all processors.
    pub fn read(&self, counter: Counter) -> Result<u64, Error> {
        let values = self.counters.get(&(counter as u32), 0);
        let values = values.map_err(Error::map("read", ebpf_abi::COUNTERS.name))?;
        Ok(values.iter().sum())
    }

    /// How many entries of the table of conversations lived when it was last looked at, some seconds ago.
    pub fn flow_entries(&self) -> u64 {
        self.fill.entries.load(Ordering::Relaxed)
    }

    /// How many there can be.
    pub fn flow_capacity(&self) -> u64 {
        self.fill.capacity.load(Ordering::Relaxed)
    }
}

/// The programs, kept at the interfaces by a thread of their own until this is dropped. They stay attached then.
#[derive(Debug)]
pub(super) struct Packets {
    counters: PacketCounters,
    programs: Vec<Program>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Packets {
    /// Attaches the programs to the interfaces there are, and to those that come.
    pub(super) fn start(
        pins: &Pins,
        settings: PacketSettings,
        lacking: &BTreeSet<Feature>,
    ) -> Result<Self, Error> {
        let mut object = open(pins, &settings, lacking)?;
        // Before the maps are taken: the programs refer to them.
        let programs = attach::load(&mut object)?;
        let counters = take_map(&mut object, ebpf_abi::COUNTERS)?;
        let counters =
            PerCpuArray::try_from(counters).map_err(Error::map("open", ebpf_abi::COUNTERS.name))?;
        Prefixes::take(&mut object, ebpf_abi::PODS)?.set(&settings.pods)?;
        let fill = Arc::new(Fill::default());
        let flows = Flows::take(&mut object, Arc::clone(&fill))?;
        let maps = Maps::take(&mut object)?;
        let attachments = Attachments::new(object, pins.links());
        let mut keeper = Keeper { settings, maps, attachments, flows, known: BTreeMap::new() };
        let notices = subscribe().map_err(notices_failed)?;
        keeper.look()?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| notices_failed(error.into()))?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("interfaces".to_owned())
            .spawn(move || keeper.run(&notices, &stopped))
            .map_err(notices_failed)?;
        let counters = PacketCounters { counters: Arc::new(counters), fill };
        Ok(Self { counters, programs, stop, thread: Some(thread) })
    }

    /// What the programs count.
    pub(super) fn counters(&self) -> PacketCounters {
        self.counters.clone()
    }

    /// The programs as the kernel took them.
    pub(super) fn programs(&self) -> &[Program] {
        &self.programs
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        if let Err(error) = self.stop.write(1) {
            tracing::error!(%error, "the interfaces' thread was not told to end");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the interfaces' thread panicked");
        }
    }
}

/// Takes the programs off the interfaces of this network namespace, as far as removing pins has not done that.
pub(super) fn detach() -> Result<(), Error> {
    attach::detach(&interfaces::read().map_err(notices_failed)?)
}

/// Creates the maps, or opens those that are pinned, which are shared with the programs at the socket.
fn open(pins: &Pins, settings: &PacketSettings, lacking: &BTreeSet<Feature>) -> Result<Ebpf, Error> {
    let by_stack = u32::from(settings.forwarding == PacketForwarding::Stack);
    let mut loader = load::loader();
    loader.override_global("FORWARD_BY_STACK", &by_stack, true);
    for table in ebpf_abi::TABLES.iter().chain(&ebpf_abi::PACKET_TABLES) {
        loader.map_pin_path(table.name, pins.maps().join(table.name));
    }
    loader.map_max_entries(ebpf_abi::CONNECTIONS.name, settings.flow_entries);
    load::create(&mut loader, OBJECT, lacking)
}

/// The maps that say what the interfaces are.
struct Maps {
    interfaces: HashMap<MapData, u32, Plain<ebpf_abi::Interface>>,
    node: Array<MapData, Plain<ebpf_abi::Node>>,
}

impl Maps {
    fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let interfaces = HashMap::try_from(take_map(object, ebpf_abi::INTERFACES)?);
        let node = Array::try_from(take_map(object, ebpf_abi::NODE)?);
        Ok(Self {
            interfaces: interfaces.map_err(Error::map("open", ebpf_abi::INTERFACES.name))?,
            node: node.map_err(Error::map("open", ebpf_abi::NODE.name))?,
        })
    }
}

/// Keeps programs and maps as the interfaces are.
struct Keeper {
    settings: PacketSettings,
    maps: Maps,
    attachments: Attachments,
    flows: Flows,
    /// As last written.
    known: BTreeMap<u32, ebpf_abi::Interface>,
}

impl Keeper {
    fn run(mut self, notices: &impl AsFd, stop: &EventFd) {
        let mut failing = false;
        loop {
            let mut waiting = [
                PollFd::new(notices.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut waiting, PollTimeout::from(LOOKED_AT_EVERY)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "interfaces cannot be awaited any more");
                    return;
                }
            }
            if waiting[1].any().unwrap_or(true) {
                return;
            }
            drain(notices);
            let outcome = self.look().and_then(|()| self.flows.sweep_when_due());
            if let (Err(error), false) = (&outcome, failing) {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "interfaces or conversations not kept up with, trying again"
                );
            }
            failing = outcome.is_err();
        }
    }

    /// Reads what interfaces there are and makes programs and maps follow.
    fn look(&mut self) -> Result<(), Error> {
        let read = |source| Error::File { action: "read", path: "/proc/sys/net".into(), source };
        let interfaces = interfaces::read().map_err(notices_failed)?;
        let node = Plain(interfaces::node().map_err(read)?);
        self.maps.node.set(0, node, 0).map_err(Error::map("write", ebpf_abi::NODE.name))?;
        self.write(&interfaces)?;
        let served =
            interfaces.iter().filter(|interface| matches(&self.settings.interfaces, &interface.name));
        self.attachments.keep_at(&served.collect::<Vec<_>>())
    }

    fn write(&mut self, interfaces: &[Interface]) -> Result<(), Error> {
        let write = || Error::map("write", ebpf_abi::INTERFACES.name);
        let (ipv4, ipv6) = interfaces::default_addresses(interfaces);
        let mut wanted = BTreeMap::new();
        for interface in interfaces {
            let (ipv4, ipv6) = (interface.ipv4.or(ipv4), interface.ipv6.or(ipv6));
            let value = ebpf_abi::Interface {
                ipv4: ipv4.map_or(NOTHING, |address| encode::address(address.into())),
                ipv6: ipv6.map_or(NOTHING, |address| encode::address(address.into())),
                pods: u32::from(matches(&self.settings.pod_interfaces, &interface.name)),
            };
            wanted.insert(interface.index, value);
        }
        for (index, value) in &wanted {
            if self.known.get(index) != Some(value) {
                self.maps.interfaces.insert(index, Plain(*value), 0).map_err(write())?;
            }
        }
        // What an earlier process wrote is no better than what this one did.
        let found: Vec<u32> = self.maps.interfaces.keys().collect::<Result<_, _>>().map_err(write())?;
        for index in found.iter().filter(|index| !wanted.contains_key(index)) {
            self.maps.interfaces.remove(index).map_err(write())?;
        }
        self.known = wanted;
        Ok(())
    }
}

/// What stands for no address.
const NOTHING: Address = Address::from_v6_words([0; 4]);

/// Whether one of the names, which may end in `*`, is that of an interface.
fn matches(names: &[String], interface: &str) -> bool {
    names.iter().any(|name| match name.strip_suffix('*') {
        Some(beginning) => interface.starts_with(beginning),
        None => name == interface,
    })
}

/// A socket that becomes readable when links or addresses change in this network namespace.
fn subscribe() -> io::Result<std::os::fd::OwnedFd> {
    const LINKS: u32 = 1;
    const IPV4_ADDRESSES: u32 = 0x10;
    const IPV6_ADDRESSES: u32 = 0x100;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let notices = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let groups = LINKS | IPV4_ADDRESSES | IPV6_ADDRESSES;
    bind(std::os::fd::AsRawFd::as_raw_fd(&notices), &NetlinkAddr::new(0, groups))?;
    Ok(notices)
}

/// Takes what is there. What it says is not read: everything is looked at anyway, also when some of it was lost.
fn drain(notices: &impl AsFd) {
    let mut notice = [0; 8192];
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&notices.as_fd());
    while let Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) = recv(descriptor, &mut notice, MsgFlags::empty()) {}
}

fn notices_failed(source: io::Error) -> Error {
    Error::Interfaces { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_whole_or_by_its_beginning() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (patterns, interface, expected) in [
            (&["*"][..], "eth0", true),
            (&["eth0"], "eth0", true),
            (&["eth0"], "eth00", false),
            (&["cali*", "eth1"], "cali12", true),
            (&["cali*", "eth1"], "eth0", false),
            (&[], "eth0", false),
        ] {
            assert_eq!(matches(&names(patterns), interface), expected, "{patterns:?} {interface}");
        }
    }
}
