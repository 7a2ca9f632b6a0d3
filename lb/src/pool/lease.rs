//! The hold of a connection on its backend.

use std::sync::Arc;

use super::notice::Notice;
use super::{Member, Pool, Told};

/// One connection's place at a backend, from the choice of the backend to the end of the connection.
#[derive(Debug)]
pub struct Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) member: Arc<Member>,
    pub(super) notice: Notice,
}

impl Lease {
    /// Which backend.
    pub const fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// News of the backend that concern this connection.
    pub fn told(&mut self) -> Option<Told> {
        self.notice.next(&self.member.crier)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.metrics.active.dec();
        let mut state = self.pool.state();
        let Some(entry) = state.entry_mut(self.member.id) else { return };
        entry.active -= 1;
        if entry.leaving && entry.active == 0 {
            self.pool.forget_the_gone(&mut state);
        }
    }
}
