//! Which of many equal troubles deserves a log line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::rival::Hardware;

/// Who makes trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Nobody in particular, or too many to tell apart.
    Nobody,
    /// A host, by the address it has or is sent to by.
    Host(IpAddr),
    /// A host, by its hardware.
    Hardware(Hardware),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Host(address)
    }
}

impl From<Hardware> for Source {
    fn from(mac: Hardware) -> Self {
        Self::Hardware(mac)
    }
}

/// Remembers what has been complained about: each kind and source once, then at most once a minute.
///
/// Sources are chosen by whoever is on the link, so the table is bounded. When it is full, new sources share one entry
/// per kind, that of nobody; kinds come from a closed set.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: BTreeMap<(Source, &'static str), Instant>,
}

impl Complaints {
    const PAUSE: Duration = Duration::from_mins(1);
    const CAPACITY: usize = 64;

    /// Whether to log this `kind` of trouble with `source` at `now`.
    pub(super) fn worth_a_line(
        &mut self,
        source: impl Into<Source>,
        kind: &'static str,
        now: Instant,
    ) -> bool {
        let source = source.into();
        let recent = |last: &Instant| now.saturating_duration_since(*last) < Self::PAUSE;
        if self.last.get(&(source, kind)).is_some_and(recent) {
            return false;
        }
        if self.last.len() >= Self::CAPACITY {
            self.last.retain(|_, last| recent(last));
        }
        let source = if self.last.len() < Self::CAPACITY { source } else { Source::Nobody };
        if self.last.get(&(source, kind)).is_some_and(recent) {
            return false;
        }
        self.last.insert((source, kind), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn each_kind_and_source_is_logged_once_and_then_once_a_minute() {
        let (mut complaints, start) = (Complaints::default(), start());
        let [one, other] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let steps = [
            (0, one, "checksum", true),
            (0, one, "checksum", false),
            (1, one, "version", true),
            (1, other, "checksum", true),
            (59, one, "checksum", false),
            (60, one, "checksum", true),
            (61, one, "checksum", false),
            (61, one, "version", true),
        ];
        for (seconds, source, kind, expected) in steps {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(complaints.worth_a_line(source, kind, now), expected, "{seconds} s, {source}, {kind}");
        }
    }

    #[test]
    fn ten_thousand_sources_neither_fill_memory_nor_the_log() {
        let (mut complaints, start) = (Complaints::default(), start());
        let sources = |first: u32| (first..first + 10_000).map(|number| IpAddr::from(Ipv4Addr::from(number)));
        let lines =
            sources(0x0a00_0000).filter(|&source| complaints.worth_a_line(source, "version", start)).count();
        assert_eq!(lines, Complaints::CAPACITY + 1);
        assert_eq!(complaints.last.len(), Complaints::CAPACITY + 1);
        let later = start + Duration::from_mins(1);
        assert!(complaints.worth_a_line(IpAddr::from([10, 9, 9, 9]), "version", later));
        assert_eq!(complaints.last.len(), 1);
    }
}
