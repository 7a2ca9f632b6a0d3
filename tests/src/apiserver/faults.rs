//! What a real apiserver does on a bad day, on demand.

use serde::{Deserialize, Serialize};

/// The faults in force. The default is none.
///
/// As JSON it is the body of `POST /fairway-test/faults`, which replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// `/readyz` answers 500 as in a graceful shutdown; `/livez` and everything else go on.
    pub unready: bool,
    /// Every answer is late by this.
    pub delay_milliseconds: u64,
    /// The server ends every watch after this.
    pub watch_lifetime_milliseconds: Option<u64>,
    /// A watch from a forgotten revision is answered by HTTP status 410 instead of by an ERROR event.
    pub gone_as_status: bool,
    /// Requests that are refused.
    pub refusals: Vec<Refuse>,
}

/// Refuses some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Those whose path starts so.
    pub path: String,
    /// And whose unescaped query contains this: `continue=`, `watch=true`.
    #[serde(default)]
    pub query: String,
    /// The HTTP status to answer.
    pub status: u16,
    /// With this `Retry-After`.
    #[serde(default)]
    pub retry_after_seconds: Option<u64>,
    /// How many times; `None`: until the faults are replaced.
    #[serde(default)]
    pub times: Option<u32>,
}

impl Refuse {
    /// Refuses every request below `path` with `status`.
    pub fn all(path: &str, status: u16) -> Self {
        Self { path: path.to_owned(), query: String::new(), status, retry_after_seconds: None, times: None }
    }
}

impl Faults {
    /// The status, and the `Retry-After`, to refuse this request with, if it is to be. Counts.
    pub(crate) fn refuse(&mut self, path: &str, query: &str) -> Option<(u16, Option<u64>)> {
        let hit = self.refusals.iter_mut().find(|refuse| {
            path.starts_with(&refuse.path) && query.contains(&refuse.query) && refuse.times != Some(0)
        })?;
        hit.times = hit.times.map(|times| times - 1);
        Some((hit.status, hit.retry_after_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_hits_what_it_names_as_often_as_it_says() {
        let rule = Refuse {
            query: "continue=".to_owned(),
            times: Some(1),
            retry_after_seconds: Some(3),
            ..Refuse::all("/api/v1/services", 410)
        };
        let mut faults = Faults { refusals: vec![rule], ..Faults::default() };
        assert_eq!(faults.refuse("/api/v1/endpoints", "continue=x"), None);
        assert_eq!(faults.refuse("/api/v1/services", "limit=5"), None);
        assert_eq!(faults.refuse("/api/v1/services", "limit=5&continue=x"), Some((410, Some(3))));
        assert_eq!(faults.refuse("/api/v1/services", "limit=5&continue=x"), None);
    }
}
