//! How long a real server has been draining, by the kernel's own state.
//!
//! A server that gets nothing new has the weight 0. Its upper threshold, which then means nothing to the kernel, holds
//! the time since which that is so, in seconds since the machine's start: whoever comes next knows when it ends.

use std::time::Duration;

use plan::{ObservedBackend, Weight};

use super::message::{FoundServer, Share};

/// A server that takes connections.
pub(super) const fn serving(weight: Weight) -> Share {
    Share { weight: weight.number() as u32, upper_threshold: 0 }
}

/// A server that drains from `now` on, a time since the machine's start.
pub(super) fn draining(now: Duration) -> Share {
    // 0 is no time at all: somebody else's draining server.
    Share { weight: 0, upper_threshold: seconds(now).max(1) }
}

/// What is known of a server that may drain for `deadline`.
pub(super) fn observed(found: FoundServer, now: Duration, deadline: Duration) -> ObservedBackend {
    let draining = found.weight == 0;
    // Somebody else may have given it more than a plan can.
    let heaviest = Weight::new(u16::MAX).unwrap_or_default();
    let weight =
        u16::try_from(found.weight).map_or(heaviest, |weight| Weight::new(weight).unwrap_or_default());
    let since = Duration::from_secs(found.upper_threshold.into());
    let overdue = draining && !is_unmarked(found) && now.saturating_sub(since) >= deadline;
    ObservedBackend { weight, draining, connections: found.connections(), overdue }
}

/// Whether it drains and nobody noted since when: kube-proxy does not.
pub(super) const fn is_unmarked(found: FoundServer) -> bool {
    found.weight == 0 && found.upper_threshold == 0
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use plan::{Backend, Port};

    use super::*;

    #[test]
    fn a_server_drains_until_its_deadline_and_whoever_comes_next_knows_it() {
        let second = Duration::from_secs;
        let found = |share: Share| FoundServer {
            backend: Backend::new([10, 0, 0, 1].into(), Port::new(443).unwrap()),
            weight: share.weight,
            upper_threshold: share.upper_threshold,
            active: 1,
            inactive: 2,
            total: 9,
        };
        let left = found(draining(second(100)));
        let cases = [
            (left, 100, true, false),
            (left, 159, true, false),
            (left, 160, true, true),
            // Just after the start of the machine.
            (found(draining(Duration::ZERO)), 30, true, false),
            (found(serving(Weight::ONE)), 160, false, false),
            (found(Share { weight: 0, upper_threshold: 0 }), 1_000_000, true, false),
        ];
        for (server, now, draining, overdue) in cases {
            let expected =
                ObservedBackend { draining, connections: 3, overdue, ..ObservedBackend::default() };
            assert_eq!(observed(server, second(now), second(60)), expected, "{server:?} at {now}");
        }
        assert!(is_unmarked(found(Share { weight: 0, upper_threshold: 0 })));
        assert!(!is_unmarked(left) && !is_unmarked(found(serving(Weight::ONE))));
    }
}
