//! One attempt to reach a backend.

use std::io;
use std::net::SocketAddr;

use nix::libc;
use tokio::net::TcpStream;

use super::socket;
use crate::config::Frontend;
use crate::health::ConnectFailure;

/// Connects to `backend` within the frontend's connect timeout. Cancelling it closes the attempt.
pub(super) async fn connect(backend: SocketAddr, frontend: &Frontend) -> Result<TcpStream, ConnectFailure> {
    let socket = socket::outgoing(backend, frontend).map_err(|error| failure(&error))?;
    match tokio::time::timeout(frontend.connect_timeout, socket.connect(backend)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_elapsed) => Err(ConnectFailure::TimedOut),
    }
}

fn failure(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        // A reset during the handshake is a refusal by somebody in between.
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => ConnectFailure::Refused,
        Some(libc::ETIMEDOUT) => ConnectFailure::TimedOut,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
            ConnectFailure::Unreachable
        }
        _ => ConnectFailure::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_network_says_blames_the_backend() {
        let cases = [
            (libc::ECONNREFUSED, "refused", true),
            (libc::ECONNRESET, "refused", true),
            (libc::ETIMEDOUT, "timeout", true),
            (libc::EHOSTUNREACH, "unreachable", true),
            (libc::ENETUNREACH, "unreachable", true),
            (libc::EMFILE, "local", false),
            (libc::EADDRNOTAVAIL, "local", false),
            (libc::EPERM, "local", false),
        ];
        for (code, label, blames) in cases {
            let failure = failure(&io::Error::from_raw_os_error(code));
            assert_eq!((failure.label(), failure.blames_backend()), (label, blames), "{code}");
        }
    }
}
