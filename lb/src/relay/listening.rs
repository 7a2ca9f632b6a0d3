//! The sockets of the frontend's addresses, before and while clients are accepted on them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use socket2::SockRef;

use super::thread::Order;
use super::{RelayError, Shared, socket};
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

    /// Accepts from now on, the sockets dealt out to the threads in turn.
    pub(super) fn accept(self, shared: &Arc<Shared>) -> Listening {
        let sockets: Vec<_> = self.sockets.into_iter().map(Arc::new).collect();
        let listening = Listening { configured: self.configured, sockets, shared: Arc::clone(shared) };
        listening.order(Order::Accept);
        listening
    }
}

/// The sockets of one address on which clients are accepted. Dropping it accepts those that wait, and closes them.
#[derive(Debug)]
pub(super) struct Listening {
    configured: SocketAddr,
    sockets: Vec<Arc<TcpListener>>,
    shared: Arc<Shared>,
}

impl Listening {
    pub(super) const fn configured(&self) -> SocketAddr {
        self.configured
    }

    pub(super) fn sockets(&self) -> &[Arc<TcpListener>] {
        &self.sockets
    }

    /// Gives the sockets the options that `frontend` asks for; clients inherit them.
    pub(super) fn change(&self, frontend: &Frontend) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| socket::change(&SockRef::from(&**socket), frontend))
    }

    /// Tells each socket's thread.
    fn order(&self, order: impl Fn(Arc<TcpListener>) -> Order) {
        for (socket, thread) in self.sockets.iter().zip(self.shared.threads.iter().cycle()) {
            thread.orders.give(order(Arc::clone(socket)));
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.order(Order::Close);
    }
}
