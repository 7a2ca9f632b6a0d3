//! One client, from accept to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Shared;
use super::connect::{Client, connect};
use super::idle::{self, Idle};
use super::listener::Place;
use super::opening::open;
use super::pump::{Carried, Meters, hear, pump};
use super::socket::reset_on_close;
use super::vigil::{Clock, Vigil};
use crate::metrics::Refusal;
use crate::pool::Lease;
use crate::rebalance::Seat;

/// A client and its backend.
#[derive(Debug)]
pub(super) struct Connection<Stream> {
    pub(super) client: Stream,
    pub(super) backend: Stream,
    vigil: Vigil,
    lease: Lease,
    place: Place,
}

/// Finds a backend for `client`, who comes from `address`, and carries bytes until both have ended. What ends badly on
/// one side, ends badly on the other: a reset is passed on as a reset. Cancelling it closes both sides.
pub(super) fn serve(
    client: TcpStream,
    address: SocketAddr,
    place: Place,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> {
    // What it takes to find a backend is not kept for as long as the connection lasts.
    let begun = Box::pin(begin(client, address, place, Arc::clone(&shared)));
    async move {
        if let Some((connection, unsent)) = begun.await {
            run(connection, unsent, shared).await;
        }
    }
}

async fn begin(
    client: TcpStream,
    address: SocketAddr,
    place: Place,
    shared: Arc<Shared>,
) -> Option<(Connection<TcpStream>, Vec<u8>)> {
    match establish(&client, address, &shared).await {
        Ok((Link { stream, lease, vigil }, unsent)) => {
            Some((Connection { client, backend: stream, vigil, lease, place }, unsent))
        }
        Err(error) => {
            tracing::trace!(%error, "connection not established");
            reset_on_close(&client);
            None
        }
    }
}

/// Goes on with a connection that was idle.
pub(super) fn resume(idle: Idle, shared: &Arc<Shared>) {
    match Connection::from_idle(idle) {
        Ok(connection) => drop(tokio::spawn(run(connection, Vec::new(), Arc::clone(shared)))),
        Err(error) => tracing::warn!(%error, "idle connection lost"),
    }
}

/// A connection to the backend that answers, and what it has not been sent yet.
async fn establish(client: &TcpStream, address: SocketAddr, shared: &Shared) -> io::Result<(Link, Vec<u8>)> {
    let said = hear(client)?;
    let client = Client { stream: client, address, spoke: !said.is_empty() };
    let mut search = Search { client, shared, tried: Vec::new() };
    let mut link = search.next().await.map_err(|refusal| {
        shared.metrics.refused(refusal).inc();
        io::Error::from(io::ErrorKind::ConnectionRefused)
    })?;
    let opened = open(&mut link, search, said).await;
    if opened.is_err() {
        reset_on_close(&link.stream);
    }
    Ok((link, opened?))
}

/// Carries bytes from the backend's first answer on, for as long as the connection lasts or until it may rest.
#[expect(clippy::manual_async_fn, reason = "an async fn has room for its arguments twice")]
fn run(
    mut connection: Connection<TcpStream>,
    mut unsent: Vec<u8>,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> {
    async move {
        let seat = shared.pool.register().enter(connection.lease.member().id);
        loop {
            match connection.carry(&mut unsent, seat.as_ref(), &shared).await {
                Ok(Carried::Over) => return,
                Ok(Carried::Idle) => connection.place.rest(),
                Err(error) => {
                    tracing::trace!(%error, "connection broken");
                    reset_on_close(&connection.client);
                    reset_on_close(&connection.backend);
                    return;
                }
            }
            // Whoever has a seat is to be watched. Whoever rests is woken when connections are told to end, but not by what
            // was said before.
            if seat.is_some() || connection.lease.has_to_end() {
                continue;
            }
            let kept = connection.into_idle().map(|idle| idle::keep(idle, &shared));
            match kept.and_then(|kept| {
                kept.map_or_else(|idle| Connection::from_idle(idle).map(Some), |()| Ok(None))
            }) {
                Ok(Some(back)) => connection = back,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "idle connection lost");
                    return;
                }
            }
        }
    }
}

impl Connection<TcpStream> {
    async fn carry(
        &mut self,
        unsent: &mut Vec<u8>,
        seat: Option<&Seat<'_>>,
        shared: &Shared,
    ) -> io::Result<Carried> {
        let Self { client, backend, vigil, lease, .. } = self;
        let bytes = Meters {
            to_backend: &shared.metrics.bytes_to_backends,
            to_client: &shared.metrics.bytes_to_clients,
            own: seat.map(Seat::carried),
        };
        let mut clock =
            Clock { tick: &shared.tick, backend, vigil, peer_timeout: shared.frontend().peer_timeout };
        tokio::select! {
            biased;
            carried = pump(client, backend, unsent, &bytes, &mut clock) => carried,
            ended = over(lease, seat) => ended.map(|()| Carried::Over),
        }
    }

    fn into_idle(self) -> io::Result<Idle> {
        let Self { client, backend, vigil, lease, place } = self;
        Ok(Idle { client: client.into_std()?, backend: backend.into_std()?, vigil, lease, place })
    }

    fn from_idle(idle: Idle) -> io::Result<Self> {
        let Idle { client, backend, vigil, lease, place } = idle;
        let (client, backend) = (TcpStream::from_std(client)?, TcpStream::from_std(backend)?);
        Ok(Self { client, backend, vigil, lease, place })
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
    pub(super) vigil: Vigil,
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
            let began = Instant::now();
            match connect(&member.backend, self.client, &frontend).await {
                Ok(stream) => {
                    member.metrics.connections.inc();
                    return Ok(Link { stream, lease, vigil: Vigil::default() });
                }
                Err(failure) => {
                    member.metrics.connect_failures(failure).inc();
                    if failure.blames_backend() {
                        pool.connect_failed(member.id, began, failure);
                    }
                }
            }
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    const fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Where thousands come at once, this is what each of them takes until it rests.
    #[test]
    fn the_task_of_a_connection_is_small() {
        assert!(size(serve) <= 1600, "{}", size(serve));
    }
}
