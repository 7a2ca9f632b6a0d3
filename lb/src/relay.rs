//! Userspace forwarding: accept, choose a backend, connect, try elsewhere, carry bytes.
//!
//! ```text
//!   per core, one thread (worker) that waits for news of all its sockets (epoll(7)):
//!
//!     door (SO_REUSEPORT) --accept--> opening: lease --> connect --> first words --> pump: bytes both ways
//!                                                ^          |             |
//!                                        Pool ---+          +-------------+--> next backend: refused, timed out, lost
//! ```
//!
//! * A connection is a value, not a task: two sockets, its place at a backend, and how far it has come. Whenever one of its
//!   sockets has news, it goes on as far as it goes without waiting. One on which nobody speaks is 150 bytes, and is not touched.
//! * It listens on every node, whatever its VRRP role (`IP_FREEBIND`): a fail-over moves an address and nothing else.
//! * With no backend up, or all of them full, a client is reset at once, never held. A backend that answers "not ready"
//!   is no stopgap: an apiserver that has not loaded its authorisation rules yet refuses requests with 403, which clients believe, while
//!   a reset makes them try again. Backends whose first probe is still on its way do not arise: the relay accepts only
//!   when [`Pool::settled`] says so, and until then clients wait in the kernel's queue, no longer than one probe may
//!   take.
//! * Clients that fit into no file descriptor wait in the kernel's queue too: [`connection_limit`] keeps descriptors
//!   back for probes, pipes and the admin server.

mod connection;
mod descriptors;
mod door;
mod gait;
mod listening;
mod opening;
mod pipe;
mod place;
mod pump;
mod side;
mod socket;
mod tally;
mod thread;
mod vitality;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::config::{CongestionControl, Frontend};
use crate::metrics::Metrics;
use crate::pool::Pool;
pub use descriptors::connection_limit;
use listening::{Bound, Listening};
use thread::{Order, Thread};
pub use vitality::Vitality;
use worker::Worker;

/// Why the relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The kernel does not offer the congestion control that is configured, or not to this user.
    #[error("frontend.congestionControl: {name} is not offered by the kernel, or not to this user")]
    CongestionControl {
        /// Which one.
        name: CongestionControl,
        /// Why not.
        source: io::Error,
    },
    /// An address of the frontend cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("start relay thread {thread}")]
    Start {
        /// Which one, from 0.
        thread: usize,
        /// Why not.
        source: io::Error,
    },
    /// The limit of open files could not be read or raised.
    #[error("raise the limit of open files to {limit}")]
    OpenFiles {
        /// The limit asked for; 0 where it could not even be read.
        limit: u64,
        /// Why not.
        source: nix::Error,
    },
}

/// A bound relay that does not accept yet.
#[derive(Debug)]
pub struct Relay {
    threads: NonZeroUsize,
    bound: Vec<Bound>,
    frontend: Frontend,
}

impl Relay {
    /// Binds each address of the frontend once per thread. From now on clients are queued by the kernel.
    ///
    /// Sockets `inherited` from somebody who listened before us are used where their address is still wanted, and closed
    /// otherwise.
    pub fn bind(
        frontend: &Frontend,
        threads: NonZeroUsize,
        mut inherited: Vec<TcpListener>,
    ) -> Result<Self, RelayError> {
        let bound = bind(&frontend.listen, frontend, threads, &mut inherited)?;
        for socket in inherited {
            tracing::warn!(?socket, "inherited socket not wanted by the configuration: closed");
        }
        Ok(Self { threads, bound, frontend: frontend.clone() })
    }

    /// Where it listens, with the ports the kernel chose where it was asked to.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(Bound::address).collect()
    }

    /// Accepts at most `limit` connections at a time until [`Running::stop`].
    pub fn start(self, pool: &Arc<Pool>, metrics: &Metrics, limit: usize) -> Result<Running, RelayError> {
        let fail = |thread| move |source| RelayError::Start { thread, source };
        let threads = 0..self.threads.get();
        let told = threads.clone().map(|thread| Thread::new().map_err(fail(thread)));
        let shared = Arc::new(Shared {
            pool: Arc::clone(pool),
            metrics: metrics.clone(),
            frontend: RwLock::new(Arc::new(self.frontend)),
            limit,
            free: AtomicUsize::new(limit),
            new: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            accepting: AtomicUsize::new(0),
            threads: told.collect::<Result<_, _>>()?,
        });
        let mut running = Running { shared, handles: Vec::new(), listening: Vec::new(), asked: Vec::new() };
        for thread in threads {
            let worker = Worker::new(thread, Arc::clone(&running.shared)).map_err(fail(thread))?;
            pool.add_bell(running.shared.threads[thread].orders.bell());
            let builder = std::thread::Builder::new().name(format!("relay-{thread}"));
            running.handles.push(builder.spawn(move || worker.run()).map_err(fail(thread))?);
        }
        running.accept(self.bound);
        Ok(running)
    }
}

fn bind(
    addresses: &[SocketAddr],
    frontend: &Frontend,
    threads: NonZeroUsize,
    inherited: &mut Vec<TcpListener>,
) -> Result<Vec<Bound>, RelayError> {
    if let Some(name) = &frontend.congestion_control {
        let fail = |source| RelayError::CongestionControl { name: name.clone(), source };
        socket::try_congestion_control(name).map_err(fail)?;
    }
    addresses.iter().map(|&address| Bound::bind(address, frontend, threads, inherited)).collect()
}

