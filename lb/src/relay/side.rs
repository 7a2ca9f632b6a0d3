//! One side of a connection: its socket, and what is known of it without asking.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;

#[derive(Debug)]
pub(super) struct Side {
    socket: TcpStream,
    /// Whether there may be something to read. Where not, an event will tell.
    readable: bool,
    /// Whether it may take something. Where not, an event will tell, if it is asked for.
    writable: bool,
    life: Life,
    /// Whether events tell when it takes something again.
    tells_room: bool,
}

/// What there is behind what a side has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    /// More, perhaps.
    GoesOn,
    /// An end.
    Ended,
    /// An error.
    Broken,
}

impl Side {
    /// A socket that is connected, and does not block.
    pub(super) const fn connected(socket: TcpStream) -> Self {
        Self { socket, readable: true, writable: true, life: Life::GoesOn, tells_room: false }
    }

    /// A socket that is about to connect, and does not block: it takes something once it has.
    pub(super) const fn connecting(socket: TcpStream) -> Self {
        Self { socket, readable: false, writable: true, life: Life::GoesOn, tells_room: false }
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) const fn is_readable(&self) -> bool {
        self.readable
    }

    pub(super) const fn is_writable(&self) -> bool {
        self.writable
    }

    pub(super) fn is_broken(&self) -> bool {
        self.life == Life::Broken
    }

    /// Which events are to be told: each change of them, once.
    pub(super) fn interest(&mut self) -> EventFlags {
        let always = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        self.tells_room = !self.writable;
        if self.tells_room { always | EventFlags::OUT } else { always }
    }

    /// Whether it waits for an event that it has not been promised.
    pub(super) const fn asks_for_room(&self) -> bool {
        !self.writable && !self.tells_room
    }

    /// Takes in what an event tells.
    pub(super) fn learn(&mut self, events: EventFlags) {
        let life = if events.contains(EventFlags::ERR) {
            Life::Broken
        } else if events.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            Life::Ended
        } else {
            Life::GoesOn
        };
        self.life = self.life.max(life);
        self.readable |= life > Life::GoesOn || events.contains(EventFlags::IN);
        // Where it has broken, writing tells so too.
        self.writable |= life == Life::Broken || events.contains(EventFlags::OUT);
    }

    /// Reads what is there; `None` where nothing is. `Some(0)` is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let room = buffer.len();
        match recv(&self.socket, buffer, RecvFlags::empty()) {
            Ok((count, _)) => {
                // A short read has emptied the socket: the read that would only find that out is spared (epoll(7)).
                self.readable = self.life > Life::GoesOn || count == room || count == 0;
                Ok(Some(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what can be written now; possibly nothing.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, SendFlags::empty())
    }

    /// The same, where more follows at once: it is sent together with that.
    pub(super) fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, SendFlags::MORE)
    }

    fn send(&mut self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        match send(&self.socket, bytes, flags | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => {
                self.is_full();
                Ok(0)
            }
            sent => Ok(sent?),
        }
    }

    /// It takes nothing now.
    pub(super) const fn is_full(&mut self) {
        self.writable = false;
    }

    /// Whether there is something to read, whatever has happened since it was said.
    pub(super) fn has_spoken(&self) -> bool {
        recv(&self.socket, &mut [0], RecvFlags::PEEK).is_ok_and(|(count, _)| count > 0)
    }

    /// What it has broken with.
    pub(super) fn error(&self) -> io::Error {
        match self.socket.take_error() {
            Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
            Err(error) => error,
        }
    }

    /// Makes its close a reset instead of an orderly end.
    pub(super) fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)) {
            // The peer then sees an orderly end: worse news than a reset, but an end.
            tracing::debug!(%error, "connection closed without reset");
        }
    }
}

impl AsFd for Side {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
