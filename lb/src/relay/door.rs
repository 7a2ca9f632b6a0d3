//! A socket on which one thread accepts clients, as many as there is room for.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::time::Instant;

use super::Shared;
use super::place::Place;

/// Counted among those that accept for as long as it lives.
pub(super) struct Door {
    socket: Arc<TcpListener>,
    shared: Arc<Shared>,
    shut: Option<Shut>,
    complaint: Complaint,
}

/// Why clients wait in the kernel's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shut {
    /// There are as many connections as there may be.
    Full,
    /// The node is out of something that others must give back first.
    Until(Instant),
}

/// Somebody who wants to come in.
pub(super) struct Guest {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) place: Place,
}

impl Door {
    pub(super) fn new(socket: Arc<TcpListener>, shared: Arc<Shared>) -> Self {
        shared.accepting.fetch_add(1, Ordering::AcqRel);
        Self { socket, shared, shut: None, complaint: Complaint::default() }
    }

    pub(super) fn is_of(&self, socket: &Arc<TcpListener>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    /// Whether somebody may come in.
    pub(super) const fn is_open(&self) -> bool {
        self.shut.is_none()
    }

    /// When it opens again, where that is known.
    pub(super) const fn opens_at(&self) -> Option<Instant> {
        match self.shut {
            Some(Shut::Until(time)) => Some(time),
            Some(Shut::Full) | None => None,
        }
    }

    /// Opens it again where there is a reason to. True where it was shut before.
    pub(super) fn open(&mut self, now: Instant) -> bool {
        let opens = match self.shut {
            None => false,
            Some(Shut::Full) => self.shared.free.load(Ordering::SeqCst) > 0,
            Some(Shut::Until(time)) => time <= now,
        };
        if opens {
            self.set(None);
        }
        opens
    }

    /// Whoever is first in the queue, if there is anybody and room for one more.
    pub(super) fn next(&mut self) -> Option<Guest> {
        let place = self.place()?;
        loop {
            match accept(&self.socket) {
                Ok(Some((socket, address))) => return Some(Guest { socket, address, place }),
                Ok(None) => return None,
                Err(error) if concerns_one_client(error) => {}
                Err(error) => {
                    self.complaint.say(|| tracing::warn!(%error, "clients not accepted"));
                    self.set(Some(Shut::Until(Instant::now() + PAUSE)));
                    return None;
                }
            }
        }
    }

    fn place(&mut self) -> Option<Place> {
        if let Some(place) = Place::take(&self.shared) {
            return Some(place);
        }
        self.complaint.say(|| tracing::warn!("connection limit reached: clients wait until others leave"));
        self.set(Some(Shut::Full));
        // Whoever has left before we were known to wait has told nobody.
        let place = Place::take(&self.shared)?;
        self.set(None);
        Some(place)
    }

    fn set(&mut self, shut: Option<Shut>) {
        let before = std::mem::replace(&mut self.shut, shut);
        match (before == Some(Shut::Full), shut == Some(Shut::Full)) {
            (false, true) => drop(self.shared.waiting.fetch_add(1, Ordering::SeqCst)),
            (true, false) => drop(self.shared.waiting.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.set(None);
        self.shared.accepting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// `None` where nobody waits.
fn accept(socket: &TcpListener) -> rustix::io::Result<Option<(TcpStream, SocketAddr)>> {
    match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((stream, address)) => {
            let address = address.and_then(|address| SocketAddr::try_from(address).ok());
            Ok(Some((stream.into(), address.ok_or(Errno::CONNABORTED)?)))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Errors of the connection that would have been accepted (accept(2), "Error handling"): the next one may be fine.
fn concerns_one_client(error: Errno) -> bool {
    const OF_ONE: [Errno; 12] = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    OF_ONE.contains(&error)
}

/// Time until the next attempt where the node is out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Says the same thing at most once per minute.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn say(&mut self, say: impl FnOnce()) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= Duration::from_mins(1)) {
            self.last = Some(now);
            say();
        }
    }
}
