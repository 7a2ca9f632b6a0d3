//! Programs into the kernel, and onto the control group without a gap.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use aya::maps::MapData;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{self, CgroupAttachMode, CgroupSock, CgroupSockAddr, ProgramError, ProgramInfo, SockOps};
use aya::{EbpfError, EbpfLoader};

use ebpf_abi::{Affinity, AffinityKey, Origin, OriginKey};

use super::Capacity;
use super::maps::system_error;
use super::pins::{self, Pins};
use crate::kernel::Feature;
use crate::{Error, kernel};

/// The reserved identifier and the service that does not fit any more, as in `ebpf_abi`.
const TURNS_BESIDE_SERVICES: u32 = ebpf_abi::TURNS.capacity - ebpf_abi::SERVICES.capacity;

/// What `build.rs` compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/socket"));

/// The programs in the object, each named like the hook it is for. Those that show a socket its frontend come first, and
/// with them those that hear of its end: no application sees the address of a backend before there is one who puts it
/// right, and no socket is counted that is not to be counted off.
const PROGRAMS: [&str; 10] = [
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "release",
    "tcp_state",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
];

/// A program in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, which is that of its hook.
    pub name: &'static str,
    /// Its number in the kernel.
    pub id: u32,
    /// How many instructions the kernel's verifier walked through; `None` where the kernel does not say.
    pub verified_instructions: Option<u32>,
}

impl Program {
    pub(super) fn of(name: &'static str, information: &ProgramInfo) -> Self {
        let verified_instructions = information.verified_instruction_count();
        Self { name, id: information.id(), verified_instructions }
    }
}

/// Creates the maps, or opens those that are pinned, and makes the programs ready to load.
pub(super) fn open(pins: &Pins, capacity: Capacity, lacking: &BTreeSet<Feature>) -> Result<aya::Ebpf, Error> {
    inherit(pins)?;
    let mut loader = loader();
    for table in ebpf_abi::TABLES {
        loader.map_pin_path(table.name, pins.maps().join(table.name));
    }
    loader
        .map_max_entries(ebpf_abi::SERVICES.name, capacity.services)
        .map_max_entries(ebpf_abi::TURNS.name, capacity.services.saturating_add(TURNS_BESIDE_SERVICES))
        .map_max_entries(ebpf_abi::SLOTS.name, capacity.backends)
        .map_max_entries(ebpf_abi::BACKENDS.name, capacity.backends);
    create(&mut loader, OBJECT, lacking)
}

/// Nothing is relocated against the kernel's own types, yet a new loader reads them, which takes some 20 MiB for a moment. On a
/// thread of its own they have an arena of their own, and all of it goes back to the system.
pub(super) fn loader() -> EbpfLoader<'static> {
    fn new() -> EbpfLoader<'static> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader
    }
    let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(new);
    thread.map_or_else(
        |_no_thread| new(),
        |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    )
}

/// Creates the maps of an object for a kernel that lacks these features, and makes its programs ready to load.
pub(super) fn create(
    loader: &mut EbpfLoader<'_>,
    object: &[u8],
    lacking: &BTreeSet<Feature>,
) -> Result<aya::Ebpf, Error> {
    for feature in lacking {
        // Not every object has a use for each.
        loader.override_global(feature.global(), &0_u32, false);
    }
    #[cfg(feature = "contract")]
    let object = &super::hidden::hide(object, lacking);
    loader.load(object).map_err(load_error)
}

/// Takes over what another version remembers of sockets and clients, where it is laid out as ours: a peer goes on to stand
/// for its frontend, a client comes back to its backend.
fn inherit(pins: &Pins) -> Result<(), Error> {
    for (name, key, value) in [
        (ebpf_abi::ORIGINS.name, size_of::<OriginKey>(), size_of::<Origin>()),
        (ebpf_abi::AFFINITY.name, size_of::<AffinityKey>(), size_of::<Affinity>()),
    ] {
        let failed = Error::map("inherit", name);
        let own = pins.maps().join(name);
        for theirs in pins.others()?.iter().map(|version| version.join("maps").join(name)) {
            if own.exists() || !theirs.exists() {
                continue;
            }
            let map = MapData::from_pin(&theirs).map_err(&failed)?;
            let information = map.info().map_err(&failed)?;
            if (information.key_size() as usize, information.value_size() as usize) == (key, value) {
                map.pin(&own).map_err(|error| Error::File {
                    action: "pin a map at",
                    path: own.clone(),
                    source: io::Error::other(error),
                })?;
            }
        }
    }
    Ok(())
}

/// The programs on the control group.
#[derive(Debug)]
pub(super) struct Attached {
    object: aya::Ebpf,
    cgroup: File,
    pub(super) programs: Vec<Program>,
    /// Held open: who removes a pin does not detach a program.
    links: Vec<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    name: &'static str,
    _link: FdLink,
    link_id: u32,
    program_id: u32,
}

impl Attached {
    /// Loads every program and attaches it to the control group. Where an earlier process left one attached, the new one
    /// joins it first and then takes its place: with both, the second finds an address already translated.
    pub(super) fn attach(mut object: aya::Ebpf, pins: &Pins, cgroup: &Path) -> Result<Self, Error> {
        let cgroup = kernel::open_cgroup(cgroup)?;
        let mut programs = Vec::new();
        for name in PROGRAMS {
            programs.push(Program::of(name, &load(&mut object, name)?));
        }
        let mut attached = Self { object, cgroup, programs, links: Vec::new() };
        // Only when the kernel has accepted all of them.
        for name in PROGRAMS {
            let attachment = attached.attachment(name, pins)?;
            attached.links.push(attachment);
        }
        Ok(attached)
    }

