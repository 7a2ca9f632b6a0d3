//! Carries a plan into the kernel. The only crate that knows aya.
//!
//! A [`Dataplane`] says what it can hold ([`Dataplane::supports`]), what it holds ([`Dataplane::observe`]) and takes
//! steps ([`Dataplane::apply`]). It has no policy: whatever needs a node, a zone or a traffic policy was decided before.
//! Every implementation passes the same tests, those of the feature `contract`.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod ebpf;
mod error;
mod ipvs;
mod kernel;
mod memory;

#[cfg(feature = "contract")]
pub use ebpf::Trial;
pub use ebpf::{
    Capacity, DEFAULT_BPF_FS, Ebpf, LiveServices, PacketCounters, PacketForwarding, PacketRun,
    PacketSettings, PacketTiming, Program, ServiceCount, ServiceCounters, Settings, encoded,
};
pub use ebpf_abi::{Counter as PacketCounter, Latency as ServiceLatency, Tally as ServiceTally};
pub use error::{Deviation, Error, Unsupported};
pub use ipvs::{Ipvs, IpvsSettings, IpvsTraffic, Load, Surroundings, Timeouts, Traffic};
pub use kernel::{Feature, default_cgroup};
pub use memory::Memory;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use plan::{Backend, Change, Frontend, Observed, ObservedBackend, Service};

/// Something that forwards as told: the kernel through eBPF, or a value in memory for tests.
///
/// Calls are synchronous: they wait for the kernel and never for a network. One thread owns a dataplane.
pub trait Dataplane: Send {
    /// Whether this dataplane can serve `service` at `frontend`, and whether exactly as planned; the caller leaves out what
    /// it cannot, and reports both.
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported>;

    /// What is forwarded now, read from the kernel and not from memory. Its cost grows with what is there.
    fn observe(&mut self) -> Result<Observed, Error>;

    /// The backends of one frontend as they are now. To be asked for before one leaves that may carry connections: how
    /// many they are may be old news. `None` where connections, once made, do not need this dataplane. Its cost grows
    /// with the backends of this frontend alone.
    fn recount(&mut self, _: Frontend) -> Result<Option<BTreeMap<Backend, ObservedBackend>>, Error> {
        Ok(None)
    }

    /// Carries out `changes` in order as far as it can, and says which failed. Progress is promised and completion is
    /// not: after a failure the caller observes and tries again. Its cost grows with the changes alone.
    fn apply(&mut self, changes: &[Change]) -> Vec<Failure>;

    /// Makes these, and no others, the networks that cluster addresses come from (`ServiceCIDR`): what is for no service there
    /// goes nowhere. Also puts back what somebody else took away.
    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error>;

    /// Looks whether somebody else took away what this dataplane needs, and puts it back. To be called about once a second:
    /// its cost does not grow with what is forwarded. A dataplane whose state is all in what it observes finds nothing.
    fn inspect(&mut self) -> Result<Inspection, Error> {
        Ok(Inspection::default())
    }
}

/// What a dataplane met, and did without being told, since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Programs that somebody detached, pins that somebody removed, and networks of cluster addresses that somebody changed.
    /// They are back.
    pub restored: u64,
    /// Whether somebody added or removed entries: what is forwarded must be observed anew.
    pub entries_differ: bool,
    /// Connected UDP sockets whose backend was gone, now connected to another one.
    pub sockets_moved: u64,
    /// Those that were ended, because there was no other backend or nobody to move them.
    pub sockets_ended: u64,
    /// Network namespaces that could not be searched for such sockets.
    pub socket_failures: u64,
    /// What the kernel lacks to look after such sockets.
    pub lacking: Option<&'static str>,
}

/// A step that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("{change}")]
pub struct Failure {
    /// The step.
    pub change: Change,
    /// Why not.
    #[source]
    pub error: Error,
}
