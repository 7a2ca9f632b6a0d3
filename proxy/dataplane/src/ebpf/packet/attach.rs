//! Programs to interfaces, where they stay when the process ends.
//!
//! Where the kernel has tcx (Linux 6.6) a pinned link holds a program at its interface, and the next process puts its
//! own program into the link: there is no instant without one. On older kernels a filter of the clsact queueing
//! discipline does, and is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, tc};
use nix::errno::Errno;

use super::interfaces::{Framing, Interface};
use crate::ebpf::{Program, load, pins};
use crate::{Error, kernel};

/// The programs of the object.
const PROGRAMS: [&str; 4] = [INGRESS, EGRESS, INGRESS_BARE, EGRESS_BARE];
const INGRESS: &str = "fairway_in";
const EGRESS: &str = "fairway_out";
const INGRESS_BARE: &str = "fairway_in_l3";
const EGRESS_BARE: &str = "fairway_out_l3";

/// What is put before the index of an interface in the name of a pin.
const PINS: [&str; 2] = ["packet_in_", "packet_out_"];

/// Our filter's place on a clsact queueing discipline.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0xfa);

/// The programs, and where they are.
#[derive(Debug)]
pub(super) struct Attachments {
    object: Ebpf,
    links: PathBuf,
    way: Way,
    /// The interfaces that have them, by index, with their names.
    attached: BTreeMap<u32, String>,
    /// Interfaces that were given up, by index: what was said of them is not said again.
    left_out: BTreeSet<u32>,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcx,
    Clsact,
}

impl Attachments {
    /// Of programs that were loaded. Links are pinned below `links`.
    pub(super) const fn new(object: Ebpf, links: PathBuf) -> Self {
        Self { object, links, way: Way::Tcx, attached: BTreeMap::new(), left_out: BTreeSet::new() }
    }

    /// Sees to it that these interfaces have the programs, and that nothing is left of others. One interface that cannot
    /// have them, because it is gone already, say, keeps no other from having them.
    pub(super) fn keep_at(&mut self, interfaces: &[&Interface]) -> Result<(), Error> {
        let mut outcome = Ok(());
        for interface in interfaces {
            let (ingress, egress) = match interface.framing {
                Framing::Ethernet => (INGRESS, EGRESS),
                Framing::Bare => (INGRESS_BARE, EGRESS_BARE),
                Framing::Unknown => {
                    if self.left_out.insert(interface.index) {
                        tracing::info!(
                            interface = interface.name,
                            "packets not served here: framing unknown"
                        );
                    }
                    continue;
                }
            };
            let kept = self
                .keep(interface, ingress, TcAttachType::Ingress)
                .and_then(|()| self.keep(interface, egress, TcAttachType::Egress));
            match kept {
                Ok(()) => {
                    if self.attached.insert(interface.index, interface.name.clone()).is_none() {
                        tracing::info!(interface = interface.name, index = interface.index, "packets served");
                    }
                }
                Err(error) => outcome = Err(error),
            }
        }
        let present: BTreeSet<u32> = interfaces.iter().map(|interface| interface.index).collect();
        self.attached.retain(|index, _| present.contains(index));
        self.left_out.retain(|index| present.contains(index));
        self.remove_pins(&present)?;
        outcome
    }

    fn keep(&mut self, interface: &Interface, name: &'static str, side: TcAttachType) -> Result<(), Error> {
        if self.way == Way::Tcx && self.keep_by_tcx(interface, name, side)? {
            return Ok(());
        }
        if self.way == Way::Tcx {
            tracing::info!("this kernel has no tcx, clsact is used");
            self.way = Way::Clsact;
        }
        self.keep_by_clsact(interface, name, side).map_err(|error| load::program_error("attach", name, error))
    }

