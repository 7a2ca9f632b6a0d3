//! The network namespaces of this machine, and what runs in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

/// Where namespaces that outlive their processes are kept, by `ip netns` and by container runtimes.
const NAMED: &str = "/run/netns";

/// A network namespace that somebody is in, or that has a name.
#[derive(Debug)]
pub(super) struct Namespace {
    /// One of its files.
    file: PathBuf,
    /// The processes in it, as far as this process may see them.
    processes: Vec<u32>,
}

/// All of them that this process can see, each once. What vanishes meanwhile is left out.
pub(super) fn namespaces() -> io::Result<Vec<Namespace>> {
    let mut found: BTreeMap<(u64, u64), Namespace> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let file = entry.path().join("ns/net");
        if let Ok(identity) = identity(&file) {
            let fresh = || Namespace { file, processes: Vec::new() };
            found.entry(identity).or_insert_with(fresh).processes.push(process);
        }
    }
    let named = match fs::read_dir(NAMED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found.into_values().collect()),
        named => named?,
    };
    for entry in named {
        let file = entry?.path();
        if let Ok(identity) = identity(&file) {
            found.entry(identity).or_insert_with(|| Namespace { file, processes: Vec::new() });
        }
    }
    Ok(found.into_values().collect())
}

/// Device and number of a namespace's file, which are the namespace's own.
fn identity(file: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(file).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Namespace {
    /// Runs `work` with this thread in the namespace; `None` where it is gone or no network namespace. The thread must be
    /// one that has nothing else to do: where it cannot return to where it came from, the next visit takes it on.
    pub(super) fn visit<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let Ok(file) = File::open(&self.file) else { return Ok(None) };
        match setns(&file, CloneFlags::CLONE_NEWNET) {
            // A name that is being made or removed.
            Err(nix::errno::Errno::EINVAL) => return Ok(None),
            entered => entered?,
        }
        let outcome = work();
        // A namespace lives as long as a thread is in it.
        setns(&home, CloneFlags::CLONE_NEWNET)?;
        outcome.map(Some)
    }

    /// Which process in it has which of these sockets, by the sockets' numbers, and as which descriptor. What may not be
    /// looked into, or ends meanwhile, has none.
    pub(super) fn holders(&self, inodes: &BTreeSet<u32>) -> BTreeMap<u32, (u32, i32)> {
        let mut holders = BTreeMap::new();
        let wanted = |link: PathBuf| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
            inodes.contains(&inode).then_some(inode)
        };
        for process in self.processes.iter().filter(|_| !inodes.is_empty()) {
            for entry in fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten() {
                let descriptor = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let inode = fs::read_link(entry.path()).ok().and_then(wanted);
                if let (Some(inode), Some(descriptor)) = (inode, descriptor) {
                    holders.insert(inode, (*process, descriptor));
                }
            }
        }
        holders
    }
}
