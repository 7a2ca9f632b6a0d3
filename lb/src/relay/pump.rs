//! Carries bytes between a client and a backend until both have ended.
//!
//! Small messages pass through one buffer per thread, bulk through a pipe that is borrowed from the thread ([`super::pipe`]).
//! Neither is held while nothing moves: an idle connection owns no buffer and no pipe. Only what a slow reader has not
//! taken yet is kept, at most [`BUFFER`] or one pipe per direction, and nothing more is read until it is gone: the
//! reader's window then closes the sender's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use prometheus::IntCounter;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::gait::Gait;
use super::pipe::Piped;
use super::vigil::Clock;

/// What is told of every byte passed on.
#[derive(Clone, Copy)]
pub(super) struct Meters<'a> {
    /// Those of all connections, to their backends.
    pub(super) to_backend: &'a IntCounter,
    /// And to their clients.
    pub(super) to_client: &'a IntCounter,
    /// Those of this connection, either way, where somebody wants to know.
    pub(super) own: Option<&'a AtomicU64>,
}

/// How carrying came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Both sides have ended.
    Over,
    /// Neither has, and nobody has spoken from one tick to the next: nothing is held, and carrying may begin anew.
    Idle,
}

/// Carries bytes both ways, `unsent` to the backend first; `bytes` is told of every byte passed on. Each direction
/// ends on its own (half-close); the second end is passed on by closing both sides, which spares a call for it. `clock`
/// is that by which idleness is found.
///
/// An error means that a side has broken: both should be reset then. What the broken side had said before has been
/// passed on. Cancelling it loses bytes, so close both sides.
pub(super) async fn pump(
    client: &TcpStream,
    backend: &TcpStream,
    unsent: &mut Vec<u8>,
    bytes: &Meters<'_>,
    clock: &mut Clock<'_>,
) -> io::Result<Carried> {
    let rest = (!unsent.is_empty()).then(|| Rest::Copied(std::mem::take(unsent)));
    let &Meters { to_backend, to_client, own } = bytes;
    let mut upward = Direction::new(client, backend, Meter { all: to_backend, own }, rest);
    let mut downward = Direction::new(backend, client, Meter { all: to_client, own }, None);
    // The first tick may come at once.
    let mut quiet = false;
    loop {
        match carry_until(clock, &mut upward, &mut downward).await {
            Ok(Carried::Over) => return Ok(Carried::Over),
            Ok(Carried::Idle) => {
                let idle = [&mut upward, &mut downward].map(Direction::was_idle) == [true; 2];
                if idle && quiet {
                    return Ok(Carried::Idle);
                }
                quiet = idle;
            }
            Err(error) => {
                // A server that answers early and closes, while the client is still sending, breaks the client's
                // direction. Its answer may be waiting in the other.
                downward.pass_last_words();
                upward.pass_last_words();
                return Err(error);
            }
        }
    }
}

/// Carries bytes until both sides have ended, or until a tick while neither has.
async fn carry_until(
    clock: &mut Clock<'_>,
    upward: &mut Direction<'_>,
    downward: &mut Direction<'_>,
) -> io::Result<Carried> {
    let (client, backend) = (upward.from, downward.from);
    let mut upward = pin!(upward.carry());
    let mut downward = pin!(downward.carry());
    // Nobody reads a side that has ended: should it break afterwards, only its error readiness tells.
    let ended = tokio::select! {
        biased;
        ended = &mut upward => {
            ended?;
            SockRef::from(backend).shutdown(Shutdown::Write)?;
            tokio::select! {
                biased;
                ended = downward => ended,
                error = Box::pin(broken_in_time(client, clock)) => Err(error),
            }
        }
        ended = &mut downward => {
            ended?;
            SockRef::from(client).shutdown(Shutdown::Write)?;
            tokio::select! {
                biased;
                ended = upward => ended,
                error = Box::pin(broken_in_time(backend, clock)) => Err(error),
            }
        }
        () = clock.tick() => return Ok(Carried::Idle),
    };
    ended.map(|()| Carried::Over)
}

/// Waits until `stream` breaks, and lets the clock go on meanwhile.
async fn broken_in_time(stream: &TcpStream, clock: &mut Clock<'_>) -> io::Error {
    tokio::select! {
        biased;
        error = broken(stream) => return error,
        () = clock.tick() => {}
    }
    broken(stream).await
}

/// One way of a connection.
struct Direction<'connection> {
    from: &'connection TcpStream,
    to: &'connection TcpStream,
    /// Told of every byte passed on.
    bytes: Meter<'connection>,
    /// What has been taken and not been passed on yet.
    rest: Option<Rest>,
    gait: Gait,
    /// Whether anything was taken lately.
    busy: bool,
}

#[derive(Clone, Copy)]
struct Meter<'connection> {
    all: &'connection IntCounter,
    own: Option<&'connection AtomicU64>,
}

