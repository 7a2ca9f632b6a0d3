//! Control groups of a test's own, for programs that attach to one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::report_leftover;
use crate::namespace::require_root;
use crate::{Error, Result, label, wait};

/// A cgroup v2 directory `fw-<label>-<pid>-<number>`. On drop its processes go back to the parent and it is removed,
/// whatever was attached to it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Below the root of the cgroup v2 mount. Needs root.
    pub fn new(label: &str) -> Result<Self> {
        require_root("making a control group")?;
        let root = mount_point("cgroup2")?;
        sweep(&root)?;
        Self::below(&root, label)
    }

    /// A child of this one: a pod on a node. Drop it before its parent.
    pub fn child(&self, label: &str) -> Result<Self> {
        Self::below(&self.path, label)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn below(parent: &Path, label: &str) -> Result<Self> {
        let path = parent.join(label::unique(label));
        fs::create_dir(&path).map_err(Error::system("make", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            report_leftover(&self.path.display().to_string(), &error);
        }
    }
}

/// Where a file system of `kind` (`cgroup2`, `bpf`) is mounted: the first such line of `/proc/self/mountinfo`.
pub fn mount_point(kind: &'static str) -> Result<PathBuf> {
    let file = "/proc/self/mountinfo";
    let table = fs::read_to_string(file).map_err(Error::system("read", file))?;
    find_mount(&table, kind).ok_or(Error::NoMount { kind })
}

/// Field 5 is the mount point; the type is the first field after the lone hyphen (proc(5)).
fn find_mount(table: &str, kind: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.split(' ').next() == Some(kind)).then(|| PathBuf::from(point))
    })
}

fn remove(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path).join("cgroup.procs");
    wait::until_some(&format!("{} is empty", path.display()), Duration::from_secs(2), || {
        evacuate(&path.join("cgroup.procs"), &parent)?;
        match fs::remove_dir(path) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(())),
            // A process that just died is still counted for an instant.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(Error::system("remove", path.display())(error)),
        }
    })
}

fn evacuate(from: &Path, to: &Path) -> Result<()> {
    let processes = match fs::read_to_string(from) {
        Ok(processes) => processes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::system("read", from.display())(error)),
    };
    for process in processes.lines() {
        match fs::write(to, process) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {}
            Err(error) => return Err(Error::system("move a process to", to.display())(error)),
        }
    }
    Ok(())
}

/// Removes what dead runs left below `root`, children first.
pub(crate) fn sweep(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).map_err(Error::system("list", root.display()))? {
        let entry = entry.map_err(Error::system("list", root.display()))?;
        if entry.file_name().to_str().is_some_and(label::is_orphan) && entry.path().is_dir() {
            sweep(&entry.path())?;
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let table = "10 31 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                     19 41 0:37 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,name=systemd\n\
                     20 41 0:38 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(table, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount(table, "bpf"), None);
    }
}
