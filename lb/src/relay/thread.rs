//! What others tell one thread of the relay, and see of it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::orders::Orders;

/// Apart from others in memory: it is written to whenever its thread gets round to its work.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Thread {
    pub(super) orders: Orders<Order>,
    /// How often it has got round to its work.
    beats: AtomicU64,
}

#[derive(Debug)]
pub(super) enum Order {
    /// Accept clients on this socket.
    Accept(Arc<TcpListener>),
    /// Accept whoever waits there already, and nobody else.
    Close(Arc<TcpListener>),
    /// Close all connections, and end.
    Stop,
}

impl Thread {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { orders: Orders::new()?, beats: AtomicU64::new(0) })
    }

    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}
