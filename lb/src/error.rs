//! Why a front door does not open, or closes unasked.

use std::io;
use std::net::SocketAddr;

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
    /// The relay could not start.
    #[error("start the relay")]
    Relay {
        /// Why not.
        #[from]
        source: RelayError,
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
            | Self::Relay { source: RelayError::OpenFiles { .. } } => Code::NoPermission,
            Self::Relay { source: RelayError::CongestionControl { source, .. } }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Code::Configuration
            }
            Self::Admin { source, .. }
            | Self::Relay {
                source: RelayError::Listen { source, .. } | RelayError::CongestionControl { source, .. },
            } if source.kind() == io::ErrorKind::PermissionDenied => Code::NoPermission,
            Self::Runtime { .. }
            | Self::Metrics { .. }
            | Self::Admin { .. }
            | Self::Relay { .. }
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
