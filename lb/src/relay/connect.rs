//! One attempt to reach a backend.

use std::io;
use std::net::SocketAddr;

use nix::libc;
use tokio::net::TcpStream;

use super::socket;
use crate::config::Frontend;

/// Why a connection to a backend did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer within the frontend's connect timeout.
    TimedOut,
    /// The network says that it cannot be reached.
    Unreachable,
    /// This node lacks something: ports, descriptors, memory, a permission. It says nothing about the backend.
    Local,
}

impl ConnectFailure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Local];

    /// The word for it in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
        }
    }

    /// Whether it says something about the backend.
    pub const fn blames_backend(self) -> bool {
        match self {
            Self::Refused | Self::TimedOut | Self::Unreachable => true,
            Self::Local => false,
        }
    }
}

/// Connects to `backend` within the frontend's connect timeout. Cancelling it closes the attempt.
pub(super) async fn connect(backend: SocketAddr, frontend: &Frontend) -> Result<TcpStream, ConnectFailure> {
    let socket = socket::outgoing(backend, frontend.peer_timeout).map_err(|error| failure(&error))?;
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

    #[test]
    fn numbers_are_positions() {
        for (position, failure) in ConnectFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, position);
        }
    }
}
