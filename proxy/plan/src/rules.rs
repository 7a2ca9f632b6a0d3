//! How the clients of a frontend are treated.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::Protocol;

/// The rules of one frontend. The default serves everybody in turn and leaves addresses as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rules {
    /// What a client is told while no backend takes connections.
    pub when_empty: WhenEmpty,
    /// Who gets the next connection.
    pub scheduler: Scheduler,
    /// Whether a client comes back to the same backend (`sessionAffinity: ClientIP`).
    pub affinity: Option<Affinity>,
    /// Whose source address is replaced by the node's, so that the backend's answers come back this way.
    pub masquerade: Masquerade,
    /// Who is served; everybody else is dropped. `None` is everybody (`loadBalancerSourceRanges`).
    pub source_ranges: Option<BTreeSet<IpNet>>,
    /// Whether the address belongs to services alone: whoever asks it for what none of them serves is refused.
    pub exclusive: bool,
}

/// What becomes of a connection to a frontend without backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhenEmpty {
    /// The client is told at once: RST, or ICMP port unreachable.
    #[default]
    Refuse,
    /// No answer of any kind: the endpoints are elsewhere, and whoever balances the nodes may try another one.
    Drop,
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// In turn, exactly.
    #[default]
    RoundRobin,
    /// Any, with equal probability.
    Random,
    /// In turn, as often as the weight says.
    WeightedRoundRobin,
    /// The one with the fewest connections.
    LeastConnections,
    /// The one with the fewest connections for its weight.
    WeightedLeastConnections,
    /// By a hash of the flow that all nodes agree on (Eisenbud et al., "Maglev", NSDI 2016).
    Maglev,
    /// By a hash of the client's address.
    SourceHash,
    /// By a hash of the address that the client connects to.
    DestinationHash,
    /// The one that would have the fewest connections for its weight with this one.
    ShortestExpectedDelay,
    /// One without connections where there is one, and the shortest expected delay otherwise.
    NeverQueue,
}

/// A client comes back to the backend it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity {
    /// Frontends of one group share what is remembered of a client. A backend that is remembered and is none of the
    /// frontend's is not used.
    pub group: AffinityGroup,
    /// A client that made no new connection for so long is forgotten. Whole seconds, 1 to 86400.
    pub timeout: Duration,
}

/// One port of one Service: the same at its cluster address and its node port, on every node and after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityGroup(pub u64);

/// Whose source address is replaced by one of the node's. A backend that connects to itself through a service needs
/// that whatever is said here: it is the dataplane's to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Nobody's.
    #[default]
    Never,
    /// That of whoever is no pod of this node: its own processes, and what arrives from elsewhere.
    FromOutsidePods,
    /// Everybody's.
    Always,
}

impl Rules {
    /// Whether a client with this address is served.
    pub fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.source_ranges.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&source)))
    }
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::RoundRobin,
        Self::Random,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::WeightedLeastConnections,
        Self::Maglev,
        Self::SourceHash,
        Self::DestinationHash,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
    ];

    /// As it is spelt in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::LeastConnections => "least-connections",
            Self::WeightedLeastConnections => "weighted-least-connections",
            Self::Maglev => "maglev",
            Self::SourceHash => "source-hash",
            Self::DestinationHash => "destination-hash",
            Self::ShortestExpectedDelay => "shortest-expected-delay",
            Self::NeverQueue => "never-queue",
        }
    }

    /// The scheduler of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheduler| scheduler.name() == name)
    }
}

impl AffinityGroup {
    /// The group of a Service's port, which is empty where the Service has a single port without a name: FNV-1a over
    /// `namespace/name:port/protocol`. It is kept in the kernel and must never change.
    pub fn of(namespace: &str, name: &str, port: &str, protocol: Protocol) -> Self {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let text = format!("{namespace}/{name}:{port}/{protocol}");
        let fold = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(PRIME);
        Self(text.bytes().fold(OFFSET_BASIS, fold))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.scheduler.name())?;
        if let Some(Affinity { timeout, .. }) = self.affinity {
            write!(formatter, ", client affinity for {} s", timeout.as_secs())?;
        }
        formatter.write_str(match self.masquerade {
            Masquerade::Never => "",
            Masquerade::FromOutsidePods => ", masqueraded unless from a pod",
            Masquerade::Always => ", masqueraded",
        })?;
        if let Some(ranges) = &self.source_ranges {
            let ranges: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
            write!(formatter, ", only from {}", ranges.join(" "))?;
        }
        formatter.write_str(match self.when_empty {
            WhenEmpty::Refuse => "",
            WhenEmpty::Drop => ", dropped while there is no backend",
        })?;
        formatter.write_str(if self.exclusive { ", exclusive" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_groups_are_those_of_every_version() {
        // Reference values of FNV-1a, computed elsewhere.
        let cases = [
            (("default", "web", "http", Protocol::Tcp), 0xae9a_deda_8993_32fb),
            (("default", "web", "", Protocol::Udp), 0x9e90_198f_3ea8_c55f),
            (("kube-system", "kube-dns", "dns", Protocol::Udp), 0xf835_aca8_c808_f931),
        ];
        for ((namespace, name, port, protocol), expected) in cases {
            let found = AffinityGroup::of(namespace, name, port, protocol);
            assert_eq!(
                found,
                AffinityGroup(expected),
                "{namespace}/{name}:{port}/{protocol}: {:#x}",
                found.0
            );
        }
    }

    #[test]
    fn a_client_is_admitted_by_any_range() {
        let ranges = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));
        let rules = Rules { source_ranges: Some(ranges.into()), ..Rules::default() };
        let cases = [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("11.0.0.1", false),
            ("fe80::1", false),
        ];
        for (source, admitted) in cases {
            assert_eq!(rules.admits(source.parse().expect("an address")), admitted, "{source}");
        }
        assert!(Rules::default().admits([192, 0, 2, 1].into()));
    }

    #[test]
    fn schedulers_are_known_by_their_names() {
        for scheduler in Scheduler::ALL {
            assert_eq!(Scheduler::named(scheduler.name()), Some(scheduler));
        }
        assert_eq!(Scheduler::named("RoundRobin"), None);
    }
}
