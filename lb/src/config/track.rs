//! From the `track` section of a virtual router to a [`Track`].

use std::collections::BTreeSet;
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::time::Duration;

use daemon::document::Section;
use vrrp::Priority;

use super::defaults::TRACK_BACKENDS_DELAY;
use super::field::{duration, interface_name};
use crate::router::{Sight, Track, TrackedInterface};

/// Longer than the checks of nodes ever differ.
const DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
/// Each is looked at several times a second.
const MOST_INTERFACES: usize = 16;

/// What is tracked by a router of this `priority`.
pub(super) fn track(section: &mut Section<'_>, priority: u8) -> Track {
    let owner = priority == Priority::OWNER.number();
    let relay = section.flag("relay").unwrap_or(true);
    let backends = section.section("backends", |section| sight(section, owner));
    let interfaces = section.sections("interfaces", |section| interface(section, owner)).unwrap_or_default();
    if interfaces.len() > MOST_INTERFACES {
        let what = format!("must list at most {MOST_INTERFACES} interfaces, found {}", interfaces.len());
        section.problem("interfaces", what);
    }
    let mut names = BTreeSet::new();
    for (position, interface) in interfaces.iter().enumerate() {
        if let Some(interface) = interface
            && !names.insert(&interface.name)
        {
            let field = format!("interfaces[{position}].name");
            section.problem(&field, format!("{} is listed twice", interface.name));
        }
    }
    Track { relay, backends: backends.flatten(), interfaces: interfaces.into_iter().flatten().collect() }
}

fn sight(section: &mut Section<'_>, owner: bool) -> Option<Sight> {
    let weight = weight(section, -253..=0).and_then(NonZeroU8::new);
    if owner && weight.is_some() {
        section.problem("weight", NO_WEIGHTS);
    }
    let delay = duration(section, "delay", DELAYS, TRACK_BACKENDS_DELAY);
    weight.map(|weight| Sight { weight, delay })
}

fn interface(section: &mut Section<'_>, owner: bool) -> Option<TrackedInterface> {
    let name = interface_name(section, "name");
    let weight = weight(section, -253..=-1).and_then(NonZeroU8::new);
    if owner && weight.is_some() {
        section.problem("weight", NO_WEIGHTS);
    }
    Some(TrackedInterface { name: name?, weight })
}

const NO_WEIGHTS: &str = "has no effect on priority 255, which the owner of the addresses always has";

/// By how much the priority is lower.
fn weight(section: &mut Section<'_>, range: RangeInclusive<i16>) -> Option<u8> {
    section.number::<i16>("weight", range).and_then(|weight| u8::try_from(weight.unsigned_abs()).ok())
}
