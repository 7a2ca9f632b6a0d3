//! When the next sync is due, and how much it must cover. Pure.
//!
//! A change is written at once: while one sync runs, what arrives is folded into the next. Everything is compared with
//! the kernel at the start, every sync period, and after a failure with growing delays, unless something new comes.

use std::time::{Duration, Instant};

/// After a failure the next attempt comes this soon, then after twice as long, and so on up to the sync period.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// How much a sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The frontends that changed, against the state as last written.
    Changes,
    /// Everything, against the state as read from the kernel.
    Whole,
}

/// The state of the schedule.
#[derive(Clone, Debug)]
pub(crate) struct Pacing {
    /// Least time from the end of a sync to the start of the next.
    least: Duration,
    /// Time from one whole sync to the next.
    period: Duration,
    pending: bool,
    last_end: Option<Instant>,
    /// When the next whole sync is due; `None` before the first, which is due at once.
    whole_at: Option<Instant>,
    /// The delay that follows the next failure.
    retry: Duration,
    failed: bool,
}

impl Pacing {
    /// A schedule with at least `least` between two syncs and a whole one every `period`.
    pub(crate) fn new(least: Duration, period: Duration) -> Self {
        let retry = FIRST_RETRY.min(period);
        Self { least, period, pending: false, last_end: None, whole_at: None, retry, failed: false }
    }

    /// Other times from now on.
    pub(crate) fn follow(&mut self, least: Duration, period: Duration) {
        (self.least, self.period, self.retry) = (least, period, FIRST_RETRY.min(period));
    }

    /// There is something new to write. What failed before does not hold it up for long.
    pub(crate) fn queue(&mut self) {
        self.pending = true;
        if let (true, Some(end)) = (self.failed, self.last_end) {
            self.whole_at = self.whole_at.min(Some(end + FIRST_RETRY));
        }
    }

    /// The kernel is not as it was left: a whole sync is due at once.
    pub(crate) fn distrust(&mut self) {
        self.whole_at = None;
    }

    /// What is due at `now`, if anything.
    pub(crate) fn due(&self, now: Instant) -> Option<Extent> {
        if self.earliest().is_some_and(|earliest| now < earliest) {
            return None;
        }
        match self.whole_at {
            None => Some(Extent::Whole),
            Some(at) if now >= at => Some(Extent::Whole),
            // After a failure the state as last written is a guess: only a whole sync can go on from there.
            Some(_) => (self.pending && !self.failed).then_some(Extent::Changes),
        }
    }

    /// When something will be due if nothing is queued until then; `None` is at once.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let changes_at = (self.pending && !self.failed).then(|| self.earliest()).flatten();
        changes_at.or_else(|| self.whole_at.max(self.earliest()))
    }

    /// A sync of `extent` succeeded at `now`.
    pub(crate) fn succeeded(&mut self, extent: Extent, now: Instant) {
        self.pending = false;
        self.last_end = Some(now);
        match extent {
            Extent::Changes => {}
            Extent::Whole => {
                self.whole_at = Some(now + self.period);
                self.retry = FIRST_RETRY.min(self.period);
                self.failed = false;
            }
        }
    }

    /// A sync failed at `now`, wholly or in part.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.last_end = Some(now);
        self.whole_at = Some(now + self.retry);
        self.retry = (self.retry * 2).min(self.period);
        self.failed = true;
    }

    fn earliest(&self) -> Option<Instant> {
        self.last_end.map(|end| end + self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> (Pacing, Instant) {
        #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
        let now = Instant::now();
        (Pacing::new(Duration::ZERO, 30 * SECOND), now)
    }

    #[test]
    fn it_begins_with_a_whole_sync() {
        let (pacing, now) = start();
        assert_eq!(pacing.due(now), Some(Extent::Whole));
        assert_eq!(pacing.deadline(), None);
    }

    #[test]
    fn a_change_is_due_at_once_and_quiet_is_not() {
        let (mut pacing, now) = start();
        pacing.succeeded(Extent::Whole, now);
        assert_eq!(pacing.due(now), None);
        pacing.queue();
        assert_eq!(pacing.due(now), Some(Extent::Changes));
        assert_eq!(pacing.deadline(), Some(now));
        pacing.succeeded(Extent::Changes, now);
        assert_eq!(pacing.due(now), None);
    }

    #[test]
    fn everything_is_compared_every_period() {
        let (mut pacing, now) = start();
        pacing.succeeded(Extent::Whole, now);
        assert_eq!(pacing.deadline(), Some(now + 30 * SECOND));
        assert_eq!(pacing.due(now + 29 * SECOND), None);
        pacing.succeeded(Extent::Changes, now + 29 * SECOND);
        assert_eq!(pacing.due(now + 30 * SECOND), Some(Extent::Whole), "changes do not put it off");
    }

    #[test]
    fn after_a_failure_only_a_whole_sync_follows_and_later_each_time() {
        let (mut pacing, mut now) = start();
        pacing.succeeded(Extent::Whole, now);
        let mut delays = Vec::new();
        pacing.queue();
        for _ in 0..8 {
            pacing.failed(now);
            assert_eq!(pacing.due(now), None);
            let at = pacing.deadline().expect("a deadline");
            assert_eq!(pacing.due(at), Some(Extent::Whole));
            delays.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        pacing.succeeded(Extent::Whole, now);
        pacing.failed(now);
        assert_eq!(pacing.deadline(), Some(now + FIRST_RETRY), "success forgives");
    }

    #[test]
    fn what_fails_again_and_again_does_not_hold_up_what_is_new() {
        let (mut pacing, now) = start();
        (0..8).for_each(|_| pacing.failed(now));
        assert_eq!(pacing.deadline(), Some(now + 30 * SECOND));
        pacing.queue();
        assert_eq!(pacing.deadline(), Some(now + FIRST_RETRY));
        assert_eq!(pacing.due(now + FIRST_RETRY), Some(Extent::Whole));
        pacing.failed(now + FIRST_RETRY);
        assert_eq!(pacing.deadline(), Some(now + FIRST_RETRY + 30 * SECOND), "it is as it was for the old");
    }

    #[test]
    fn the_least_interval_holds_for_everything() {
        let (_, now) = start();
        let mut pacing = Pacing::new(SECOND, 30 * SECOND);
        pacing.succeeded(Extent::Whole, now);
        pacing.queue();
        assert_eq!(pacing.due(now + SECOND / 2), None);
        assert_eq!(pacing.deadline(), Some(now + SECOND));
        assert_eq!(pacing.due(now + SECOND), Some(Extent::Changes));
    }
}
