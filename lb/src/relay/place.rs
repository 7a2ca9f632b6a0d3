//! Room for connections, as many as there are descriptors for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;

/// What a connection takes for as long as it lasts: it is counted, and another client may wait for it.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    /// It has never been idle.
    is_new: bool,
    rests: bool,
}

impl Place {
    /// A place for one more connection; `None` where there is no room.
    pub(super) fn take(shared: &Arc<Shared>) -> Option<Self> {
        let less = |free: usize| free.checked_sub(1);
        shared.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).ok()?;
        shared.new.fetch_add(1, Ordering::Release);
        Some(Self { shared: Arc::clone(shared), is_new: true, rests: false })
    }

    /// The connection is idle.
    pub(super) fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.shared.metrics.idle.inc();
        }
        self.is_no_longer_new();
    }

    /// The connection is not idle any more.
    pub(super) fn stir(&mut self) {
        if std::mem::take(&mut self.rests) {
            self.shared.metrics.idle.dec();
        }
    }

    fn is_no_longer_new(&mut self) {
        if std::mem::take(&mut self.is_new) {
            self.shared.new.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stir();
        self.is_no_longer_new();
        self.shared.free.fetch_add(1, Ordering::SeqCst);
        if self.shared.waiting.load(Ordering::SeqCst) > 0 {
            self.shared.ring();
        }
    }
}
