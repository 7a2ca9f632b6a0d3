//! Kinds of fields that several sections have.

use std::ops::RangeInclusive;
use std::time::Duration;

use daemon::document::Section;

/// What an address with a port looks like, for whoever wrote something else.
pub(super) const ADDRESS_AND_PORT: &str = "an IP address and port such as 172.16.60.241:6443";
/// No timer is finer than the kernel's tick; none is so long that it means "never".
pub(super) const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);

/// How long something takes, which must be within `range`.
pub(super) fn duration(
    section: &mut Section<'_>,
    field: &str,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Duration {
    let duration = section.duration(field).unwrap_or(default);
    if !range.contains(&duration) {
        let what = format!("must be from {:?} to {:?}, found {duration:?}", range.start(), range.end());
        section.problem(field, what);
    }
    duration
}

/// The name of a network interface, which must be given.
pub(super) fn interface_name(section: &mut Section<'_>, field: &str) -> Option<String> {
    let name = section.text(field);
    let name = section.require(field, name)?;
    let what = format!("must be the name of an interface, found {name:?}");
    noted(section, field, is_interface_name(&name).then_some(name), what)
}

/// Notes `what` unless `value` is there.
pub(super) fn noted<T>(section: &mut Section<'_>, field: &str, value: Option<T>, what: String) -> Option<T> {
    if value.is_none() {
        section.problem(field, what);
    }
    value
}

/// What the kernel takes for a name (`dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    let forbidden = |letter: char| letter == '/' || letter == ':' || letter == '\0' || letter.is_whitespace();
    (1..16).contains(&name.len()) && name != "." && name != ".." && !name.contains(forbidden)
}
