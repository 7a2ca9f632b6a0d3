//! Forwarding at the socket: eBPF programs on a control group translate the destination when a socket connects.

use std::path::{Path, PathBuf};

use plan::{Change, Frontend, Observed, Service};

use crate::{Dataplane, Error, Failure, Unsupported};

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

/// Translation at the socket by eBPF programs.
#[derive(Debug)]
pub struct Ebpf {}

impl Ebpf {
    /// Adopts what is pinned below `settings.bpf_fs`, or starts anew.
    pub fn open(_settings: &Settings) -> Result<Self, Error> {
        Err(Error::Kernel { feature: "eBPF" })
    }

    /// Detaches the programs and removes everything pinned below `bpf_fs`. Success where nothing is.
    pub fn cleanup(_bpf_fs: &Path) -> Result<(), Error> {
        Err(Error::Kernel { feature: "eBPF" })
    }
}

/// The root of the cgroup v2 mount, wherever it is.
pub fn default_cgroup() -> Result<PathBuf, Error> {
    Err(Error::Kernel { feature: "cgroup v2" })
}

impl Dataplane for Ebpf {
    fn supports(&self, _: Frontend, _: &Service) -> Result<(), Unsupported> {
        Ok(())
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        Err(Error::Kernel { feature: "eBPF" })
    }

    fn apply(&mut self, _: &[Change]) -> Vec<Failure> {
        Vec::new()
    }
}
