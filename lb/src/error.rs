//! Why a front door does not open, or closes unasked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use daemon::exit::{Code, Failure};

use crate::relay::RelayError;
use crate::router::RouterError;

/// Each variant is a step of [`run`](crate::run) that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The threads that serve could not be prepared.
    #[error("prepare the runtime")]
    Runtime {
        /// Why not.
        source: io::Error,
    },
    /// The metrics could not be registered.
    #[error("register metrics")]
    Metrics {
        /// Why not.
        source: prometheus::Error,
    },
    /// The admin address cannot be listened on.
    #[error("serve metrics and health on {address}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Another front door of the same configuration runs.
    #[error("a front door answers on {socket} already: stop it, or start with --take-over")]
    Running {
        /// Its control socket.
        socket: PathBuf,
    },
    /// The control socket could not be made.
    #[error("listen on {socket}")]
    Control {
        /// Its path.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A running front door could not be replaced: it goes on.
    #[error("take over from the front door behind {socket}")]
    TakeOver {
        /// Its control socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The service manager, or the sockets that it has given us, cannot be made sense of.
    #[error("understand what the service manager has given us")]
    ServiceManager {
        /// Why not.
        source: io::Error,
    },
    /// The relay could not start.
    #[error("start the relay")]
    Relay {
        /// Why not.
        #[from]
        source: RelayError,
    },
    /// Another way of forwarding takes another process: connections do not move from one to the other.
    #[error("frontend.forwarding cannot change while the front door is open: start it anew")]
    Forwarding,
    /// The kernel's virtual services could not be read or changed.
    #[error("keep the virtual services")]
    VirtualServices {
        /// Why not.
        #[from]
        source: dataplane::Error,
    },
    /// The virtual router could not start.
    #[error("start the virtual router")]
    Router {
        /// Why not.
        #[from]
        source: RouterError,
    },
    /// The process cannot be told to stop.
    #[error("listen for signals")]
    Signals {
        /// Why not.
        source: io::Error,
    },
    /// Something that should last has ended; the log says why.
    #[error("{part} has ended")]
    Ended {
        /// What has ended.
        part: &'static str,
    },
}

impl Error {
    fn code(&self) -> Code {
        match self {
            Self::Router { source: RouterError::Permission { .. } }
            | Self::Relay { source: RelayError::OpenFiles { .. } }
            | Self::VirtualServices { source: dataplane::Error::Permission { .. } } => Code::NoPermission,
            Self::VirtualServices { source: dataplane::Error::Kernel { .. } } => Code::Unavailable,
            Self::Relay { source: RelayError::CongestionControl { source, .. } }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Code::Configuration
            }
            Self::Admin { source, .. }
            | Self::Control { source, .. }
            | Self::Relay {
                source: RelayError::Listen { source, .. } | RelayError::CongestionControl { source, .. },
            } if source.kind() == io::ErrorKind::PermissionDenied => Code::NoPermission,
            Self::Runtime { .. }
            | Self::Metrics { .. }
            | Self::Admin { .. }
            | Self::Running { .. }
            | Self::Control { .. }
            | Self::TakeOver { .. }
            | Self::ServiceManager { .. }
            | Self::Relay { .. }
            | Self::VirtualServices { .. }
            | Self::Forwarding
            | Self::Router { .. }
            | Self::Signals { .. }
            | Self::Ended { .. } => Code::Failed,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error)
    }
}
