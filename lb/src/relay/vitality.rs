//! Whether the relay gets round to its work, as others can tell.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::router::Witness;

/// Tells from outside whether a relay works, without waiting for anything it does.
#[derive(Clone, Debug)]
pub struct Vitality(pub(super) Arc<Shared>);

impl Vitality {
    /// One number per thread, each of which changes at least five times a second for as long as the thread gets round to
    /// its work; `None` while a listener does not accept.
    pub fn beats(&self) -> Option<Vec<u64>> {
        let shared = &self.0;
        let accepts = shared.accepting.load(Ordering::Relaxed) >= shared.listeners.load(Ordering::Relaxed);
        accepts.then(|| shared.beats())
    }
}

impl Witness for Vitality {
    fn relay_beats(&self) -> Option<Vec<u64>> {
        self.beats()
    }

    fn sees_backend(&self) -> Option<bool> {
        self.0.pool.sees_backend()
    }
}
