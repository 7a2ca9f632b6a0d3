//! One client, from accept to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::Shared;
use super::connect::{Client, connect};
use super::opening::open;
use super::pump::{Meters, pump};
use super::socket::reset_on_close;
use crate::health::Event;
use crate::pool::{Lease, Refusal};
use crate::rebalance::Seat;

/// Finds a backend for `client`, who comes from `address`, and carries bytes until both have ended. What ends badly on
/// one side, ends badly on the other: a reset is passed on as a reset. Cancelling it closes both sides.
pub(super) async fn serve(client: TcpStream, address: SocketAddr, shared: &Shared) {
    let mut search = Search { client: Client { stream: &client, address }, shared, tried: Vec::new() };
    let mut link = match search.next().await {
        Ok(link) => link,
        Err(refusal) => {
            shared.metrics.refused(refusal).inc();
            reset_on_close(&client);
            return;
        }
    };
    let opened = open(&mut link, search).await;
    if let Err(error) = carry(&client, &mut link, opened, shared).await {
        tracing::trace!(%error, "connection broken");
        reset_on_close(&client);
        reset_on_close(&link.stream);
    }
}

/// Carries bytes from the backend's first answer on, which is what `opened` is about.
async fn carry(
    client: &TcpStream,
    link: &mut Link,
    opened: io::Result<Vec<u8>>,
    shared: &Shared,
) -> io::Result<()> {
    let (unsent, Link { stream, lease }) = (opened?, link);
    let seat = shared.pool.register().enter(lease.member().id);
    let bytes = Meters {
        to_backend: &shared.metrics.bytes_to_backends,
        to_client: &shared.metrics.bytes_to_clients,
        own: seat.as_ref().map(Seat::carried),
    };
    tokio::select! {
        biased;
        carried = pump(client, stream, unsent, bytes) => carried,
        ended = over(lease, seat.as_ref()) => ended,
    }
}

/// Waits until somebody wants the connection to end: in an orderly manner, or with an error.
async fn over(lease: &mut Lease, seat: Option<&Seat<'_>>) -> io::Result<()> {
    let Some(seat) = seat else {
        lease.ended().await;
        return Err(io::ErrorKind::ConnectionAborted.into());
    };
    // Apart, so that connections do not carry its weight where nothing is rebalanced.
    Box::pin(async move {
        tokio::select! {
            () = lease.ended() => Err(io::ErrorKind::ConnectionAborted.into()),
            () = seat.ended() => Ok(()),
        }
    })
    .await
}

/// A connection to a backend.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) lease: Lease,
}

/// Tries backends for one client, each at most once.
pub(super) struct Search<'connection> {
    pub(super) client: Client<'connection>,
    pub(super) shared: &'connection Shared,
    tried: Vec<usize>,
}

impl Search<'_> {
    /// The next one that accepts. Cancelling it closes the attempt.
    pub(super) async fn next(&mut self) -> Result<Link, Refusal> {
        let (pool, frontend) = (&self.shared.pool, self.shared.frontend());
        loop {
            let lease = pool.lease(&self.tried, self.client.address.ip())?;
            let member = Arc::clone(lease.member());
            self.tried.push(member.id);
            match connect(&member.backend, self.client, &frontend).await {
                Ok(stream) => {
                    member.metrics.connections.inc();
                    return Ok(Link { stream, lease });
                }
                Err(failure) => {
                    member.metrics.connect_failures(failure).inc();
                    if failure.blames_backend() {
                        let reason = format_args!("connect: {}", failure.label());
                        pool.observe(member.id, Event::ConnectFailed, &reason);
                    }
                }
            }
        }
    }
}
