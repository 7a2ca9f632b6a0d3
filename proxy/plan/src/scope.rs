//! Who owns what in a kernel table that others may use too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Frontend;

/// The frontends one owner may touch. What lies outside is never changed nor removed, whatever the plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Exactly these addresses: fairway-lb owns its virtual IPs and nothing else.
    Only(BTreeSet<IpAddr>),
    /// All but these networks: fairway-proxy owns the node's services except those it is told to leave alone
    /// (`KubeProxyConfiguration.ipvs.excludeCIDRs`).
    AllBut(Vec<IpNet>),
}

impl Scope {
    /// Owns everything.
    pub const fn everything() -> Self {
        Self::AllBut(Vec::new())
    }

    /// Whether the owner may touch this frontend.
    pub fn contains(&self, frontend: Frontend) -> bool {
        match self {
            Self::Only(addresses) => addresses.contains(&frontend.address()),
            Self::AllBut(networks) => !networks.iter().any(|network| network.contains(&frontend.address())),
        }
    }
}
