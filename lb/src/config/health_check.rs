//! The section `healthCheck`: what backends are asked, how often, and what follows from their answers.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use daemon::document::Section;
use hyper::StatusCode;
use hyper::http::uri::PathAndQuery;

use super::defaults;
use super::field::{INTERVALS, duration, noted};
use super::tls::{ReadFile, Tls, tls};

/// How it is found out whether a backend can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for.
    pub check: Check,
    /// Time from the start of one probe to the start of the next. A probe that takes longer is followed at once.
    pub interval: Duration,
    /// The same while the last result speaks against what is known of the backend, so that a change is known soon.
    pub fast_interval: Duration,
    /// How long a probe may take altogether, from the first SYN to the last byte of the answer.
    pub timeout: Duration,
    /// How many probes in a row must succeed before a backend takes connections again.
    pub rise: NonZeroU32,
    /// How many probes or connects in a row must fail before a backend takes no more connections.
    pub fall: NonZeroU32,
    /// How many in a row must go unanswered, or be answered by `livePath` with a server error, before the connections of a
    /// backend are reset; `None`: never. At least `fall`.
    pub kill: Option<NonZeroU32>,
    /// How long a backend may take no new connections, for whatever reason, until those that it has are ended; `None`:
    /// for ever.
    pub drain_deadline: Option<Duration>,
}

/// What a probe asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// An answer over HTTPS.
    Https(HttpCheck, Tls),
    /// An answer over plain HTTP.
    Http(HttpCheck),
    /// A TLS session.
    Tls(Tls),
    /// A connection.
    Tcp,
}

/// What is asked for over HTTP, and which answer means ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Whether it is ready.
    pub path: PathAndQuery,
    /// Asked where it is not: a server error (5xx) means that it is beyond help.
    pub live_path: PathAndQuery,
    /// The status that means ready.
    pub expect_status: ExpectedStatus,
    /// What the body must contain, within its first 64 KiB.
    pub expect_body: Option<String>,
}

/// One or more ranges of HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatus(Vec<RangeInclusive<u16>>);

impl ExpectedStatus {
    /// Whether `status` is among them.
    pub fn includes(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

pub(super) fn health_check(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<HealthCheck> {
    let check = check(section, read_file);
    let interval = duration(section, "interval", INTERVALS, defaults::INTERVAL);
    let fast = (interval / defaults::FAST_INTERVAL_DIVISOR).max(*INTERVALS.start());
    let fast_interval = duration(section, "fastInterval", INTERVALS, fast);
    if fast_interval > interval {
        section.problem("fastInterval", format!("{fast_interval:?} is longer than interval, {interval:?}"));
    }
    let timeout = duration(section, "timeout", INTERVALS, defaults::TIMEOUT);
    let rise = count(section, "rise", defaults::RISE);
    let fall = count(section, "fall", defaults::FALL);
    let kill = NonZeroU32::new(section.number::<u32>("kill", 0..=1000).unwrap_or(defaults::KILL));
    if kill.is_some_and(|kill| kill < fall) {
        section.problem("kill", format!("must be 0 or at least fall, which is {fall}"));
    }
    let drain_deadline = duration(section, "drainDeadline", DRAIN_DEADLINES, Duration::ZERO);
    let drain_deadline = (!drain_deadline.is_zero()).then_some(drain_deadline);
    let check = check?;
    Some(HealthCheck { check, interval, fast_interval, timeout, rise, fall, kill, drain_deadline })
}

#[derive(Clone, Copy)]
enum Kind {
    Https,
    Http,
    Tls,
    Tcp,
}

const KINDS: [(&str, Kind); 4] =
    [("https", Kind::Https), ("http", Kind::Http), ("tls", Kind::Tls), ("tcp", Kind::Tcp)];
const OF_HTTP: [&str; 4] = ["path", "livePath", "expectStatus", "expectBody"];

fn check(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<Check> {
    let kind = section.choice("kind", &KINDS).unwrap_or(Kind::Https);
    let http = match kind {
        Kind::Https | Kind::Http => http_check(section),
        Kind::Tls | Kind::Tcp => refuse(section, &OF_HTTP),
    };
    let tls = match kind {
        Kind::Https | Kind::Tls => {
            let tls = section.section("tls", |section| tls(section, read_file));
            section.require("tls", tls).flatten()
        }
        Kind::Http | Kind::Tcp => refuse(section, &["tls"]),
    };
    Some(match kind {
        Kind::Https => Check::Https(http?, tls?),
        Kind::Http => Check::Http(http?),
        Kind::Tls => Check::Tls(tls?),
        Kind::Tcp => Check::Tcp,
    })
}

/// What is given in vain is a mistake.
fn refuse<T>(section: &mut Section<'_>, fields: &[&str]) -> Option<T> {
    for field in fields {
        if section.has(field) {
            section.value(field);
            section.problem(field, "has no effect with this kind of check");
        }
    }
    None
}

fn http_check(section: &mut Section<'_>) -> Option<HttpCheck> {
    let ready_path = path(section, "path", defaults::PATH);
    let live_path = path(section, "livePath", defaults::LIVE_PATH);
    let expect_status = expected_status(section);
    let expect_body = section.text("expectBody").filter(|text| {
        let fits = BODIES.contains(&text.len());
        if !fits {
            let (least, most) = (BODIES.start(), BODIES.end());
            section.problem("expectBody", format!("must be {least} to {most} bytes, found {}", text.len()));
        }
        fits
    });
    Some(HttpCheck { path: ready_path?, live_path: live_path?, expect_status: expect_status?, expect_body })
}

fn path(section: &mut Section<'_>, field: &str, default: &str) -> Option<PathAndQuery> {
    let path = section.text(field).unwrap_or_else(|| default.to_owned());
    let checked = PathAndQuery::try_from(path.as_str()).ok().filter(|_| path.starts_with('/'));
    noted(section, field, checked, format!("must be a path such as {default}, found {path:?}"))
}

fn expected_status(section: &mut Section<'_>) -> Option<ExpectedStatus> {
    const FIELD: &str = "expectStatus";
    if !section.has(FIELD) {
        return Some(ExpectedStatus(vec![defaults::EXPECT_STATUS..=defaults::EXPECT_STATUS]));
    }
    let found = section.value(FIELD);
    let ranges = match &found {
        None => None,
        Some(list) => match list.as_array() {
            Some(list) if (1..=MOST_RANGES).contains(&list.len()) => list.iter().map(status_range).collect(),
            Some(_) => None,
            None => status_range(list).map(|range| vec![range]),
        },
    };
    let found = found.map_or_else(String::new, |found| format!(", found {found}"));
    let what = format!("must be a status, a range such as 200-299, or a list of them{found}");
    noted(section, FIELD, ranges.map(ExpectedStatus), what)
}

/// `200` or `200-299`.
fn status_range(value: &serde_json::Value) -> Option<RangeInclusive<u16>> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (STATUSES.contains(&first) && STATUSES.contains(&last) && first <= last).then_some(first..=last)
}

fn count(section: &mut Section<'_>, field: &str, default: NonZeroU32) -> NonZeroU32 {
    section.number::<u32>(field, 1..=100).and_then(NonZeroU32::new).unwrap_or(default)
}

/// What a final answer may have (RFC 9110 §15).
const STATUSES: RangeInclusive<u16> = 200..=599;
/// More ranges than anybody needs.
const MOST_RANGES: usize = 16;
/// Bytes.
const BODIES: RangeInclusive<usize> = 1..=1024;
/// Zero is "never".
const DRAIN_DEADLINES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
