//! What can go wrong between a plan and the kernel.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use plan::{Backend, Frontend, Protocol, Scheduler, Service, Weight};

/// Why the kernel could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks something this dataplane needs.
    #[error("the kernel lacks {feature}")]
    Kernel {
        /// The feature, as an administrator would look it up.
        feature: &'static str,
    },
    /// A privilege is missing.
    #[error("not permitted to {action}: run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Permission {
        /// What was tried.
        action: &'static str,
    },
    /// The settings name a place that does not serve: they must change.
    #[error("{action} {}", path.display())]
    Place {
        /// What it was to be for.
        action: &'static str,
        /// Which place.
        path: PathBuf,
        /// Why it does not serve.
        source: io::Error,
    },
    /// A file or directory could not be used.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process owns this state.
    #[error("{} is in use by another fairway-proxy", path.display())]
    InUse {
        /// The directory of the pinned state.
        path: PathBuf,
    },
    /// A program could not be loaded or attached.
    #[error("{action} program {program}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// With which program.
        program: &'static str,
        /// Why not.
        source: aya::programs::ProgramError,
    },
    /// The programs could not be prepared.
    #[error("load the eBPF object")]
    Load {
        /// Why not.
        #[source]
        source: aya::EbpfError,
    },
    /// A map could not be read or written.
    #[error("{action} map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// In which map.
        map: &'static str,
        /// Why not.
        source: MapError,
    },
    /// The kernel's virtual services could not be read or changed.
    #[error("{action} the virtual services")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("start a thread")]
    Thread {
        /// Why not.
        source: io::Error,
    },
    /// A map holds all it can.
    #[error("map {map} is full at {capacity} entries")]
    Full {
        /// The map.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
    },
    /// What interfaces there are cannot be learnt.
    #[error("learn of the node's interfaces")]
    Interfaces {
        /// Why not.
        source: io::Error,
    },
    /// Every identifier was given out once.
    #[error("no identifier is left for another backend: clean up and start anew")]
    Identifiers,
}

impl Error {
    /// What the kernel says when `action` is done to the map of this name.
    pub(crate) fn map(action: &'static str, map: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { action, map, source }
    }
}

/// How a dataplane serves what it cannot serve exactly as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Deviation {
    /// A client is remembered for each frontend, whatever the group of its affinity.
    #[error("affinity is remembered for each address and port by itself")]
    AffinityByFrontend,
    /// A client is not remembered.
    #[error("affinity is a hash of the client's address, without a time")]
    AffinityByHash,
    /// The connections of a backend that leaves end with it.
    #[error("by destination, a backend that leaves takes its connections with it")]
    NoDrain,
}

/// A service that a dataplane cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The dataplane does not know this protocol.
    #[error("{frontend}: {protocol} is not served")]
    Protocol {
        /// The frontend.
        frontend: Frontend,
        /// Its protocol.
        protocol: Protocol,
    },
    /// The dataplane does not translate between IPv4 and IPv6.
    #[error("{frontend}: {backend} is of the other address family")]
    Family {
        /// The frontend.
        frontend: Frontend,
        /// Its backend.
        backend: Backend,
    },
    /// The dataplane shares out connections evenly.
    #[error("{frontend}: {backend} has a weight of {weight}, and weights are not served")]
    Weight {
        /// The frontend.
        frontend: Frontend,
        /// Its backend.
        backend: Backend,
        /// Its share.
        weight: Weight,
    },
    /// The dataplane does not have this scheduler.
    #[error("{frontend}: the scheduler {} is not served", scheduler.name())]
    Scheduler {
        /// The frontend.
        frontend: Frontend,
        /// Its scheduler.
        scheduler: Scheduler,
    },
    /// The dataplane does not know this rule.
    #[error("{frontend}: {rule} is not served")]
    Rule {
        /// The frontend.
        frontend: Frontend,
        /// What its rules ask for.
        rule: &'static str,
    },
}

impl Unsupported {
    /// The backends of `service` are of the family of `frontend`, or one is not.
    pub(crate) fn unless_of_one_family(frontend: Frontend, service: &Service) -> Result<(), Self> {
        let foreign = |backend: &&Backend| backend.address().is_ipv4() != frontend.address().is_ipv4();
        match service.backends.keys().find(foreign) {
            Some(backend) => Err(Self::Family { frontend, backend: *backend }),
            None => Ok(()),
        }
    }
}
