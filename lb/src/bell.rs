//! Wakes a thread that waits for events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A descriptor that is readable from the moment it is rung until it is [silenced](Self::silence).
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // It only fails where it rings already, 2^64 times (eventfd(2)).
        let _rung = self.0.write(1);
    }

    pub(crate) fn silence(&self) {
        // It only fails where it has not been rung.
        let _silenced = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
