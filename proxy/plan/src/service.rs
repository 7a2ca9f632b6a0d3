//! What stands behind a frontend.

use std::collections::BTreeSet;

use crate::{Backend, Rules};

/// One frontend's rules, and the backends that take its new connections.
///
/// A service without backends is a statement too: its clients are refused, or dropped, and go nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// How clients are treated.
    pub rules: Rules,
    /// The endpoints that take new connections.
    pub backends: BTreeSet<Backend>,
}

/// With the default rules.
impl FromIterator<Backend> for Service {
    fn from_iter<T: IntoIterator<Item = Backend>>(backends: T) -> Self {
        Self { rules: Rules::default(), backends: backends.into_iter().collect() }
    }
}
