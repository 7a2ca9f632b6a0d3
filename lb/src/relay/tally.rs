//! What a thread has carried since it last told the metrics, which all threads share and which are dear to touch.

use crate::metrics::Metrics;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes.
    pub(super) to_backends: u64,
    pub(super) to_clients: u64,
}

impl Tally {
    pub(super) fn tell(&mut self, metrics: &Metrics) {
        let Self { to_backends, to_clients } = std::mem::take(self);
        if to_backends > 0 {
            metrics.bytes_to_backends.inc_by(to_backends);
        }
        if to_clients > 0 {
            metrics.bytes_to_clients.inc_by(to_clients);
        }
    }
}
