//! Why what arrives is not believed.

use std::net::IpAddr;
use std::time::Duration;

use crate::settings::Checksum;

/// Why a packet is no advert for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    /// Another virtual router's: nothing is wrong with it, so it is not worth a log line.
    #[error("it is for another virtual router")]
    RouterId,
    /// No IPv4 packet of protocol 112; or one over IPv6 of which the kernel tells less than is to be checked.
    #[error("its IP header is not one of VRRP")]
    Header,
    /// Addressed to the group instead of us where peers are listed; to one host instead of the group where not.
    #[error("it was sent to {found}: either all routers list their peers, or none does")]
    Destination {
        /// Where it was sent.
        found: IpAddr,
    },
    /// Peers are listed, and the sender is none of them.
    #[error("its sender is not one of the peers")]
    Peer,
    /// Our own address as source: a loop in the network, or another node with the same address.
    #[error("it comes from our own address")]
    OwnAddress,
    /// It has been forwarded.
    #[error("its time to live (hop limit) is {found}, not 255: the sender is not on this link")]
    TimeToLive {
        /// The TTL.
        found: u8,
    },
    /// Of the other version, or of none.
    #[error("its version is {found}, not {expected}")]
    Version {
        /// The version.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// Not an advertisement.
    #[error("its type is {found}, not 1 (advertisement)")]
    Type {
        /// The type.
        found: u8,
    },
    /// Not the fixed fields and as many addresses as it claims.
    #[error("its length does not fit its number of addresses")]
    Length,
    /// Damaged, or the sender computes checksums in the other way.
    #[error("its checksum is wrong{}", hint(*.right_as))]
    Checksum {
        /// The form in which it would be right, if that is all that differs.
        right_as: Option<Checksum>,
    },
    /// In version 2 all routers must agree. In version 3 they need not, but 0 would have us take over at once.
    #[error("its interval is {found:?}: it must be ours in version 2, and more than 0 in version 3")]
    Interval {
        /// The interval.
        found: Duration,
    },
    /// Version 2: with a password where we have none, or without where we have one, or of a kind that nobody uses.
    #[error("its authentication type is {found}, not {expected}: 0 is none, 1 a password")]
    AuthenticationType {
        /// The type.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// Version 2: another password.
    #[error("its password is not ours")]
    Password,
    /// The sender is configured with other virtual addresses.
    #[error("its virtual addresses are not ours")]
    Addresses,
}

impl Rejected {
    /// Every value of [`label`](Self::label).
    pub const LABELS: [&str; 14] = [
        "router_id",
        "header",
        "destination",
        "peer",
        "own_address",
        "time_to_live",
        "version",
        "type",
        "length",
        "checksum",
        "interval",
        "authentication_type",
        "password",
        "addresses",
    ];

    /// A word for a metric, from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RouterId => "router_id",
            Self::Header => "header",
            Self::Destination { .. } => "destination",
            Self::Peer => "peer",
            Self::OwnAddress => "own_address",
            Self::TimeToLive { .. } => "time_to_live",
            Self::Version { .. } => "version",
            Self::Type { .. } => "type",
            Self::Length => "length",
            Self::Checksum { .. } => "checksum",
            Self::Interval { .. } => "interval",
            Self::AuthenticationType { .. } => "authentication_type",
            Self::Password => "password",
            Self::Addresses => "addresses",
        }
    }
}

fn hint(right_as: Option<Checksum>) -> String {
    right_as.map_or_else(String::new, |form| {
        format!(", and would be right with `checksum: {form}`: all routers must be told the same")
    })
}
