//! Forwarding at the socket: eBPF programs on a control group translate the destination when a socket connects.
//!
//! ```text
//!   [Change] --mirror--> [Write] --maps--> kernel        what is to be written is decided by values alone
//!   kernel --maps--> Found --repair--> mirror, [Write]   so is what was found
//! ```
//!
//! Maps and links are pinned: forwarding goes on when the process ends, however it ends, and the next one adopts it.

mod encode;
#[cfg(feature = "contract")]
mod hidden;
mod live;
mod load;
mod maps;
mod mirror;
mod namespaces;
mod packet;
mod pins;
mod pod;
mod prefixes;
mod repair;
#[cfg(test)]
mod simulation;
mod sock_diag;
mod stale_sockets;
mod tallies;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use plan::{Change, Frontend, Observed, Protocol, Scheduler, Service, Weight};

pub use self::live::LiveServices;
use self::load::Attached;
pub use self::load::Program;
use self::maps::Maps;
use self::mirror::Mirror;
use self::packet::Packets;
#[cfg(feature = "contract")]
pub use self::packet::Trial;
pub use self::packet::{PacketCounters, PacketForwarding, PacketRun, PacketSettings, PacketTiming};
use self::pins::Pins;
use self::prefixes::Prefixes;
use self::stale_sockets::StaleSockets;
pub use self::tallies::{ServiceCount, ServiceCounters};
use self::write::Write;
use crate::{Dataplane, Deviation, Error, Failure, Feature, Inspection, Unsupported};

/// Where the state is pinned unless told otherwise.
pub const DEFAULT_BPF_FS: &str = "/sys/fs/bpf/fairway";

/// Where this dataplane lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The control group (v2) whose processes are served, descendants included.
    pub cgroup: PathBuf,
    /// The directory, on a bpffs, that keeps maps and links alive while no process does.
    pub bpf_fs: PathBuf,
}

/// How much the maps hold at most. Memory is taken by what they do hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends.
    pub services: u32,
    /// Backends of all services together.
    pub backends: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { services: ebpf_abi::SERVICES.capacity, backends: ebpf_abi::BACKENDS.capacity }
    }
}

/// Translation at the socket by eBPF programs. TCP and UDP; nothing runs per packet.
///
/// Dropping it leaves everything pinned and attached.
#[derive(Debug)]
pub struct Ebpf {
    maps: Maps,
    service_cidrs: Prefixes,
    mirror: Mirror,
    /// A write failed halfway: the mirror must be made anew before it is used.
    stale: bool,
    attached: Attached,
    /// The maps' identifiers.
    identifiers: Vec<(&'static str, u32)>,
    /// What the maps took when this process last wrote to them; `None` when somebody else wrote since.
    usage: Option<Vec<u64>>,
    stale_sockets: StaleSockets,
    /// Backends of UDP services may have gone unnoticed.
    sockets_due: bool,
    /// Everything that is to be forwarded was written: who did it before may go.
    whole: bool,
    /// Before the pins, so that its thread has ended when they are given up.
    packets: Option<Packets>,
    /// What the programs do without.
    lacking: BTreeSet<Feature>,
    pins: Pins,
}

impl Ebpf {
    /// Adopts what is pinned below `settings.bpf_fs`, or starts anew; attaches this build's programs in place of those
    /// that were attached. Forwarding does not pause meanwhile: state of another version, whose maps are not understood,
    /// goes on beside the new one until that has been told everything (the first [`Dataplane::apply`] without a failure),
    /// and is removed by the next [`Dataplane::inspect`].
    ///
    /// Mounts a bpffs at `/sys/fs/bpf` if the state is to be pinned there and nothing is mounted.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        Self::open_sized(settings, Capacity::default())
    }

