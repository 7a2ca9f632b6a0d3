//! One step towards a plan.

use std::fmt;

use crate::{Backend, Frontend, Rules, Service, Weight};

/// One step that a dataplane carries out. Every step is idempotent: adding what is there and removing what is not are
/// successes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Serve this frontend: it appears whole, with all its backends at once. Without effect where it is served already.
    AddService {
        /// What to serve.
        frontend: Frontend,
        /// How, and by whom.
        service: Service,
    },
    /// Treat the clients of this frontend otherwise from now on; its backends stay.
    SetRules {
        /// Whose clients.
        frontend: Frontend,
        /// How.
        rules: Rules,
    },
    /// Let this backend take so much of the new connections, also when it was draining or took another share.
    AddBackend {
        /// Whose backend.
        frontend: Frontend,
        /// Which backend.
        backend: Backend,
        /// Its share.
        weight: Weight,
    },
    /// Give this backend no new connections and keep those it has.
    DrainBackend {
        /// Whose backend.
        frontend: Frontend,
        /// Which backend.
        backend: Backend,
    },
    /// Forget this backend.
    RemoveBackend {
        /// Whose backend.
        frontend: Frontend,
        /// Which backend.
        backend: Backend,
    },
    /// Serve this frontend no longer; its backends go with it.
    RemoveService {
        /// What to serve no longer.
        frontend: Frontend,
    },
}

impl Change {
    /// The frontend this step is about.
    pub const fn frontend(&self) -> Frontend {
        match self {
            Self::AddService { frontend, .. }
            | Self::SetRules { frontend, .. }
            | Self::AddBackend { frontend, .. }
            | Self::DrainBackend { frontend, .. }
            | Self::RemoveBackend { frontend, .. }
            | Self::RemoveService { frontend } => *frontend,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService { frontend, service: Service { rules, backends } } => {
                write!(formatter, "add {frontend} -> {} backends, {rules}", backends.len())
            }
            Self::SetRules { frontend, rules } => write!(formatter, "set {frontend}: {rules}"),
            Self::AddBackend { frontend, backend, weight: Weight::ONE } => {
                write!(formatter, "add {frontend} -> {backend}")
            }
            Self::AddBackend { frontend, backend, weight } => {
                write!(formatter, "add {frontend} -> {backend}, weight {weight}")
            }
            Self::DrainBackend { frontend, backend } => write!(formatter, "drain {frontend} -> {backend}"),
            Self::RemoveBackend { frontend, backend } => write!(formatter, "remove {frontend} -> {backend}"),
            Self::RemoveService { frontend } => write!(formatter, "remove {frontend}"),
        }
    }
}
