//! One attempt to reach a backend.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use nix::libc;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::socket;
use crate::config::{Backend, Frontend};
use crate::health::ConnectFailure;
use crate::proxy_protocol;

/// A client that was accepted.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    /// Its connection.
    pub(super) stream: &'a TcpStream,
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// Whether something that it has said is there to be passed on.
    pub(super) spoke: bool,
}

/// Connects to `backend` within the frontend's connect timeout, and tells it who the client is where it wants to know.
/// Cancelling it closes the attempt.
pub(super) async fn connect(
    backend: &Backend,
    client: Client<'_>,
    frontend: &Frontend,
) -> Result<TcpStream, ConnectFailure> {
    let attempt = async {
        let socket = socket::outgoing(backend.address, frontend)?;
        if client.spoke {
            // The acknowledgement that ends the handshake rides along with the client's words. It must not wait for them
            // where the server may have to speak first.
            socket.set_tcp_quickack(false)?;
        }
        let stream = socket::connect(socket, backend.address).await?;
        if backend.send_proxy {
            introduce(client, &stream)?;
        }
        Ok(stream)
    };
    match tokio::time::timeout(frontend.connect_timeout, attempt).await {
        Ok(connected) => connected.map_err(|error| ConnectFailure::of(&error)),
        Err(_elapsed) => Err(ConnectFailure::TimedOut),
    }
}

/// Sends the header of the PROXY protocol: together with the client's first bytes where these are there already, or else
/// at once, for a server that speaks first must not wait.
fn introduce(client: Client<'_>, backend: &TcpStream) -> io::Result<()> {
    let header = proxy_protocol::header(client.address, client.stream.local_addr()?);
    let has_spoken = || matches!(SockRef::from(client.stream).peek(&mut [MaybeUninit::uninit()]), Ok(1..));
    let spoke = client.spoke || has_spoken();
    let flags = if spoke { libc::MSG_MORE } else { 0 };
    // The buffer of a new connection is empty: it takes all of a header.
    match SockRef::from(backend).send_with_flags(&header, flags)? {
        sent if sent == header.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
