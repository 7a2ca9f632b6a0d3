//! Carries bytes between a client and a backend until both have ended.
//!
//! Bytes pass through one buffer per thread, which is borrowed between two system calls and never across an await: an
//! idle connection owns no buffer. Only what a slow reader has not taken yet is kept, at most [`BUFFER`] per direction,
//! and nothing more is read until it is gone: the reader's window then closes the sender's.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::pin;

use prometheus::IntCounter;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Carries bytes both ways; the counters are told of every byte passed on. Each direction ends on its own (half-close).
///
/// An error means that a side has broken: both should be reset then. What the broken side had said before has been
/// passed on. Cancelling it loses bytes, so close both sides.
pub(super) async fn pump(
    client: &TcpStream,
    backend: &TcpStream,
    to_backend: &IntCounter,
    to_client: &IntCounter,
) -> io::Result<()> {
    let carried = carry_both(client, backend, to_backend, to_client).await;
    if carried.is_err() {
        // A server that answers early and closes, while the client is still sending, breaks the client's direction.
        // Its answer may be waiting in the other.
        pass_last_words(backend, client, to_client);
        pass_last_words(client, backend, to_backend);
    }
    carried
}

async fn carry_both(
    client: &TcpStream,
    backend: &TcpStream,
    to_backend: &IntCounter,
    to_client: &IntCounter,
) -> io::Result<()> {
    let mut upward = pin!(carry(client, backend, to_backend));
    let mut downward = pin!(carry(backend, client, to_client));
    // Nobody reads a side that has ended: should it break afterwards, only its error readiness tells.
    tokio::select! {
        ended = &mut upward => {
            ended?;
            tokio::select! {
                biased;
                ended = downward => ended,
                error = broken(client) => Err(error),
            }
        }
        ended = &mut downward => {
            ended?;
            tokio::select! {
                biased;
                ended = upward => ended,
                error = broken(backend) => Err(error),
            }
        }
    }
}

/// Carries bytes one way until `from` ends, and passes the end on.
async fn carry(from: &TcpStream, to: &TcpStream, bytes: &IntCounter) -> io::Result<()> {
    let mut rounds: u32 = 0;
    loop {
        from.readable().await?;
        match pass(from, to)? {
            Passed::Nothing => {}
            Passed::End => return SockRef::from(to).shutdown(Shutdown::Write),
            Passed::Bytes { taken, leftover } => {
                bytes.inc_by(taken as u64);
                if !leftover.is_empty() {
                    hand_over(&leftover, from, to).await?;
                    bytes.inc_by(leftover.len() as u64);
                }
            }
        }
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(FAIR_ROUNDS) {
            tokio::task::yield_now().await;
        }
    }
}

enum Passed {
    /// There was nothing to read after all.
    Nothing,
    /// `taken` bytes were written; `leftover` was read and could not be.
    Bytes { taken: usize, leftover: Vec<u8> },
    /// The sender has ended.
    End,
}

/// Reads once and writes once, as far as either goes without waiting.
fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<Passed> {
    SCRATCH.with_borrow_mut(|scratch| match read(from, scratch)? {
        None => Ok(Passed::Nothing),
        Some(0) => Ok(Passed::End),
        Some(count) => {
            let taken = write(to, &scratch[..count])?;
            Ok(Passed::Bytes { taken, leftover: scratch[taken..count].to_vec() })
        }
    })
}

/// Passes on what `from` has sent already, as far as `to` takes it without waiting. It may do nothing: one of them is
/// broken, and the other one need not have sent anything.
fn pass_last_words(from: &TcpStream, to: &TcpStream, bytes: &IntCounter) {
    SCRATCH.with_borrow_mut(|scratch| {
        // Not by readiness: what came with the break may not have been announced yet.
        for _ in 0..FAIR_ROUNDS {
            match (&*SockRef::from(from)).read(scratch) {
                Ok(count @ 1..) => match write(to, &scratch[..count]) {
                    Ok(taken) if taken == count => bytes.inc_by(taken as u64),
                    Ok(_) | Err(_) => return,
                },
                Ok(0) | Err(_) => return,
            }
        }
    });
}

/// Writes all of `leftover` as `to` takes it. Meanwhile nothing is read, so a sender that breaks is watched for.
async fn hand_over(leftover: &[u8], from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut rest = leftover;
    while !rest.is_empty() {
        tokio::select! {
            biased;
            writable = to.writable() => writable?,
            error = broken(from) => return Err(error),
        }
        rest = &rest[write(to, rest)?..];
    }
    Ok(())
}

/// Waits until `stream` is reset or times out. Never looks at what it has sent.
async fn broken(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error()) {
        Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// Reads what is there; `None` where nothing is. `Some(0)` is the end.
fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
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
fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

/// Bytes read at a time, and so the most that one direction of a connection can hold.
const BUFFER: usize = 64 * 1024;
/// Rounds until others have their turn: a mebibyte at most.
const FAIR_ROUNDS: u32 = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}
