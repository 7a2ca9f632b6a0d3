//! The sockets of the frontend's addresses, before and while clients are accepted on them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{RelayError, Shared, listener, socket};
use crate::config::Frontend;

/// The sockets of one address: one for each thread of the relay, or more.
#[derive(Debug)]
pub(super) struct Bound {
    /// As configured: the port may be 0.
    configured: SocketAddr,
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Bound {
    /// Listens on `configured`: on those of the `inherited` sockets that do, all of which are taken because clients may be
    /// waiting in their queues, or else on new ones. From now on clients are queued by the kernel.
    pub(super) fn bind(
        configured: SocketAddr,
        frontend: &Frontend,
        threads: NonZeroUsize,
        inherited: &mut Vec<TcpListener>,
    ) -> Result<Self, RelayError> {
        let mut address = configured;
        let is_ours = |socket: &mut TcpListener| socket.local_addr().is_ok_and(|found| found == configured);
        let mut sockets: Vec<TcpListener> = inherited.extract_if(.., is_ours).collect();
        let inherited = sockets.len();
        for socket in &sockets {
            let fail = |source| RelayError::Listen { address, source };
            socket.set_nonblocking(true).map_err(fail)?;
            socket::change(&SockRef::from(socket), frontend).map_err(fail)?;
        }
        while sockets.len() < threads.get() {
            let fail = |source| RelayError::Listen { address, source };
            let listener = match sockets.len().checked_rem(inherited) {
                // Whoever made them may not have allowed others beside them: threads share one then.
                Some(position) => sockets[position].try_clone().map_err(fail)?,
                None => socket::listen(address, frontend).map_err(fail)?,
            };
            // Where the kernel was to choose a port, all threads share its choice.
            address = listener.local_addr().map_err(fail)?;
            sockets.push(listener);
        }
        Ok(Self { configured, address, sockets })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts from now on, the sockets dealt out to `threads` in turn.
    pub(super) fn accept(self, threads: &[Handle], shared: &Arc<Shared>) -> Result<Listening, RelayError> {
        let Self { configured, address, sockets } = self;
        let mut listening =
            Listening { configured, sockets: Vec::new(), tasks: Vec::new(), stop: watch::Sender::new(false) };
        for (socket, thread) in sockets.into_iter().zip(threads.iter().cycle()) {
            let socket = {
                let _entered = thread.enter();
                let fail = |source| RelayError::Listen { address, source };
                Arc::new(tokio::net::TcpListener::from_std(socket).map_err(fail)?)
            };
            let stopped = listening.stop.subscribe();
            let task = listener::accept(Arc::clone(&socket), Arc::clone(shared), stopped);
            listening.tasks.push(thread.spawn(task));
            listening.sockets.push(socket);
        }
        Ok(listening)
    }
}

/// The sockets of one address on which clients are accepted. Dropping it accepts those that wait, and closes them.
#[derive(Debug)]
pub(super) struct Listening {
    configured: SocketAddr,
    sockets: Vec<Arc<tokio::net::TcpListener>>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Listening {
    pub(super) const fn configured(&self) -> SocketAddr {
        self.configured
    }

    pub(super) fn sockets(&self) -> &[Arc<tokio::net::TcpListener>] {
        &self.sockets
    }

    /// Whether no task has ended by itself.
    pub(super) fn is_running(&self) -> bool {
        !self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Gives the sockets the options that `frontend` asks for; clients inherit them.
    pub(super) fn change(&self, frontend: &Frontend) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| socket::change(&SockRef::from(&**socket), frontend))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
