//! What a router's priority follows besides its configuration.
//!
//! A *fault* is what makes this node useless as a master: it gives the addresses up and takes no part until the fault is
//! gone. A *weight* only makes it weaker than others: with `preempt` a stronger one takes over; without, the master stays
//! and the weight counts when the next one is elected.

use std::fmt;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use vrrp::{Priority, Role};

/// What the priority of a router follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Whether a relay that hangs or does not accept is a fault.
    pub relay: bool,
    /// What it costs to see no live backend; `None` for nothing.
    pub backends: Option<Sight>,
    /// Other interfaces that must be up.
    pub interfaces: Vec<TrackedInterface>,
}

/// What it costs to see no live backend, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// By how much the priority is lower meanwhile.
    pub weight: NonZeroU8,
    /// How much later than a backup a master counts the loss, and a backup than a master the return. If all nodes lose
    /// sight of the backends, each within this time, no backup is ever the stronger one: nothing moves.
    pub delay: Duration,
}

/// An interface that must be up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedInterface {
    /// Its name.
    pub name: String,
    /// By how much the priority is lower while it is down or missing; `None` if that is a fault.
    pub weight: Option<NonZeroU8>,
}

impl Default for Track {
    fn default() -> Self {
        Self { relay: true, backends: None, interfaces: Vec::new() }
    }
}

/// Who can tell how the rest of the front door is. It is asked by a thread with real-time priority, and must not wait for
/// others.
pub trait Witness: Send {
    /// Numbers that all go on changing while the relay works, one per thread; `None` while it does not accept.
    fn relay_beats(&self) -> Option<Vec<u64>>;

    /// Whether a backend takes connections; `None` if that cannot be told right now.
    fn sees_backend(&self) -> Option<bool>;
}

/// What was found at one look.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) relay_beats: Option<Vec<u64>>,
    pub(super) sees_backend: Option<bool>,
    /// Whether each tracked interface is up, in configured order.
    pub(super) interfaces: Vec<bool>,
}

/// How fit a router is to be master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Fit(Priority),
    Fault(Fault),
}

/// Why a node is of no use as a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Relay,
    Interface(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay => formatter.write_str("the relay hangs or does not accept"),
            Self::Interface(name) => write!(formatter, "tracked interface {name} is down"),
        }
    }
}

/// The facts so far.
#[derive(Clone, Debug)]
pub(super) struct Tracking {
    /// The last beats, and for how many looks in a row one of them has been the same.
    beats: Option<Vec<u64>>,
    stalled: u32,
    /// Whether a backend counts as seen, and since when the contrary has been the case.
    sight: bool,
    contrary_since: Option<Instant>,
    interfaces: Vec<bool>,
}

impl Tracking {
    /// From one look to the next. The relay beats as often.
    pub(super) const INTERVAL: Duration = Duration::from_millis(200);
    /// After so many looks without a beat the relay hangs: 1 s. Looks are counted, not time: if the whole process was
    /// stopped, nobody can have beaten.
    const MOST_STALLED: u32 = 5;

    /// Nothing is wrong yet.
    pub(super) const fn begun() -> Self {
        Self { beats: None, stalled: 0, sight: true, contrary_since: None, interfaces: Vec::new() }
    }

    /// Takes in what was found at `now` by a router in this `role`.
    pub(super) fn observe(&mut self, track: &Track, role: Role, facts: Facts, now: Instant) {
        let Facts { relay_beats, sees_backend, interfaces } = facts;
        let alive = relay_beats.as_ref().is_some_and(|beats| all_differ(beats, self.beats.as_deref()));
        self.stalled = if alive { 0 } else { self.stalled.saturating_add(1) };
        self.beats = relay_beats;
        self.interfaces = interfaces;
        if let Some(sees_backend) = sees_backend {
            self.look(track, role, sees_backend, now);
        }
    }

