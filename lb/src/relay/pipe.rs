//! Moves bytes from one socket to another through a pipe, inside the kernel (splice(2)).
//!
//! A pipe is borrowed from the thread and goes back as soon as it is empty. Only one that a slow reader has not emptied
//! yet is kept, so an idle connection owns none. It is filled only when empty: a full pipe and an empty socket give the
//! same answer.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::side::Side;

/// Descriptors that the pipes of one thread may take: two each.
pub(super) const DESCRIPTORS_PER_THREAD: u64 = 2 * PIPES_PER_THREAD as u64;
/// Pipes that one thread may have open: while so many readers are slow, the bytes of others are copied. In mebibytes,
/// also what slow readers can make the kernel hold for a thread.
const PIPES_PER_THREAD: u32 = 16;

/// Bytes on their way: at least one.
#[derive(Debug)]
pub(super) struct Piped {
    pipe: Pipe,
    count: usize,
}

impl Piped {
    /// Takes what `from` has, a mebibyte at most. `None` where no bytes could be taken: because there are none, because
    /// `from` has ended, because its next byte is urgent, or for want of a pipe. Reading tells.
    ///
    /// An error means that `from` has broken: the kernel says so once, and whoever reads afterwards is told of an end.
    pub(super) fn take(from: &Side) -> io::Result<Option<Self>> {
        let Some(pipe) = Pipe::borrow() else { return Ok(None) };
        let taken = splice(from, None, &pipe.writer, None, ROUND, flags());
        if let Ok(count @ 1..) = taken {
            return Ok(Some(Self { pipe, count }));
        }
        pipe.give_back();
        match taken {
            // Not about the connection: there is nothing, or not in a way that could be spliced.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::EINVAL | Errno::ENOMEM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How many bytes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Passes on what `to` takes now, possibly nothing; returns how much that was, and the rest.
    pub(super) fn pass_on(mut self, to: &mut Side) -> io::Result<(usize, Option<Self>)> {
        match splice(&self.pipe.reader, None, &*to, None, self.count, flags()) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(passed) if passed == self.count => {
                self.pipe.give_back();
                Ok((passed, None))
            }
            Ok(passed) => {
                self.count -= passed;
                Ok((passed, Some(self)))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {
                to.is_full();
                Ok((0, Some(self)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// An empty pipe, unless it is part of [`Piped`]. Dropping it closes it.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _open: Open,
}

impl Pipe {
    fn borrow() -> Option<Self> {
        IDLE.with_borrow_mut(Vec::pop).or_else(Self::open)
    }

    fn give_back(self) {
        IDLE.with_borrow_mut(|idle| idle.push(self));
    }

    /// `None` where the thread has as many as it may, or where descriptors or pages for pipes are short (pipe(7),
    /// `pipe-user-pages-soft`): copying needs neither.
    fn open() -> Option<Self> {
        let open = Open::count()?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        // The kernel may allow less, `pipe-max-size` or what this user has left.
        let capacity = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(CAPACITY))
            .or_else(|_| fcntl(&writer, FcntlArg::F_GETPIPE_SZ))
            .ok()?;
        (capacity >= LEAST_CAPACITY).then_some(Self { reader, writer, _open: open })
    }
}

/// Counts a pipe of this thread for as long as it is open.
#[derive(Debug)]
struct Open;

impl Open {
    fn count() -> Option<Self> {
        let left = LEFT.get().checked_sub(1)?;
        LEFT.set(left);
        Some(Self)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        LEFT.set(LEFT.get() + 1);
    }
}

/// Asked for, in bytes: what `pipe-max-size` allows everybody unless an administrator has changed it.
const CAPACITY: i32 = 1024 * 1024;
/// Below this, copying is as good. The kernel's default, in bytes; it gives two pages to users who have too many.
const LEAST_CAPACITY: i32 = 64 * 1024;
/// At most so many bytes at a time: as much as any pipe holds.
const ROUND: usize = 1024 * 1024;

thread_local! {
    /// Pipes that are empty.
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// How many may still be opened.
    static LEFT: Cell<u32> = const { Cell::new(PIPES_PER_THREAD) };
}

/// Pipes of this thread: how many are open, and how many of these are empty.
#[cfg(test)]
pub(super) fn open_and_idle() -> (u32, u32) {
    let idle = IDLE.with_borrow(|idle| u32::try_from(idle.len()).unwrap());
    (PIPES_PER_THREAD - LEFT.get(), idle)
}