    /// As [`Ebpf::open`], with maps of another size. Maps that are pinned already keep the size they have.
    pub fn open_sized(settings: &Settings, capacity: Capacity) -> Result<Self, Error> {
        let lacking = Feature::lacking()?;
        for feature in &lacking {
            let (feature, instead) = (feature.name(), feature.instead());
            tracing::warn!(feature, instead, "the kernel lacks a feature");
        }
        Self::open_lacking(settings, capacity, lacking)
    }

    /// As [`Ebpf::open_sized`], on a kernel that lacks these features, or as if it did.
    pub fn open_lacking(
        settings: &Settings,
        capacity: Capacity,
        lacking: BTreeSet<Feature>,
    ) -> Result<Self, Error> {
        let pins = Pins::own(&settings.bpf_fs)?;
        let mut object = load::open(&pins, capacity, &lacking)?;
        let maps = Maps::take(&mut object)?;
        let service_cidrs = Prefixes::take(&mut object, ebpf_abi::SERVICE_CIDRS)?;
        let attached = Attached::attach(object, &pins, &settings.cgroup)?;
        let identifiers = maps::identifiers(&pins)?;
        let stale_sockets = StaleSockets::start(&pins)?;
        let mut ebpf = Self {
            maps,
            service_cidrs,
            mirror: Mirror::default(),
            stale: true,
            attached,
            identifiers,
            usage: None,
            stale_sockets,
            // Those that went while nobody was there.
            sockets_due: true,
            whole: false,
            packets: None,
            lacking,
            pins,
        };
        ebpf.reread()?;
        ebpf.usage = Some(ebpf.maps.usage()?);
        Ok(ebpf)
    }

    /// Serves packets too, at the interfaces of this network namespace: those there are and those that come, until this
    /// is dropped. The programs stay where they are then, but come to no other interface.
    pub fn serve_packets(&mut self, settings: PacketSettings) -> Result<PacketCounters, Error> {
        let packets = Packets::start(&self.pins, settings, &self.lacking)?;
        let counters = packets.counters();
        self.attached.programs.extend_from_slice(packets.programs());
        self.packets = Some(packets);
        Ok(counters)
    }

    /// What the maps hold, for whoever shows it.
    pub fn live_services(&self) -> Result<LiveServices, Error> {
        LiveServices::open(&self.pins)
    }

    /// What the programs count of services, for whoever shows it.
    pub fn service_counters(&self) -> Result<ServiceCounters, Error> {
        ServiceCounters::open(&self.pins)
    }

    /// The packet programs, to be timed on the maps of this dataplane.
    pub fn packet_timing(&self) -> Result<PacketTiming, Error> {
        PacketTiming::open(&self.pins, &self.lacking)
    }

    /// Detaches the programs and removes everything pinned below `bpf_fs`. Success where nothing is. The kernel may take
    /// some milliseconds until the last program has run.
    pub fn cleanup(bpf_fs: &Path) -> Result<(), Error> {
        Pins::remove(bpf_fs)?;
        packet::detach()
    }

    /// The programs as the kernel took them.
    pub fn programs(&self) -> &[Program] {
        &self.attached.programs
    }

    /// Makes the mirror from the maps, and the maps whole.
    fn reread(&mut self) -> Result<(), Error> {
        let (mirror, writes) = repair::repair(&self.maps.read()?);
        self.stale = true;
        for write in &writes {
            self.maps.write(write)?;
        }
        self.mirror = mirror;
        self.stale = false;
        Ok(())
    }

    fn carry_out(&mut self, change: &Change) -> Result<(), Error> {
        if self.stale {
            self.reread()?;
        }
        let writes = self.mirror.writes(change).ok_or(Error::Identifiers)?;
        for (done, write) in writes.iter().enumerate() {
            if let Err(error) = self.maps.write(write) {
                match change {
                    Change::AddService { .. } | Change::AddBackend { .. } => self.take_back(&writes[..done]),
                    // Half of it is done: the next reading of the maps completes it or lets it be.
                    Change::DrainBackend { .. }
                    | Change::RemoveBackend { .. }
                    | Change::SetRules { .. }
                    | Change::RemoveService { .. } => {
                        self.stale = true;
                    }
                }
                return Err(error);
            }
        }
        self.mirror.advance(change);
        self.sockets_due |= leaves_datagram_sockets(change);
        Ok(())
    }

