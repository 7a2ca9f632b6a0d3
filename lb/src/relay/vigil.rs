//! Finding out that a backend has vanished.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::socket;

/// Whether the kernel watches over a backend. It begins to when a connection is no longer young, which spares the short ones
/// the calls: the time within which a backend is found out that has vanished is seconds, and a connection is young for a
/// fraction of one.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    begun: bool,
}

impl Vigil {
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn begin(&mut self, backend: &TcpStream, peer_timeout: Duration) {
        self.begun = true;
        if let Err(error) = socket::watch_over(&SockRef::from(backend), peer_timeout) {
            tracing::debug!(%error, "a backend that vanishes in silence will not be noticed");
        }
    }
}

/// By what a connection finds out that it is no longer young, or idle.
pub(super) struct Clock<'connection> {
    pub(super) tick: &'connection Notify,
    pub(super) backend: &'connection TcpStream,
    pub(super) vigil: &'connection mut Vigil,
    /// For the vigil.
    pub(super) peer_timeout: Duration,
}

impl Clock<'_> {
    /// Waits for the next tick, by which the vigil begins. Cancelling it loses nothing.
    pub(super) async fn tick(&mut self) {
        self.tick.notified().await;
        if !self.vigil.has_begun() {
            self.vigil.begin(self.backend, self.peer_timeout);
        }
    }
}
