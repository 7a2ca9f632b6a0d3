//! Ways to a backend.

use std::net::{Ipv4Addr, SocketAddrV4};

/// How many services there are on a node; the one that is measured is among them.
pub const SIZES: [u32; 3] = [10, 1_000, 10_000];
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
    /// All of them, in the order in which they take their turns.
    pub const ALL: [Self; 7] = [
        Self::DIRECT,
        Self { way: Way::Ebpf, size: 0 },
        Self { way: Way::Nftables, size: 0 },
        Self { way: Way::Ebpf, size: 1 },
        Self { way: Way::Nftables, size: 1 },
        Self { way: Way::Ebpf, size: 2 },
        Self { way: Way::Nftables, size: 2 },
    ];

    /// No service.
    pub const DIRECT: Self = Self { way: Way::Direct, size: 0 };

    /// On the node with the fewest services.
    pub const fn among_few(way: Way) -> Self {
        Self { way, size: 0 }
    }

    /// On the node with the most.
    pub const fn among_many(way: Way) -> Self {
        Self { way, size: SIZES.len() - 1 }
    }

    /// How many services its node has, where it has any.
    pub const fn services(self) -> Option<u32> {
        match self.way {
            Way::Direct => None,
            Way::Ebpf | Way::Nftables => Some(SIZES[self.size]),
        }
    }

    /// Its name in progress and report.
    pub fn name(self) -> String {
        match self.way {
            Way::Direct => "direct".to_owned(),
            Way::Ebpf => format!("eBPF, {} services", SIZES[self.size]),
            Way::Nftables => format!("nftables, {} services", SIZES[self.size]),
        }
    }

    /// Its node's, and part of all addresses there: what one leaves in `TIME_WAIT` cannot get in another's way.
    pub(super) fn number(self) -> u8 {
        let position = Self::ALL.iter().position(|one| *one == self).unwrap_or_default();
        u8::try_from(position + 1).unwrap_or(u8::MAX)
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
            (Way::Ebpf | Way::Nftables, Path::Local) => {
                vec![SocketAddrV4::new(self.cluster_ip(), SERVICE_PORT)]
            }
            (Way::Ebpf | Way::Nftables, Path::Across) => vec![SocketAddrV4::new(self.node_ip(), NODE_PORT)],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_shares_an_address() {
        let addresses: Vec<Ipv4Addr> = Contender::ALL
            .into_iter()
            .flat_map(|contender| {
                let backends = Path::ALL.into_iter().flat_map(move |path| contender.backends(path));
                backends.chain([contender.cluster_ip(), contender.node_ip()])
            })
            .collect();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
    }
}
