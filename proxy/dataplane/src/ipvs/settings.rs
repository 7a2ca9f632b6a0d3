//! How virtual services are kept, and what that needs of the kernel's own settings.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use plan::{Frontend, Port, Protocol, Scheduler};

use super::message::{self, Command, Target};
use super::netlink::{Netlink, Request};
use super::refusal::{lost, refused};
use super::scheduler::{absent, kernel_name};
use crate::Error;

/// How virtual services are kept (`KubeProxyConfiguration.ipvs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpvsSettings {
    /// That of most services (`scheduler`): a kernel without it is refused.
    pub scheduler: Scheduler,
    /// Nobody on the link is answered or told that the addresses of services are here (`strictARP`).
    pub strict_arp: bool,
    /// How long silent conversations are remembered.
    pub timeouts: Timeouts,
    /// A backend that leaves may keep its connections for so long.
    pub drain_deadline: Duration,
}

impl Default for IpvsSettings {
    fn default() -> Self {
        Self {
            scheduler: Scheduler::default(),
            strict_arp: false,
            timeouts: Timeouts::default(),
            drain_deadline: Duration::from_hours(1),
        }
    }
}

/// How long the kernel remembers a conversation after its last packet, in whole seconds; zero leaves what is set. They
/// hold for all virtual services of the network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// An open connection (`tcpTimeout`).
    pub tcp: Duration,
    /// A connection after a FIN (`tcpFinTimeout`).
    pub tcp_fin: Duration,
    /// Datagrams (`udpTimeout`).
    pub udp: Duration,
}

/// Connections through IPVS are known to connection tracking, which translates the answers. A connection whose backend
/// is gone ends with its next packet, and a client that was bound to it is bound anew.
const ALWAYS: [(&str, &str); 4] = [
    ("/proc/sys/net/ipv4/vs/conntrack", "1"),
    ("/proc/sys/net/ipv4/vs/expire_nodest_conn", "1"),
    ("/proc/sys/net/ipv4/vs/expire_quiescent_template", "1"),
    ("/proc/sys/net/ipv4/ip_forward", "1"),
];
/// ARP for an address is answered where it is, and asks in the name of an address of the link.
const STRICT_ARP: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/conf/all/arp_ignore", "1"), ("/proc/sys/net/ipv4/conf/all/arp_announce", "2")];

/// Sets what is not set so already, as it is set by kube-proxy. It stays so after a clean-up: others may have come to
/// rely on it. `family` is the number of the netlink family.
pub(super) fn set(netlink: &mut Netlink, family: u16, settings: IpvsSettings) -> Result<(), Error> {
    require(netlink, family, settings.scheduler)?;
    let strict_arp = if settings.strict_arp { &STRICT_ARP[..] } else { &[] };
    for (file, value) in ALWAYS.iter().chain(strict_arp) {
        let failed = |action| move |source| Error::File { action, path: Path::new(file).to_owned(), source };
        let found = std::fs::read_to_string(file).map_err(failed("read"))?;
        if found.trim() != *value {
            std::fs::write(file, value).map_err(failed("set"))?;
        }
    }
    set_timeouts(netlink, family, settings.timeouts)
}

/// Makes sure that the kernel has this scheduler, by making a service that nobody can reach (RFC 5737).
fn require(netlink: &mut Netlink, family: u16, scheduler: Scheduler) -> Result<(), Error> {
    let Some((name, port)) = kernel_name(scheduler).zip(Port::new(20_000)) else {
        return Err(absent(scheduler));
    };
    let probe = Target::Address(Frontend::new([198, 51, 100, 0].into(), port, Protocol::Tcp));
    let delete = || Request::new(family, message::about(Command::DeleteService, probe));
    let new = Request::new(family, message::service(Command::NewService, probe, name, None));
    let requests = [delete(), new, delete()];
    match netlink.exchange(&requests).map_err(lost("change"))?.into_iter().nth(1) {
        Some(Err(Errno::ENOENT)) => Err(absent(scheduler)),
        Some(Err(refusal)) => Err(refused("change", None, refusal)),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn set_timeouts(netlink: &mut Netlink, family: u16, timeouts: Timeouts) -> Result<(), Error> {
    let Some(payload) = message::set_timeouts(timeouts) else { return Ok(()) };
    let request = Request::new(family, payload);
    match netlink.exchange(&[request]).map_err(lost("set timeouts of"))?.into_iter().next() {
        Some(Err(refusal)) => Err(refused("set timeouts of", None, refusal)),
        Some(Ok(_)) | None => Ok(()),
    }
}