    fn look(&mut self, track: &Track, role: Role, sees_backend: bool, now: Instant) {
        if sees_backend == self.sight {
            self.contrary_since = None;
            return;
        }
        let since = *self.contrary_since.get_or_insert(now);
        let waits = (role == Role::Master) != sees_backend;
        let delay = track.backends.filter(|_| waits).map_or(Duration::ZERO, |sight| sight.delay);
        if now.saturating_duration_since(since) >= delay {
            self.sight = sees_backend;
            self.contrary_since = None;
        }
    }

    /// What follows for a router that is `configured` with this priority. The owner of the addresses has no other
    /// (RFC 9568 §5.2.4); who is not can never come to look like one.
    pub(super) fn standing(&self, track: &Track, configured: Priority) -> Standing {
        if track.relay && self.stalled >= Self::MOST_STALLED {
            return Standing::Fault(Fault::Relay);
        }
        let down = track.interfaces.iter().zip(&self.interfaces).filter(|(_, up)| !**up);
        let down: Vec<&TrackedInterface> = down.map(|(interface, _)| interface).collect();
        if let Some(fault) = down.iter().find(|interface| interface.weight.is_none()) {
            return Standing::Fault(Fault::Interface(fault.name.clone()));
        }
        if configured == Priority::OWNER {
            return Standing::Fit(configured);
        }
        let blind = track.backends.filter(|_| !self.sight).map(|sight| sight.weight);
        let weights = down.iter().filter_map(|interface| interface.weight).chain(blind);
        let priority = weights.fold(configured.number(), |left, weight| left.saturating_sub(weight.get()));
        Standing::Fit(Priority::new(priority.max(1)).unwrap_or(configured))
    }
}

