//! What stands behind a frontend.

use std::collections::BTreeMap;

use crate::{Backend, Rules, Weight};

/// One frontend's rules, and the backends that take its new connections.
///
/// A service without backends is a statement too: its clients are refused, or dropped, and go nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// How clients are treated.
    pub rules: Rules,
    /// The endpoints that take new connections, and their shares. What a scheduler makes of shares is its own: in turn
    /// they are all alike, and by weight or by a hash they are not.
    pub backends: BTreeMap<Backend, Weight>,
}

/// With the default rules, and all alike.
impl FromIterator<Backend> for Service {
    fn from_iter<T: IntoIterator<Item = Backend>>(backends: T) -> Self {
        let backends = backends.into_iter().map(|backend| (backend, Weight::ONE));
        Self { rules: Rules::default(), backends: backends.collect() }
    }
}
