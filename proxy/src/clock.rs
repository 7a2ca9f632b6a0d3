//! The one place of this crate that reads the clocks. Decisions are told the time.

use std::time::{Instant, SystemTime};

/// For measuring and waiting.
#[expect(clippy::disallowed_methods, reason = "the shells' only source of time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// For time stamps that others read or wrote.
#[expect(clippy::disallowed_methods, reason = "the shells' only source of time")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
