//! Ways to a backend.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

/// How many services there are on a node; the one that is measured is among them.
pub(super) const SIZES: [u32; 3] = [10, 1_000, 10_000];
/// Backends of the service that is measured: ports that stand for clients must suffice for the connections of a run.
pub(super) const BACKENDS: u8 = 8;
/// Where backends listen.
pub(super) const BACKEND_PORT: u16 = 8080;
/// The port of the service.
pub(super) const SERVICE_PORT: u16 = 80;
/// Where the world finds it.
pub(super) const NODE_PORT: u16 = 30_080;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// From a pod of the node to another one, by a `ClusterIP`.
    Local,
    /// From outside, across the node, to a pod behind it, by a node port.
    Across,
}

impl Path {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Across];

    /// Its name in progress and report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "ClusterIP",
            Self::Across => "NodePort",
        }
    }
}

/// What a node does with what is for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Nothing: the client knows the backends, the kernel routes. The limit.
    Direct,
    /// fairway-proxy.
    Ebpf,
    /// Rules of the shape that kube-proxy writes.
    Nftables,
    /// fairway-proxy in its mode `ipvs`.
    Ipvs,
}

impl Way {
    /// Its name in progress and report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ebpf => "eBPF",
            Self::Nftables => "nftables",
            Self::Ipvs => "IPVS",
        }
    }
}

/// On whose kernel the contenders meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// This machine's.
    Ours,
    /// That of a guest which has the IP virtual server. Its processor may be emulated: only ratios mean something.
    Guest,
}

impl Kernel {
    /// What the command line calls a run there.
    pub(super) const fn section(self) -> &'static str {
        match self {
            Self::Ours => "service-path",
            Self::Guest => "guest",
        }
    }

    /// What a run there is about.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Ours => "The service path beside nftables and no Service at all",
            Self::Guest => "The service path in a guest, beside IPVS too",
        }
    }

    /// Those who take part, in the order in which they take their turns.
    pub(super) fn contenders(self) -> impl Iterator<Item = Contender> {
        let ways = move |size| {
            let ways = [Way::Ebpf].into_iter().chain(self.rivals().iter().copied());
            ways.map(move |way| Contender { way, size })
        };
        [Contender::DIRECT].into_iter().chain(self.sizes().flat_map(ways))
    }

    /// Milliseconds in which something is answered, if at all.
    pub(super) const fn moment(self) -> u32 {
        match self {
            Self::Ours => 20,
            Self::Guest => 500,
        }
    }

    /// Beside whom ours is compared.
    pub(super) const fn rivals(self) -> &'static [Way] {
        match self {
            Self::Ours => &[Way::Nftables],
            Self::Guest => &[Way::Nftables, Way::Ipvs],
        }
    }

    /// On its node with the most services.
    pub(super) const fn among_many(self, way: Way) -> Contender {
        Contender { way, size: self.sizes().end - 1 }
    }

    /// Which of [`SIZES`] its nodes have.
    const fn sizes(self) -> Range<usize> {
        match self {
            Self::Ours => 0..SIZES.len(),
            // It is slow, and has 1 GiB.
            Self::Guest => 1..2,
        }
    }
}

/// One way on a node of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contender {
    /// The way.
    pub way: Way,
    /// Which of [`SIZES`] the node has.
    size: usize,
}

impl Contender {
    /// No service.
    pub const DIRECT: Self = Self { way: Way::Direct, size: 0 };

    /// On the node with the fewest services.
    pub const fn among_few(way: Way) -> Self {
        Self { way, size: 0 }
    }

    /// How many services its node has, where it has any.
    pub const fn services(self) -> Option<u32> {
        match self.way {
            Way::Direct => None,
            Way::Ebpf | Way::Nftables | Way::Ipvs => Some(SIZES[self.size]),
        }
    }

    /// Its name in progress and report.
    pub fn name(self) -> String {
        match self.services() {
            None => self.way.name().to_owned(),
            Some(services) => format!("{}, {services} services", self.way.name()),
        }
    }

    /// Its node's, and part of all addresses there: what one leaves in `TIME_WAIT` cannot get in another's way.
    pub(super) fn number(self) -> u8 {
        let first = match self.way {
            Way::Direct => 1,
            Way::Ebpf => 11,
            Way::Nftables => 21,
            Way::Ipvs => 31,
        };
        u8::try_from(first + self.size).unwrap_or(u8::MAX)
    }

    /// The address of the service.
    pub(super) fn cluster_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 254, self.number(), 80)
    }

    /// That of the node, as the world knows it.
    pub(super) fn node_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 82, self.number(), 254)
    }

    /// The backends for clients that come by `path`.
    pub(super) fn backends(self, path: Path) -> impl Iterator<Item = Ipv4Addr> {
        let first = match path {
            Path::Local => 1,
            Path::Across => 101,
        };
        (first..first + BACKENDS).map(move |last| Ipv4Addr::new(10, 81, self.number(), last))
    }

    /// Where clients knock.
    pub(super) fn frontends(self, path: Path) -> Vec<SocketAddrV4> {
        match (self.way, path) {
            (Way::Direct, path) => {
                self.backends(path).map(|backend| SocketAddrV4::new(backend, BACKEND_PORT)).collect()
            }
            (_, Path::Local) => vec![SocketAddrV4::new(self.cluster_ip(), SERVICE_PORT)],
            (_, Path::Across) => vec![SocketAddrV4::new(self.node_ip(), NODE_PORT)],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_shares_an_address() {
        let all: BTreeSet<Contender> = Kernel::Ours.contenders().chain(Kernel::Guest.contenders()).collect();
        let addresses: Vec<Ipv4Addr> = all
            .into_iter()
            .flat_map(|contender| {
                let backends = Path::ALL.into_iter().flat_map(move |path| contender.backends(path));
                backends.chain([contender.cluster_ip(), contender.node_ip()])
            })
            .collect();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
    }
}
