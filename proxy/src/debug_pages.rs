//! The pages for people who look into a component: `/statusz` and `/flagz`, as those of Kubernetes show them
//! (KEP-4827, KEP-4828). Their form is promised to nobody.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::clock;
use crate::config::flags_in_force;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

/// When a process began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    pub(crate) wall: SystemTime,
    pub(crate) clock: Instant,
}

impl Began {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { wall: clock::wall(), clock: clock::now() }
    }
}

/// The version and how long it runs.
pub(crate) fn statusz(began: Began, now: Instant) -> String {
    let started = Timestamp::try_from(began.wall).map_or_else(|_| String::new(), |time| time.to_string());
    let up = uptime(now.saturating_duration_since(began.clock));
    let version = env!("CARGO_PKG_VERSION");
    format!("\nfairway-proxy statusz\n{WARNING}\n\nStarted: {started}\nUp: {up}\nBinary version: {version}\n")
}

fn uptime(up: Duration) -> String {
    let seconds = up.as_secs();
    format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Every flag of kube-proxy with what is in force for it, wherever that was said: `document` is the whole configuration.
pub(crate) fn flagz(document: &Value) -> String {
    let flags = flags_in_force(document).into_iter().map(|(flag, value)| format!("{flag}={value}"));
    format!("\nfairway-proxy flags\n{WARNING}\n\n{}\n", flags.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_page_tells_of_the_time_that_has_passed() {
        let began = Began { wall: SystemTime::UNIX_EPOCH, clock: clock::now() };
        let page = statusz(began, began.clock + Duration::from_secs(3 * 3600 + 62));
        assert!(page.contains("\nStarted: 1970-01-01T00:00:00Z\nUp: 3 hr 01 min 02 sec\n"), "{page}");
    }

    #[test]
    fn flags_are_told_as_they_are_in_force() {
        let page = flagz(&Config::default().document);
        let lines: Vec<&str> = page.lines().skip(4).collect();
        assert!(lines.is_sorted_by_key(|line| line.split('=').next()), "{lines:?}");
        for expected in ["proxy-mode=ebpf", "cluster-cidr=", "healthz-bind-address=0.0.0.0:10256", "v=0"] {
            assert!(lines.contains(&expected), "{expected}: {page}");
        }
    }
}