    /// Attaches what somebody detached or replaced, pins what somebody removed; says how often that was so.
    pub(super) fn restore(&mut self, pins: &Pins) -> Result<u64, Error> {
        let mut restored = 0;
        let attached = kernel::attached_links()?;
        for at in 0..self.links.len() {
            let Attachment { name, link_id, program_id, .. } = self.links[at];
            if attached.get(&link_id) != Some(&program_id) || !pins.links().join(name).exists() {
                self.links[at] = self.attachment(name, pins)?;
                restored += 1;
            }
        }
        Ok(restored)
    }

    fn attachment(&mut self, name: &'static str, pins: &Pins) -> Result<Attachment, Error> {
        let link = pin(link(&mut self.object, name, &self.cgroup)?, name, &pins.links())?;
        let failed = |source| Error::File {
            action: "inspect the link of",
            path: name.into(),
            source: io::Error::other(source),
        };
        let information = link.info().map_err(failed)?;
        Ok(Attachment { name, link_id: information.id(), program_id: information.program_id(), _link: link })
    }
}

fn load(object: &mut aya::Ebpf, name: &'static str) -> Result<ProgramInfo, Error> {
    let mut program = program(object, name)?;
    program.load().map_err(|error| match kernel::missing_feature(name, &error) {
        Some(feature) => Error::Kernel { feature },
        None => program_error("load", name, error),
    })?;
    program.info().map_err(|source| Error::Program { action: "inspect", program: name, source })
}

fn link(object: &mut aya::Ebpf, name: &'static str, cgroup: &File) -> Result<FdLink, Error> {
    program(object, name)?
        .attach(cgroup)
        .map_err(|error| program_error("attach", name, error))?
        .map_err(|_not_a_link| Error::Kernel { feature: "links of control group programs (Linux 5.7)" })
}

/// A program of a control group.
enum OfCgroup<'object> {
    Address(&'object mut CgroupSockAddr),
    Release(&'object mut CgroupSock),
    State(&'object mut SockOps),
}

impl OfCgroup<'_> {
    fn load(&mut self) -> Result<(), ProgramError> {
        match self {
            Self::Address(program) => program.load(),
            Self::Release(program) => program.load(),
            Self::State(program) => program.load(),
        }
    }

    fn info(&self) -> Result<ProgramInfo, ProgramError> {
        match self {
            Self::Address(program) => program.info(),
            Self::Release(program) => program.info(),
            Self::State(program) => program.info(),
        }
    }

    fn attach(self, cgroup: &File) -> Result<Result<FdLink, LinkError>, ProgramError> {
        // For a link this mode means that programs of others stay beside ours.
        const MODE: CgroupAttachMode = CgroupAttachMode::Single;
        Ok(match self {
            Self::Address(program) => {
                let link = program.attach(cgroup, MODE)?;
                program.take_link(link)?.try_into()
            }
            Self::Release(program) => {
                let link = program.attach(cgroup, MODE)?;
                program.take_link(link)?.try_into()
            }
            Self::State(program) => {
                let link = program.attach(cgroup, MODE)?;
                program.take_link(link)?.try_into()
            }
        })
    }
}

fn pin(link: FdLink, name: &'static str, directory: &Path) -> Result<FdLink, Error> {
    let (pinned, next) = (directory.join(name), directory.join(format!("{name}_next")));
    // Left by a process that ended between the two steps below; the link in its place is attached still.
    pins::remove_pin(&next)?;
    let link = link.pin(&next).map_err(|error| match error {
        PinError::SyscallError(error) => program_error("pin", name, ProgramError::SyscallError(error)),
        error @ (PinError::NoFd { .. } | PinError::InvalidPinPath { .. }) => {
            Error::File { action: "pin a link at", path: next.clone(), source: io::Error::other(error) }
        }
    })?;
    pins::replace_pin(&next, &pinned)?;
    Ok(link.into())
}

fn program<'object>(object: &'object mut aya::Ebpf, name: &'static str) -> Result<OfCgroup<'object>, Error> {
    let unexpected =
        || Error::Program { action: "find", program: name, source: ProgramError::UnexpectedProgramType };
    let program = object.program_mut(name).ok_or_else(unexpected)?;
    if let programs::Program::CgroupSockAddr(program) = program {
        Ok(OfCgroup::Address(program))
    } else if let programs::Program::CgroupSock(program) = program {
        Ok(OfCgroup::Release(program))
    } else if let programs::Program::SockOps(program) = program {
        Ok(OfCgroup::State(program))
    } else {
        Err(unexpected())
    }
}

pub(super) fn program_error(action: &'static str, program: &'static str, source: ProgramError) -> Error {
    let system = if let ProgramError::LoadError { io_error, verifier_log } = &source {
        // The verifier refuses programs with the same numbers, but not without a word.
        Some(io_error).filter(|_| verifier_log.to_string().is_empty())
    } else if let ProgramError::SyscallError(error) = &source {
        Some(&error.io_error)
    } else {
        None
    };
    if system.is_some_and(kernel::is_permission) {
        return Error::Permission { action: "load and attach eBPF programs" };
    }
    Error::Program { action, program, source }
}

pub(super) fn load_error(source: EbpfError) -> Error {
    if let EbpfError::MapError(error) = &source
        && system_error(error).is_some_and(kernel::is_permission)
    {
        return Error::Permission { action: "create eBPF maps" };
    }
    Error::Load { source }
}
