//! Userspace forwarding: accept, choose a backend, connect, try elsewhere, carry bytes.
//!
//! ```text
//!   per core, one thread with one single-threaded runtime:
//!
//!     listener (SO_REUSEPORT) --accept--> one task per connection: lease --> connect --> pump
//!                                                 ^                            |
//!                                         Pool ---+      next backend <--------+ refused, timed out
//! ```
//!
//! * It listens on every node, whatever its VRRP role (`IP_FREEBIND`): a fail-over moves an address and nothing else.
//! * With no backend up a client is reset at once, never held. A backend that answers "not ready" is no stopgap: an
//!   apiserver that has not loaded its authorisation rules yet refuses requests with 403, which clients believe, while
//!   a reset makes them try again. Backends whose first probe is still on its way do not arise: the relay accepts only
//!   when [`Pool::settled`] says so, and until then clients wait in the kernel's queue, no longer than one probe may
//!   take.
//! * Clients that fit into no file descriptor wait in the kernel's queue too: [`connection_limit`] keeps descriptors
//!   back for probes, pipes and the admin server.

pub mod balance;
mod connect;
mod connection;
mod gait;
mod listener;
mod pipe;
mod pump;
mod socket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{CongestionControl, Frontend};
use crate::metrics::Metrics;
use crate::pool::Pool;

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
    /// Of each thread, one for every address of the frontend.
    listeners: Vec<Vec<TcpListener>>,
    frontend: Frontend,
}

impl Relay {
    /// Binds each address of the frontend once per thread. From now on clients are queued by the kernel.
    pub fn bind(frontend: &Frontend, threads: NonZeroUsize) -> Result<Self, RelayError> {
        if let Some(name) = &frontend.congestion_control {
            let fail = |source| RelayError::CongestionControl { name: name.clone(), source };
            socket::try_congestion_control(name).map_err(fail)?;
        }
        let mut addresses = frontend.listen.clone();
        let listen = |address: &mut SocketAddr| {
            let fail = |source| RelayError::Listen { address: *address, source };
            let listener = socket::listen(*address, frontend).map_err(fail)?;
            // Where the kernel was to choose a port, all threads share its choice.
            *address = listener.local_addr().map_err(fail)?;
            Ok(listener)
        };
        let of_thread = |_| addresses.iter_mut().map(listen).collect::<Result<_, RelayError>>();
        let listeners = (0..threads.get()).map(of_thread).collect::<Result<_, _>>()?;
        Ok(Self { listeners, frontend: Frontend { listen: addresses, ..frontend.clone() } })
    }

    /// Where it listens, with the ports the kernel chose where it was asked to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.frontend.listen
    }

    /// Accepts at most `limit` connections at a time until [`Running::stop`].
    pub fn start(self, pool: &Arc<Pool>, metrics: &Metrics, limit: usize) -> Result<Running, RelayError> {
        let shared = Arc::new(Shared {
            pool: Arc::clone(pool),
            metrics: metrics.clone(),
            frontend: self.frontend,
            free: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            accepting: AtomicUsize::new(0),
        });
        let mut running =
            Running { shared: Arc::clone(&shared), stop: watch::Sender::new(false), threads: Vec::new() };
        for (thread, listeners) in self.listeners.into_iter().enumerate() {
            let fail = |source| RelayError::Start { thread, source };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
            let mut accepting = JoinSet::new();
            for listener in listeners {
                let _entered = runtime.enter();
                let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
                accepting.spawn(listener::accept(listener, Arc::clone(&shared), running.stop.subscribe()));
            }
            let name = format!("relay-{thread}");
            // Dropping the runtime closes the connections of this thread.
            let work = move || runtime.block_on(accepting.join_all());
            running.threads.push(thread::Builder::new().name(name).spawn(work).map_err(fail)?);
        }
        Ok(running)
    }
}

/// What the threads of one relay share.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    metrics: Metrics,
    frontend: Frontend,
    /// One permit per connection that may still be accepted.
    free: Arc<Semaphore>,
    /// How many listeners accept, of all threads.
    accepting: AtomicUsize,
}

/// A relay that accepts. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<Vec<()>>>,
}

impl Running {
    /// Whether every thread accepts on every address. False for a moment after the start.
    pub fn accepts(&self) -> bool {
        let listeners = self.threads.len() * self.shared.frontend.listen.len();
        self.shared.accepting.load(Ordering::Relaxed) == listeners
    }

    /// Whether no thread has ended by itself.
    pub fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Accepts no more, closes all connections and waits for the threads: milliseconds.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("relay thread had panicked");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// How many connections the descriptors of this process suffice for where `threads` carry them, after raising the limit
/// of descriptors as far as allowed.
pub fn connection_limit(threads: NonZeroUsize) -> Result<usize, RelayError> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|source| RelayError::OpenFiles { limit: 0, source })?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(|source| RelayError::OpenFiles { limit: hard, source })?;
    }
    Ok(connections_within(hard, threads))
}

fn connections_within(descriptors: u64, threads: NonZeroUsize) -> usize {
    let threads = u64::try_from(threads.get()).unwrap_or(u64::MAX);
    let reserved = threads.saturating_mul(pipe::DESCRIPTORS_PER_THREAD).saturating_add(RESERVED_DESCRIPTORS);
    let connections = descriptors.saturating_sub(reserved) / DESCRIPTORS_PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

/// For listeners, runtimes, probes, the virtual router and the admin server.
const RESERVED_DESCRIPTORS: u64 = 128;
/// The client's and the backend's.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_back_for_everything_else() {
        let cases = [
            (0, 1, 1),
            (160, 1, 1),
            (256, 1, 48),
            (1024, 1, 432),
            (1024, 2, 416),
            (1024, 64, 1),
            (20_000, 2, 9904),
            (1_048_576, 2, 524_192),
        ];
        for (descriptors, threads, connections) in cases {
            let threads = NonZeroUsize::new(threads).unwrap();
            assert_eq!(connections_within(descriptors, threads), connections, "{descriptors} {threads}");
        }
    }
}
