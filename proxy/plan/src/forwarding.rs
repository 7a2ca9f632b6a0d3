//! The plan of a whole node.

use std::collections::BTreeMap;

use crate::{Frontend, Service};

/// Everything a node should forward. Ordered, so that equal plans lead to equal steps in equal order.
pub type Forwarding = BTreeMap<Frontend, Service>;
