//! Waiting for a condition, with a deadline: the one place of the harness that reads the clock and sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The time now, for tests that measure.
#[expect(clippy::disallowed_methods, reason = "tests measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since 1970, comparable between processes of one machine.
#[expect(clippy::disallowed_methods, reason = "timestamps are compared between processes")]
pub fn unix_nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Returns once `condition` holds; [`Error::Timeout`] with `what` after `limit`.
///
/// `what` is the condition as a sentence: "the backup became master".
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until_some(what, limit, || Ok(condition().then_some(())))
}

/// Returns what `attempt` yields once it yields something. An error of `attempt` ends the waiting.
pub fn until_some<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), limit });
        }
        pace(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Lets `duration` pass: for tests whose subject *is* time ("nothing changes for a second"), never in place of a
/// condition.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub fn pace(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut calls = 0;
        until("three calls", Duration::from_secs(5), || {
            calls += 1;
            calls == 3
        })
        .unwrap();
        assert_eq!(calls, 3);
    }

    #[test]
    fn a_condition_that_does_not_is_named_in_the_error() {
        let error = until("pigs fly", Duration::from_millis(5), || false).unwrap_err();
        assert_eq!(format!("{error:?}"), "not within 5ms: pigs fly");
    }
}