    /// False where the kernel has no tcx.
    fn keep_by_tcx(
        &mut self,
        interface: &Interface,
        name: &'static str,
        side: TcAttachType,
    ) -> Result<bool, Error> {
        let pin = format!("{}{}", PINS[usize::from(side != TcAttachType::Ingress)], interface.index);
        let (pin, next) = (self.links.join(&pin), self.links.join(format!("{pin}_next")));
        let failed = |error| load::program_error("attach", name, error);
        let program = program(&mut self.object, name)?;
        if let Some(link) = pinned(&pin)? {
            match program.attach_to_link(link) {
                Ok(id) => return program.take_link(id).map(|_| true).map_err(failed),
                // Of an interface that had this index before, or taken off by somebody.
                Err(error) if is(&error, Errno::ENOLINK) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let link = match program.attach_with_options(&interface.name, side, order) {
            Ok(id) => program.take_link(id).map_err(failed)?,
            Err(error) if is(&error, Errno::EINVAL) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        pins::remove_pin(&next)?;
        let pin_failed = |source| Error::File { action: "pin a link at", path: next.clone(), source };
        let link = FdLink::try_from(link).map_err(|error| pin_failed(io::Error::other(error)))?;
        link.pin(&next).map_err(|error| pin_failed(io::Error::other(error)))?;
        pins::replace_pin(&next, &pin)?;
        Ok(true)
    }

    fn keep_by_clsact(
        &mut self,
        interface: &Interface,
        name: &'static str,
        side: TcAttachType,
    ) -> Result<(), ProgramError> {
        if self.attached.contains_key(&interface.index) {
            return Ok(());
        }
        match tc::qdisc_add_clsact(&interface.name) {
            Ok(()) => {}
            // There is one already: of ours, or of others whose filters stay beside ours.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
            Err(error) => return Err(error.into()),
        }
        let program: &mut SchedClassifier =
            self.object.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)?.try_into()?;
        let before = SchedClassifierLink::attached(&interface.name, side, PRIORITY, HANDLE, None);
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        let id = match program.attach_to_link(before.map_err(TcError::IoError)?) {
            Ok(id) => id,
            // There was none before.
            Err(_) => {
                program.attach_with_options(&interface.name, side, TcAttachOptions::Netlink(options))?
            }
        };
        // Dropped, it would take the program off.
        std::mem::forget(program.take_link(id)?);
        Ok(())
    }

    /// Removes the links of interfaces that are gone, or not to be served any more.
    fn remove_pins(&self, present: &BTreeSet<u32>) -> Result<(), Error> {
        for pin in pins::entries(&self.links)? {
            let name = pin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let index = PINS.iter().find_map(|before| name.strip_prefix(before)?.parse::<u32>().ok());
            if index.is_some_and(|index| !present.contains(&index)) {
                pins::remove_pin(&pin)?;
            }
        }
        Ok(())
    }
}

/// Has the kernel take the programs.
pub(super) fn load(object: &mut Ebpf) -> Result<Vec<Program>, Error> {
    let mut programs = Vec::new();
    for name in PROGRAMS {
        let program = program(object, name)?;
        program.load().map_err(|error| match kernel::missing_feature(name, &error) {
            Some(feature) => Error::Kernel { feature },
            None => load::program_error("load", name, error),
        })?;
        let information = program.info().map_err(|error| load::program_error("inspect", name, error))?;
        programs.push(Program::of(name, &information));
    }
    Ok(programs)
}

/// Takes the programs off interfaces where clsact holds them. Where pinned links do, they go with their pins.
pub(super) fn detach(interfaces: &[Interface]) -> Result<(), Error> {
    let sides = [TcAttachType::Ingress, TcAttachType::Egress, TcAttachType::Ingress, TcAttachType::Egress];
    for interface in interfaces {
        for (name, side) in PROGRAMS.into_iter().zip(sides) {
            match tc::qdisc_detach_program(&interface.name, side, name) {
                Ok(()) => {}
                Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(load::program_error("detach", name, error.into())),
            }
        }
    }
    Ok(())
}

/// The link pinned at `path`.
fn pinned(path: &Path) -> Result<Option<SchedClassifierLink>, Error> {
    let failed = |error: LinkError| Error::File {
        action: "open the link pinned at",
        path: path.to_owned(),
        source: io::Error::other(error),
    };
    match PinnedLink::from_pin(path) {
        Ok(link) => SchedClassifierLink::try_from(FdLink::from(link)).map(Some).map_err(failed),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// One of the object's programs.
pub(super) fn program<'object>(
    object: &'object mut Ebpf,
    name: &'static str,
) -> Result<&'object mut SchedClassifier, Error> {
    let failed = |source| Error::Program { action: "find", program: name, source };
    let program = object.program_mut(name).ok_or_else(|| failed(ProgramError::UnexpectedProgramType))?;
    program.try_into().map_err(failed)
}

/// Whether the kernel said just this.
fn is(error: &ProgramError, number: Errno) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error() == Some(number as i32)
}
