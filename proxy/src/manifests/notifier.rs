//! When something happens to a directory (inotify).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// What happened to the directory.
pub(super) enum Changed {
    Content,
    Gone,
}

/// Watches one directory.
pub(super) struct Notifier(AsyncFd<Descriptor>);

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Notifier {
    pub(super) fn watch(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // Not on creation: a file that was just created is not written yet.
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, changes)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; this descriptor cannot outlive or leave its wrapper"
        )]
        let notifier = AsyncFd::new(Descriptor(inotify))?;
        Ok(Self(notifier))
    }

    /// Waits until something happened, and takes in all that has.
    pub(super) async fn changed(&self) -> io::Result<Changed> {
        let mut changed = None;
        loop {
            let mut ready = self.0.readable().await?;
            loop {
                match self.0.get_ref().0.read_events() {
                    Ok(events) => {
                        let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
                        if events.iter().any(|event| event.mask.intersects(gone)) {
                            return Ok(Changed::Gone);
                        }
                        changed = Some(Changed::Content);
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if let Some(changed) = changed {
                return Ok(changed);
            }
        }
    }
}
