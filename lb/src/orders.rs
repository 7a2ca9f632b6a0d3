//! What a thread that waits for events is told by others.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bell::Bell;

/// The orders that a thread has not seen yet.
#[derive(Debug)]
pub(crate) struct Orders<Order> {
    list: Mutex<Vec<Order>>,
    bell: Arc<Bell>,
}

impl<Order> Orders<Order> {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { list: Mutex::default(), bell: Arc::new(Bell::new()?) })
    }

    /// Rings when there are orders, and whenever else the thread is to look for what there is to do.
    pub(crate) const fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    pub(crate) fn give(&self, order: Order) {
        self.list().push(order);
        self.bell.ring();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// The orders so far, oldest first. The bell rings no more until it is rung again.
    pub(crate) fn take(&self) -> Vec<Order> {
        self.bell.silence();
        std::mem::take(&mut *self.list())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Order>> {
        // Nothing that holds the lock can panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
