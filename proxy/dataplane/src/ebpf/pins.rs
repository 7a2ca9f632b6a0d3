//! The files on a bpffs that keep maps and links alive while no process does.
//!
//! ```text
//! <bpf_fs>/               locked by the process that owns it
//!     v1/                 one per version of the map types
//!         maps/SERVICES …
//!         links/connect4 …
//! ```

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{Error, kernel};

/// The pinned state, owned by this process until dropped.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    lock: Flock<File>,
}

impl Pins {
    /// Takes possession of `directory`, which is made if it is not there.
    pub(super) fn own(directory: &Path) -> Result<Self, Error> {
        kernel::require_bpf_fs(directory)?;
        loop {
            make(directory)?;
            // A cleanup may have removed the directory between the two: then it is another one, or none.
            if let Some(lock) = lock(directory)? {
                let pins = Self { directory: directory.to_owned(), lock };
                make(&pins.maps())?;
                make(&pins.links())?;
                return Ok(pins);
            }
        }
    }

    /// Removes everything that any version pinned below `directory`, and the directory itself unless it is a mount point
    /// or holds something else. Success where nothing is.
    pub(super) fn remove(directory: &Path) -> Result<(), Error> {
        let Some(_lock) = lock(directory)? else { return Ok(()) };
        versions(directory)?.iter().try_for_each(|version| remove_version(version))?;
        remove_directory(directory)
    }

    /// The directories of other versions, the latest first.
    pub(super) fn others(&self) -> Result<Vec<PathBuf>, Error> {
        let mut others = versions(&self.directory)?;
        others.retain(|version| *version != self.version());
        others.sort_unstable_by_key(|version| Reverse(number(version)));
        Ok(others)
    }

    /// Detaches the programs of other versions and forgets what they pinned.
    pub(super) fn retire_others(&self) -> Result<(), Error> {
        self.others()?.iter().try_for_each(|version| remove_version(version))
    }

    /// Makes the directories that somebody removed; the new one is owned as the old one was.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        let owned = self.lock.metadata().map_err(failed("read", &self.directory))?;
        let there = fs::metadata(&self.directory).ok();
        if there.is_none_or(|there| (there.dev(), there.ino()) != (owned.dev(), owned.ino())) {
            *self = Self::own(&self.directory)?;
        }
        make(&self.maps())?;
        make(&self.links())
    }

    /// Where maps are pinned.
    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// Where links are pinned.
    pub(super) fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    fn version(&self) -> PathBuf {
        self.directory.join(format!("v{}", ebpf_abi::VERSION))
    }
}

/// Removes a pin. Success where there is none.
pub(super) fn remove_pin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Puts the pin `new` in the place of `old` in one step.
pub(super) fn replace_pin(new: &Path, old: &Path) -> Result<(), Error> {
    fs::rename(new, old).map_err(failed("replace", old))
}

/// Locks a directory; `None` where there is none (any more).
fn lock(directory: &Path) -> Result<Option<Flock<File>>, Error> {
    let file = match File::open(directory) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", directory)(error)),
    };
    let locked = file.metadata().map_err(failed("read", directory))?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Err(Error::InUse { path: directory.to_owned() }),
        Err((_, error)) => return Err(failed("lock", directory)(error.into())),
    };
    match fs::metadata(directory) {
        Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => Ok(Some(lock)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", directory)(error)),
    }
}

/// The directories of all versions below `directory`; what else is there is not ours.
fn versions(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(entries(directory)?.into_iter().filter(|path| number(path).is_some()).collect())
}

/// The version that a directory is of.
fn number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

fn remove_version(version: &Path) -> Result<(), Error> {
    // Links first: without them no program looks into the maps.
    remove_all(&version.join("links"))?;
    remove_all(&version.join("maps"))?;
    remove_directory(version)
}

fn remove_all(directory: &Path) -> Result<(), Error> {
    if directory.exists() {
        for pin in entries(directory)? {
            remove_pin(&pin)?;
        }
        remove_directory(directory)?;
    }
    Ok(())
}

/// Removes a directory that is empty and no mount point.
fn remove_directory(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir(directory) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(failed("remove", directory)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(failed("list", directory))?;
    entries.map(|entry| Ok(entry.map_err(failed("list", directory))?.path())).collect()
}

fn make(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(failed("make", directory))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| {
        if kernel::is_permission(&source) {
            return Error::Permission { action: "use the directory of the pinned state" };
        }
        Error::File { action, path: path.to_owned(), source }
    }
}