/// What the threads of one relay share.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    metrics: Metrics,
    frontend: RwLock<Arc<Frontend>>,
    /// How many connections there may be.
    limit: usize,
    /// How many more there may be.
    free: AtomicUsize,
    /// How many have never been idle yet.
    new: AtomicUsize,
    /// How many listeners wait for connections to end.
    waiting: AtomicUsize,
    /// How many listeners should accept, of all threads.
    listeners: AtomicUsize,
    /// How many do.
    accepting: AtomicUsize,
    threads: Vec<Thread>,
}

impl Shared {
    /// The settings as they are now.
    fn frontend(&self) -> Arc<Frontend> {
        // Nothing that holds the lock can panic.
        Arc::clone(&self.frontend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often each thread has got round to its work.
    fn beats(&self) -> Vec<u64> {
        self.threads.iter().map(Thread::beats).collect()
    }

    /// Lets every thread look for what there is to do.
    fn ring(&self) {
        self.threads.iter().for_each(|thread| thread.orders.bell().ring());
    }
}

/// A relay that accepts. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    listening: Vec<Listening>,
    /// How often each thread had got round to its work when that was asked last.
    asked: Vec<u64>,
}

/// Another frontend for a relay that runs: all that can fail has been done, and nothing has changed yet.
#[derive(Debug)]
pub struct Change {
    frontend: Frontend,
    bound: Vec<Bound>,
}

impl Change {
    /// Where it will listen in addition, with the ports the kernel chose where it was asked to.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(Bound::address).collect()
    }
}

impl Running {
    /// Whether every thread accepts on every address. False for a moment after the start.
    pub fn accepts(&self) -> bool {
        !self.listening.is_empty() && self.vitality().beats().is_some()
    }

    /// For those who want to know whether it works.
    pub fn vitality(&self) -> Vitality {
        Vitality(Arc::clone(&self.shared))
    }

    /// Whether no thread has ended by itself.
    pub fn is_running(&self) -> bool {
        !self.handles.iter().any(JoinHandle::is_finished)
    }

    /// How many connections it carries now, those being established included.
    pub fn connections(&self) -> usize {
        self.shared.limit - self.shared.free.load(Ordering::Relaxed)
    }

    /// Whether there are connections that have never been idle yet: a client may still be in the middle of its first request.
    /// Once the relay is [closed](Self::close), who waits to be accepted counts as well.
    pub fn has_new(&self) -> bool {
        let some = |count: &AtomicUsize| count.load(Ordering::Acquire) > 0;
        (self.listening.is_empty() && some(&self.shared.accepting)) || some(&self.shared.new)
    }

    /// Further descriptors of the sockets that it accepts on, for [`Relay::bind`] of a successor: both accept from the same
    /// queues, and no client is lost when one of them ends.
    pub fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        let sockets = self.listening.iter().flat_map(Listening::sockets);
        sockets.map(|socket| Ok(socket.as_fd().try_clone_to_owned()?.into())).collect()
    }

    /// Accepts no more and goes on with the connections it has, however long they take.
    pub fn close(&mut self) {
        self.listening.clear();
        self.count_listeners();
    }

    /// Whether every thread does what it is asked, asked at the last time this was called. True at the first.
    pub fn is_responsive(&mut self) -> bool {
        let beats = self.shared.beats();
        let asked = std::mem::replace(&mut self.asked, beats);
        self.shared.ring();
        asked.iter().zip(&self.asked).all(|(then, now)| then != now)
    }

    /// Binds the addresses that `frontend` adds. From now on clients of these are queued by the kernel.
    pub fn prepare(&self, frontend: &Frontend) -> Result<Change, RelayError> {
        let is_new = |address: &SocketAddr| !self.listening.iter().any(|it| it.configured() == *address);
        let added: Vec<SocketAddr> = frontend.listen.iter().copied().filter(is_new).collect();
        let threads = NonZeroUsize::new(self.handles.len()).unwrap_or(NonZeroUsize::MIN);
        let bound = bind(&added, frontend, threads, &mut Vec::new())?;
        Ok(Change { frontend: frontend.clone(), bound })
    }

    /// Goes on with another frontend: accepts on new addresses before it closes those no longer wanted. Connections stay,
    /// those that came by a closed address included; what is set on a socket holds for later ones.
    pub fn change(&mut self, change: Change) -> Result<(), RelayError> {
        let Change { frontend, bound } = change;
        for listening in &self.listening {
            let fail = |source| RelayError::Listen { address: listening.configured(), source };
            listening.change(&frontend).map_err(fail)?;
        }
        let wanted = frontend.listen.clone();
        *self.shared.frontend.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(frontend);
        self.shared.ring();
        self.accept(bound);
        self.listening.retain(|listening| wanted.contains(&listening.configured()));
        self.count_listeners();
        Ok(())
    }

    fn accept(&mut self, bound: Vec<Bound>) {
        self.listening.extend(bound.into_iter().map(|bound| bound.accept(&self.shared)));
        self.count_listeners();
    }

    fn count_listeners(&self) {
        let listeners = self.listening.iter().map(|listening| listening.sockets().len()).sum();
        self.shared.listeners.store(listeners, Ordering::Relaxed);
    }

    /// Accepts no more, closes all connections and waits for the threads: milliseconds.
    pub fn stop(mut self) {
        self.order_stop();
        for thread in self.handles.drain(..) {
            if thread.join().is_err() {
                tracing::error!("relay thread had panicked");
            }
        }
    }

    fn order_stop(&self) {
        self.shared.threads.iter().for_each(|thread| thread.orders.give(Order::Stop));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.order_stop();
    }
}
