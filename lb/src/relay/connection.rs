//! One client, from accept to end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::Shared;
use super::connect::{Client, connect};
use super::pump::pump;
use super::socket::reset_on_close;
use crate::health::Event;
use crate::pool::{Lease, Refusal};

/// Finds a backend for `client`, who comes from `address`, and carries bytes until both have ended. What ends badly on
/// one side, ends badly on the other: a reset is passed on as a reset. Cancelling it closes both sides.
pub(super) async fn serve(client: TcpStream, address: SocketAddr, shared: &Shared) {
    let (backend, _lease) = match establish(Client { stream: &client, address }, shared).await {
        Ok(established) => established,
        Err(refusal) => {
            shared.metrics.refused(refusal).inc();
            reset_on_close(&client);
            return;
        }
    };
    let carried =
        pump(&client, &backend, &shared.metrics.bytes_to_backends, &shared.metrics.bytes_to_clients);
    if let Err(error) = carried.await {
        tracing::trace!(%error, "connection broken");
        reset_on_close(&client);
        reset_on_close(&backend);
    }
}

/// Tries backends, each at most once, until one accepts.
async fn establish(client: Client<'_>, shared: &Shared) -> Result<(TcpStream, Lease), Refusal> {
    let (pool, frontend) = (&shared.pool, shared.frontend());
    let mut tried = Vec::new();
    loop {
        let lease = pool.lease(&tried, client.address.ip())?;
        let member = Arc::clone(lease.member());
        match connect(&member.backend, client, &frontend).await {
            Ok(stream) => {
                member.metrics.connections.inc();
                return Ok((stream, lease));
            }
            Err(failure) => {
                member.metrics.connect_failures(failure).inc();
                if failure.blames_backend() {
                    pool.observe(
                        member.id,
                        Event::ConnectFailed,
                        &format_args!("connect: {}", failure.label()),
                    );
                }
                tried.push(member.id);
            }
        }
    }
}
