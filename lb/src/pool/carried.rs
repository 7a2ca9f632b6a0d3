//! Connections that the kernel carries, of which the relay sees nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Pool;
use super::state::Entry;

/// What the kernel carries for one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Connections now.
    pub connections: usize,
    /// Connections that it has had since the kernel knows it.
    pub total: u64,
}

impl Pool {
    /// What the kernel carries for the backends at these addresses, and nothing for others. It is shown with what the relay
    /// carries itself.
    pub fn note_carried(&self, mut carried: BTreeMap<SocketAddr, Carried>) {
        let mut state = self.state();
        // Where a backend took the place of another one at the same address, its comes first.
        for entry in &mut state.entries {
            entry.carry(carried.remove(&entry.member.backend.address).unwrap_or_default());
        }
        self.forget_the_gone(&mut state);
    }

    /// How many connections the kernel carries.
    pub fn carried(&self) -> usize {
        self.state().entries.iter().map(|entry| entry.carried.connections).sum()
    }
}

impl Entry {
    fn carry(&mut self, carried: Carried) {
        let before = std::mem::replace(&mut self.carried, carried);
        let metrics = &self.member.metrics;
        metrics.active.sub(gauge(before.connections));
        metrics.active.add(gauge(carried.connections));
        // Of a backend that was removed and came back the kernel counts anew.
        metrics.connections.inc_by(carried.total.checked_sub(before.total).unwrap_or(carried.total));
    }
}

fn gauge(connections: usize) -> i64 {
    i64::try_from(connections).unwrap_or(i64::MAX)
}
