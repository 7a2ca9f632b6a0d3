//! One client, from accept to end.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::Shared;
use super::connect::connect;
use super::pump::pump;
use super::socket::reset_on_close;
use crate::health::Event;
use crate::pool::Lease;

/// Finds a backend for `client` and carries bytes until both have ended. What ends badly on one side, ends badly on
/// the other: a reset is passed on as a reset. Cancelling it closes both sides.
pub(super) async fn serve(client: TcpStream, shared: &Shared) {
    let Some((backend, _lease)) = establish(shared).await else {
        shared.metrics.refused.inc();
        reset_on_close(&client);
        return;
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
async fn establish(shared: &Shared) -> Option<(TcpStream, Lease)> {
    let (pool, frontend) = (&shared.pool, shared.frontend());
    let mut tried = Vec::new();
    while let Some(lease) = pool.lease(&tried) {
        let member = Arc::clone(lease.member());
        match connect(member.backend.address, &frontend).await {
            Ok(stream) => {
                member.metrics.connections.inc();
                return Some((stream, lease));
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
    None
}
