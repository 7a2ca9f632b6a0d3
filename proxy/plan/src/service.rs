//! What stands behind a frontend.

use std::collections::BTreeSet;

use crate::Backend;

/// The rules for one frontend. New connections are handed to the backends in turn (round robin).
///
/// A service without backends is a statement too: its clients are refused at once instead of being left to time out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The endpoints that take new connections.
    pub backends: BTreeSet<Backend>,
}
