//! Connections on which nobody has spoken for a while.
//!
//! All that is kept of one is two descriptors and its place at a backend: no task, and no registration with the runtime,
//! which together take many times as much memory. Each thread has an epoll instance of its own for them, whose readiness
//! its runtime watches. A connection goes on when either side says something, ends or breaks, or when it has to end.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Shared;
use super::connection::{Connection, resume};

/// A connection that rests.
pub(super) type Idle = Connection<TcpStream>;

/// Lets connections rest on the thread of this runtime from now on.
#[expect(deprecated, reason = "a descriptor that is owned is what it asks for; what replaces it is unsafe")]
pub(super) fn start(runtime: &Handle, shared: &Arc<Shared>) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let readiness = {
        let _entered = runtime.enter();
        AsyncFd::with_interest(epoll.0.try_clone()?, Interest::READABLE)?
    };
    let ends = shared.pool.ends();
    runtime.spawn(watch_over(
        Resting { epoll, connections: Slab::new() },
        readiness,
        ends,
        Arc::clone(shared),
    ));
    Ok(())
}

/// Lets a connection rest; gives it back where that is not possible.
pub(super) fn keep(connection: Idle, shared: &Shared) -> Result<(), Idle> {
    RESTING.with_borrow_mut(|resting| match resting {
        Some(resting) => resting.keep(connection, shared),
        None => Err(connection),
    })
}

thread_local! {
    /// The connections of this thread that rest; there where its runtime watches over them.
    static RESTING: RefCell<Option<Resting>> = const { RefCell::new(None) };
}

struct Resting {
    epoll: Epoll,
    connections: Slab<Idle>,
}

impl Resting {
    fn keep(&mut self, connection: Idle, shared: &Shared) -> Result<(), Idle> {
        let entry = self.connections.vacant_entry();
        // A break is reported in any case.
        let key = entry.key() as u64;
        let event = || EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, key);
        let watched = self.epoll.add(&connection.client, event());
        if let Err(error) = watched.and_then(|()| self.epoll.add(&connection.backend, event())) {
            tracing::debug!(%error, "idle connection keeps its task");
            self.forget(&connection);
            return Err(connection);
        }
        entry.insert(connection);
        shared.metrics.idle.inc();
        Ok(())
    }

    /// Those of which there is something to say.
    fn stirred(&mut self) -> nix::Result<Vec<Idle>> {
        let mut stirred = Vec::new();
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..count] {
                // Both sides of one may have stirred.
                let connection =
                    usize::try_from(event.data()).ok().and_then(|key| self.connections.try_remove(key));
                stirred.extend(connection.inspect(|connection| self.forget(connection)));
            }
            if count < events.len() {
                return Ok(stirred);
            }
        }
    }

    fn all(&mut self) -> Vec<Idle> {
        let all: Vec<Idle> = self.connections.drain().collect();
        for connection in &all {
            self.forget(connection);
        }
        all
    }

    fn forget(&self, connection: &Idle) {
        for side in [&connection.client, &connection.backend] {
            if let Err(error) = self.epoll.delete(side) {
                tracing::debug!(%error, "idle connection was not watched");
            }
        }
    }
}

/// Lets connections go on when there is a reason to, until the runtime ends.
async fn watch_over(
    resting: Resting,
    readiness: AsyncFd<OwnedFd>,
    mut ends: watch::Receiver<()>,
    shared: Arc<Shared>,
) {
    RESTING.set(Some(resting));
    let _end = End(Arc::clone(&shared));
    loop {
        let all = tokio::select! {
            ready = readiness.readable() => match ready {
                Ok(mut ready) => {
                    // What stirs from here on is news to the runtime.
                    ready.clear_ready();
                    false
                }
                Err(error) => {
                    tracing::error!(%error, "idle connections cannot be watched");
                    return;
                }
            },
            changed = ends.changed() => {
                if changed.is_err() {
                    // Without a pool there is no connection.
                    return;
                }
                true
            }
        };
        let woken = RESTING.with_borrow_mut(|resting| match resting {
            Some(resting) if all => Ok(resting.all()),
            Some(resting) => resting.stirred(),
            None => Ok(Vec::new()),
        });
        match woken {
            Ok(woken) => {
                for connection in woken {
                    shared.metrics.idle.dec();
                    resume(connection, &shared);
                }
            }
            Err(error) => {
                tracing::error!(%error, "idle connections cannot be watched");
                return;
            }
        }
    }
}

/// Closes the connections that rest when nobody watches over them any more.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let closed = RESTING.take().map_or(0, |resting| resting.connections.len());
        self.0.metrics.idle.sub(i64::try_from(closed).unwrap_or(i64::MAX));
    }
}
