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

    /// Waits for news of the backend that concern this connection. Cancelling it loses nothing.
    pub async fn told(&mut self) -> Told {
        self.notice.next().await
    }

    /// Whether this connection has to end.
    pub fn has_to_end(&self) -> bool {
        self.notice.is_end()
    }

    /// Waits until this connection has to end. Cancelling it loses nothing.
    pub async fn ended(&mut self) {
        while self.told().await != Told::Ended {}
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
