//! A bpf file system of a test's own, for pinned maps and links.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::error::report_leftover;
use crate::namespace::require_root;
use crate::{Error, Result};

/// A bpffs mounted on a temporary directory; unmounted, with everything pinned in it, on drop.
#[derive(Debug)]
pub struct BpfFs {
    directory: TempDir,
}

impl BpfFs {
    /// Mounts it. Needs root.
    pub fn new() -> Result<Self> {
        require_root("mounting a bpf file system")?;
        let directory = tempfile::Builder::new()
            .prefix("fw-bpf-")
            .tempdir()
            .map_err(Error::system("make", "a directory"))?;
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(Error::system("mount a bpf file system on", directory.path().display()))?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            report_leftover(&self.path().display().to_string(), &error);
        }
    }
}