impl Meter<'_> {
    fn inc_by(self, count: u64) {
        self.all.inc_by(count);
        if let Some(own) = self.own {
            own.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// What a slow reader has not taken yet: at least one byte.
enum Rest {
    Copied(Vec<u8>),
    Piped(Piped),
}

enum Passed {
    /// There was nothing to take after all.
    Nothing,
    /// So many bytes were taken, and passed on except for the rest.
    Bytes(usize),
    /// The sender has ended.
    End,
}

impl<'connection> Direction<'connection> {
    fn new(
        from: &'connection TcpStream,
        to: &'connection TcpStream,
        bytes: Meter<'connection>,
        rest: Option<Rest>,
    ) -> Self {
        Self { from, to, bytes, rest, gait: Gait::START, busy: false }
    }

    /// Whether nothing was taken since the last time, and nothing is held.
    fn was_idle(&mut self) -> bool {
        !std::mem::take(&mut self.busy) && self.rest.is_none()
    }

    /// Carries bytes until the sender ends. Cancelling it loses nothing: carrying may begin anew.
    async fn carry(&mut self) -> io::Result<()> {
        let mut share: usize = 0;
        self.hand_over().await?;
        loop {
            // By the one place that a socket has for who reads it: `readable` would put the task on a list and take it off
            // again, each time.
            poll_fn(|context| self.from.poll_read_ready(context)).await?;
            match self.pass(self.gait)? {
                Passed::Nothing => share += BUFFER,
                Passed::End => return Ok(()),
                Passed::Bytes(count) => {
                    self.busy = true;
                    self.gait = self.gait.after(count);
                    self.hand_over().await?;
                    share += count.max(BUFFER);
                }
            }
            if share >= FAIR_SHARE {
                share = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes once and passes on once, as far as either goes without waiting.
    fn pass(&mut self, gait: Gait) -> io::Result<Passed> {
        match gait {
            Gait::Copy { .. } => self.copy(),
            Gait::Splice { .. } => match Piped::take(self.from)? {
                Some(piped) => {
                    let count = piped.count();
                    self.rest = Some(Rest::Piped(piped));
                    self.pass_rest()?;
                    Ok(Passed::Bytes(count))
                }
                // Reading tells why.
                None => self.copy(),
            },
        }
    }

    fn copy(&mut self) -> io::Result<Passed> {
        SCRATCH.with_borrow_mut(|scratch| match read(self.from, scratch)? {
            None => Ok(Passed::Nothing),
            Some(0) => Ok(Passed::End),
            Some(count) => {
                let taken = write(self.to, &scratch[..count])?;
                self.bytes.inc_by(taken as u64);
                self.rest = (taken < count).then(|| Rest::Copied(scratch[taken..count].to_vec()));
                Ok(Passed::Bytes(count))
            }
        })
    }

    /// Passes on all of the rest as the receiver takes it. Meanwhile nothing is read, so a sender that breaks is watched
    /// for.
    async fn hand_over(&mut self) -> io::Result<()> {
        while self.rest.is_some() {
            // Apart, so that connections do not carry its weight whose readers are quick.
            Box::pin(room(self.to, self.from)).await?;
            self.pass_rest()?;
        }
        Ok(())
    }

    /// Passes on as much of the rest as the receiver takes now.
    fn pass_rest(&mut self) -> io::Result<()> {
        let (passed, rest) = match self.rest.take() {
            None => return Ok(()),
            Some(Rest::Copied(mut bytes)) => {
                let passed = write(self.to, &bytes)?;
                bytes.drain(..passed);
                (passed, (!bytes.is_empty()).then_some(Rest::Copied(bytes)))
            }
            Some(Rest::Piped(piped)) => {
                let (passed, piped) = piped.pass_on(self.to)?;
                (passed, piped.map(Rest::Piped))
            }
        };
        self.bytes.inc_by(passed as u64);
        self.rest = rest;
        Ok(())
    }

    /// Passes on what the sender has sent already, as far as the receiver takes it without waiting. It may do nothing:
    /// one of them is broken, and the other one need not have sent anything.
    fn pass_last_words(&mut self) {
        // What follows a gap is no word.
        if self.pass_rest().is_err() || self.rest.is_some() {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            // Not by readiness: what came with the break may not have been announced yet.
            for _ in 0..FAIR_SHARE / BUFFER {
                match (&*SockRef::from(self.from)).read(scratch) {
                    Ok(count @ 1..) => {
                        let Ok(taken) = write(self.to, &scratch[..count]) else { return };
                        self.bytes.inc_by(taken as u64);
                        if taken < count {
                            return;
                        }
                    }
                    Ok(0) | Err(_) => return,
                }
            }
        });
    }
}

/// Waits until `to` takes more, unless `from` breaks.
async fn room(to: &TcpStream, from: &TcpStream) -> io::Result<()> {
    tokio::select! {
        biased;
        writable = to.writable() => writable,
        error = broken(from) => Err(error),
    }
}

/// Waits until `stream` is reset or times out. Never looks at what it has sent.
async fn broken(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error()) {
        Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// What `from` has said by now, as far as it fits into the buffer.
pub(super) fn hear(from: &TcpStream) -> io::Result<Vec<u8>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let count = read(from, scratch)?.unwrap_or(0);
        Ok(scratch[..count].to_vec())
    })
}

/// Reads what is there; `None` where nothing is. `Some(0)` is the end.
pub(super) fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut count = None;
    let read = from.try_io(Interest::READABLE, || {
        let found = (&*SockRef::from(from)).read(buffer)?;
        count = Some(found);
        // A short read has emptied the socket: saying so spares the read that would only find that out (epoll(7)).
        if (1..buffer.len()).contains(&found) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match read {
        Ok(()) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(count),
        Err(error) => Err(error),
    }
}

/// Writes what can be written now; possibly nothing.
pub(super) fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    // Not by readiness: that a new connection takes something may not have been announced yet.
    match SockRef::from(to).send_with_flags(bytes, libc::MSG_NOSIGNAL) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            // Who waits for room waits for news.
            match to.try_io(Interest::WRITABLE, || Err::<usize, _>(error)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                written => written,
            }
        }
        written => written,
    }
}

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;
/// Bytes until others have their turn; a round that moves less than [`BUFFER`] counts as one that fills it.
const FAIR_SHARE: usize = 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

#[cfg(test)]
mod tests;
