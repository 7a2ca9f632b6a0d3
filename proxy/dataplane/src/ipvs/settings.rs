//! How virtual services are kept, and what that needs of the kernel's own settings.

use std::path::Path;
use std::time::Duration;

use plan::Scheduler;

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
/// rely on it.
pub(super) fn set(settings: IpvsSettings) -> Result<(), Error> {
    let strict_arp = if settings.strict_arp { &STRICT_ARP[..] } else { &[] };
    for (file, value) in ALWAYS.iter().chain(strict_arp) {
        let failed = |action| move |source| Error::File { action, path: Path::new(file).to_owned(), source };
        let found = std::fs::read_to_string(file).map_err(failed("read"))?;
        if found.trim() != *value {
            std::fs::write(file, value).map_err(failed("set"))?;
        }
    }
    Ok(())
}