    /// Notes whether entries came or went that this process did not write.
    fn note_disturbance(&mut self) {
        self.usage = self.usage.take().filter(|known| self.maps.usage().is_ok_and(|usage| usage == *known));
    }

    /// Undoes the first writes of an addition of which a later one failed, so that the mirror stays right and others can
    /// be added at no cost. What cannot be undone is left to the next reading of the maps.
    fn take_back(&mut self, done: &[Write]) {
        for write in done.iter().rev() {
            self.stale |= match write.taken_back() {
                Some(undo) => self.maps.write(&undo).is_err(),
                // Identifiers that nobody uses do no harm.
                None => !matches!(write, Write::Reserve(_)),
            };
        }
    }
}

impl Dataplane for Ebpf {
    /// TCP and UDP, within one address family: an IPv4 socket has no room for an IPv6 address.
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported> {
        match frontend.protocol() {
            Protocol::Tcp | Protocol::Udp => {}
            protocol @ Protocol::Sctp => return Err(Unsupported::Protocol { frontend, protocol }),
        }
        match service.rules.scheduler {
            Scheduler::RoundRobin | Scheduler::Random | Scheduler::LeastConnections | Scheduler::Maglev => {}
            scheduler => return Err(Unsupported::Scheduler { frontend, scheduler }),
        }
        if let Some((&backend, &weight)) = service.backends.iter().find(|(_, weight)| **weight != Weight::ONE)
        {
            return Err(Unsupported::Weight { frontend, backend, weight });
        }
        Unsupported::unless_of_one_family(frontend, service).map(|()| None)
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.reread()?;
        self.usage = Some(self.maps.usage()?);
        Ok(self.mirror.observed())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        self.note_disturbance();
        let failure = |change: &Change| {
            let error = self.carry_out(change).err()?;
            Some(Failure { change: change.clone(), error })
        };
        let failures: Vec<Failure> = changes.iter().filter_map(failure).collect();
        self.whole |= failures.is_empty();
        // Where it cannot be told, everything is to be observed anew.
        self.usage = self.usage.take().and_then(|_undisturbed| self.maps.usage().ok());
        if std::mem::take(&mut self.sockets_due) {
            self.stale_sockets.search();
        }
        failures
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        self.service_cidrs.set(cidrs)
    }

    fn inspect(&mut self) -> Result<Inspection, Error> {
        let mut inspection = Inspection::default();
        self.pins.restore()?;
        if self.whole {
            self.pins.retire_others()?;
        }
        inspection.restored = self.attached.restore(&self.pins)?
            + maps::restore(&self.pins, &self.identifiers)?
            + self.service_cidrs.restore()?;
        self.note_disturbance();
        inspection.entries_differ = self.usage.is_none();
        self.stale_sockets.report(&mut inspection);
        Ok(inspection)
    }
}

/// How many writes `changes` become in maps that hold nothing: what is decided before the kernel is asked.
pub fn encoded(changes: &[Change]) -> usize {
    let mut mirror = Mirror::default();
    let writes = changes.iter().map(|change| {
        let writes = mirror.writes(change).map_or(0, |writes| writes.len());
        mirror.advance(change);
        writes
    });
    writes.sum()
}

/// Whether sockets may talk to a backend of datagrams that is gone now.
fn leaves_datagram_sockets(change: &Change) -> bool {
    match change {
        Change::RemoveBackend { frontend, .. }
        | Change::DrainBackend { frontend, .. }
        | Change::RemoveService { frontend } => frontend.protocol() == Protocol::Udp,
        Change::AddService { .. } | Change::SetRules { .. } | Change::AddBackend { .. } => false,
    }
}