/// Whether each number has changed; where nothing can be compared, they count as changed.
fn all_differ(beats: &[u64], before: Option<&[u64]>) -> bool {
    before.is_none_or(|before| {
        before.len() != beats.len() || before.iter().zip(beats).all(|(before, now)| before != now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn priority(number: u8) -> Priority {
        Priority::new(number).unwrap()
    }

    fn weight(number: u8) -> Option<NonZeroU8> {
        NonZeroU8::new(number)
    }

    /// What is tracked by default, and backends.
    fn with_backends() -> Track {
        let sight = Sight { weight: NonZeroU8::new(20).unwrap(), delay: Duration::from_secs(5) };
        Track { backends: Some(sight), ..Track::default() }
    }

    /// Sees everything, and a relay that has just beaten.
    fn well(beat: u64) -> Facts {
        Facts { relay_beats: Some(vec![beat, beat]), sees_backend: Some(true), interfaces: Vec::new() }
    }

    #[test]
    fn weights_add_up_a_fault_outdoes_them_and_owners_have_no_weights() {
        let interface = |name: &str, weight| TrackedInterface { name: name.to_owned(), weight };
        let track = Track {
            interfaces: vec![interface("a", weight(30)), interface("b", weight(200)), interface("c", None)],
            ..with_backends()
        };
        let fit = |number| Standing::Fit(priority(number));
        let fault = Standing::Fault(Fault::Interface("c".to_owned()));
        let cases = [
            (250, true, [true, true, true], fit(250)),
            (250, true, [false, true, true], fit(220)),
            (250, false, [true, true, true], fit(230)),
            (250, false, [false, true, true], fit(200)),
            (250, false, [false, false, true], fit(1)),
            (20, false, [true, true, true], fit(1)),
            (250, true, [true, true, false], fault.clone()),
            (255, false, [false, false, true], fit(255)),
            (255, true, [true, true, false], fault),
        ];
        for (configured, sees_backend, interfaces, expected) in cases {
            let mut tracking = Tracking::begun();
            let facts = Facts { sees_backend: Some(sees_backend), interfaces: interfaces.into(), ..well(1) };
            tracking.observe(&track, Role::Backup, facts, start());
            let case = format!("{configured} {sees_backend} {interfaces:?}");
            assert_eq!(tracking.standing(&track, priority(configured)), expected, "{case}");
        }
    }

    #[test]
    fn a_relay_hangs_when_one_thread_stands_still_for_several_looks() {
        type Beats = fn(u64) -> Option<Vec<u64>>;
        let hung = Standing::Fault(Fault::Relay);
        let cases: [(&str, Beats, bool); 5] = [
            ("beats", |look| Some(vec![look, look]), false),
            ("one stands still", |look| Some(vec![look, 7]), true),
            ("all stand still", |_| Some(vec![7, 7]), true),
            ("does not accept", |_| None, true),
            ("is late now and then", |look| Some(vec![look / 4, look]), false),
        ];
        for (case, beats, hangs) in cases {
            let (track, mut tracking, mut found) = (Track::default(), Tracking::begun(), None);
            for look in 0..20 {
                let facts = Facts { relay_beats: beats(look), ..well(0) };
                tracking.observe(&track, Role::Master, facts, start());
                if tracking.standing(&track, priority(100)) == hung {
                    found.get_or_insert(look);
                }
            }
            assert_eq!(found.is_some(), hangs, "{case}");
            assert!(found.is_none_or(|look| look <= 5), "{case}: only at look {found:?}");
            let careless = Track { relay: false, ..track.clone() };
            assert_ne!(tracking.standing(&careless, priority(100)), hung, "{case}, not tracked");
            tracking.observe(&track, Role::Initialize, well(99), start());
            assert_ne!(tracking.standing(&track, priority(100)), hung, "{case}, then beats again");
        }
    }

    /// Three nodes lose sight of the backends and get it back, each when its own checks say so.
    #[test]
    fn no_backup_is_ever_stronger_while_all_nodes_lose_sight_and_regain_it() {
        let (track, start) = (with_backends(), start());
        let configured = [priority(250), priority(240), priority(230)];
        let roles = [Role::Master, Role::Backup, Role::Backup];
        for shifts in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut nodes = [Tracking::begun(), Tracking::begun(), Tracking::begun()];
            let mut lowest = priority(254);
            for tick in 0..100_u64 {
                let now = start + Tracking::INTERVAL * u32::try_from(tick).unwrap();
                let standings = [0, 1, 2].map(|node| {
                    // Lost at about 2 s, back at about 12 s; the nodes are up to 2 s apart.
                    let shift = 5 * shifts[node];
                    let sees_backend = Some(!(10 + shift..60 + shift).contains(&tick));
                    nodes[node].observe(&track, roles[node], Facts { sees_backend, ..well(tick) }, now);
                    match nodes[node].standing(&track, configured[node]) {
                        Standing::Fit(priority) => priority,
                        Standing::Fault(fault) => panic!("{fault}"),
                    }
                });
                assert!(standings[0] > standings[1].max(standings[2]), "{tick}: {standings:?}");
                lowest = lowest.min(standings[0]);
            }
            assert_eq!(lowest, priority(230), "the master counts it too, in the end");
        }
    }

    #[test]
    fn a_master_that_alone_sees_no_backend_is_weaker_after_the_delay() {
        let (track, start) = (with_backends(), start());
        let mut tracking = Tracking::begun();
        for (seconds, sees_backend, expected) in [
            (0, Some(true), 250),
            (1, Some(false), 250),
            (5, None, 250),
            (5, Some(false), 250),
            (6, Some(false), 230),
            (7, Some(true), 250),
            (8, Some(false), 250),
            (10, Some(true), 250),
            (12, Some(false), 250),
            (16, Some(false), 250),
        ] {
            let now = start + Duration::from_secs(seconds);
            tracking.observe(&track, Role::Master, Facts { sees_backend, ..well(seconds) }, now);
            let standing = tracking.standing(&track, priority(250));
            assert_eq!(standing, Standing::Fit(priority(expected)), "{seconds} s");
        }
    }
}
