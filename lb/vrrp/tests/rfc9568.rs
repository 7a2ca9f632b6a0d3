//! One row per clause of RFC 9568 §6.4, and the few places where this router does more than it says.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use vrrp::Action::{Announce, Claim, Release, Send};
use vrrp::{
    Action, Advert, AdvertInterval, Audience, Checksum, Event, Preempt, Priority, Role, RouterId, Settings,
    State, Version, VirtualAddresses, step,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 241));
const HIGHER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 242));
const LOWER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 99));

/// With priority 100, intervals of 256 ms make every skew a whole number of milliseconds: but intervals are whole
/// centiseconds, so 2.56 s it is. One down time is 3 x 2560 + 1560 ms.
const INTERVAL: u64 = 2_560;
const SKEW: u64 = 1_560;
const DOWN: u64 = 3 * INTERVAL + SKEW;
/// From a successor's advert to its announcement, at most.
const OVERLAP: u64 = 50;
/// How long a router waits for its successor: for the longest skew, which is more than a second here.
const LEAVE: u64 = 1_000 + OVERLAP;

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn interval(count: u64) -> AdvertInterval {
    AdvertInterval::new(milliseconds(count)).unwrap()
}

fn settings(priority: u8, preempt: bool) -> Settings {
    Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(priority).unwrap(),
        version: Version::Three { interval: interval(INTERVAL), checksum: Checksum::PseudoHeader },
        preempt: if preempt { Preempt::After(Duration::ZERO) } else { Preempt::Never },
        local: LOCAL,
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![[172, 16, 60, 250].into()]).unwrap(),
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn epoch() -> Instant {
    Instant::now()
}

/// An advert from `from` with the given priority, and an interval of 1.28 s so that learning it can be seen.
fn heard(from: IpAddr, priority: u8) -> Event {
    Event::Advert { from, advert: advert(priority, INTERVAL / 2) }
}

fn advert(priority: u8, milliseconds: u64) -> Advert {
    Advert { priority: Priority::new(priority), interval: Duration::from_millis(milliseconds) }
}

/// Where a router is at the beginning of a row.
#[derive(Clone, Copy, Debug)]
enum Given {
    Initialize,
    /// Backup since 0 ms, with our own interval.
    Backup,
    /// Master since 0 ms.
    Master,
    /// Leaving since 0 ms.
    Leaving,
}

/// What is asked of the state after a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Initialize,
    /// Backup: milliseconds from the epoch to taking over, and the master's interval.
    Backup(u64, u64),
    /// Master: milliseconds from the epoch to the next advert.
    Master(u64),
    /// Leaving: milliseconds from the epoch to the end, whoever has come.
    Leaving(u64),
}

struct Row {
    clause: &'static str,
    priority: u8,
    preempt: bool,
    given: Given,
    /// Milliseconds since the epoch.
    at: u64,
    event: Event,
    then: Then,
    actions: Vec<Action>,
}

fn reach(given: Given, settings: &Settings, epoch: Instant) -> State {
    let started = |settings: &Settings| step(settings, State::Initialize, Event::Start, epoch).0;
    match given {
        Given::Initialize => State::Initialize,
        Given::Backup => started(&Settings { priority: Priority::new(100).unwrap(), ..settings.clone() }),
        Given::Master => started(&Settings { priority: Priority::OWNER, ..settings.clone() }),
        Given::Leaving => step(settings, reach(Given::Master, settings, epoch), Event::Leave, epoch).0,
    }
}

fn seen(state: State, epoch: Instant) -> Then {
    let since = |instant: Instant| u64::try_from(instant.duration_since(epoch).as_millis()).unwrap();
    match state {
        State::Initialize => Then::Initialize,
        State::Backup(backup) => Then::Backup(
            since(backup.master_down_at),
            u64::try_from(backup.master_interval.as_millis()).unwrap(),
        ),
        State::Master { advertise_at, .. } => Then::Master(since(advertise_at)),
        State::Leaving { release_at } => Then::Leaving(since(release_at)),
    }
}

#[test]
fn each_clause_of_section_6_4_holds() {
    let rows = initialize().into_iter().chain(backup()).chain(master()).chain(leaving());
    for Row { clause, priority, preempt, given, at, event, then, actions } in rows {
        let (settings, epoch) = (settings(priority, preempt), epoch());
        let state = reach(given, &settings, epoch);
        let (state, done) = step(&settings, state, event, epoch + milliseconds(at));
        assert_eq!(seen(state, epoch), then, "{clause}");
        assert_eq!(done, actions, "{clause}");
    }
}

#[rustfmt::skip]
fn initialize() -> Vec<Row> {
    let row = |clause, priority, event, then, actions| Row {
        clause,
        priority,
        preempt: true,
        given: Given::Initialize,
        at: 0,
        event,
        then,
        actions,
    };
    let own = Send(Priority::new(255));
    vec![
        row("6.4.1 startup, address owner", 255, Event::Start, Then::Master(INTERVAL), vec![own, Claim, Announce]),
        row("6.4.1 startup, otherwise; a stale address is taken off", 100, Event::Start, Then::Backup(DOWN, INTERVAL), vec![Release]),
        row("6.4.1 startup, one below the owner", 254, Event::Start, Then::Backup(3 * INTERVAL + 20, INTERVAL), vec![Release]),
        row("6.4.1 weakest router: a whole interval of skew, nearly", 1, Event::Start, Then::Backup(3 * INTERVAL + 2_550, INTERVAL), vec![Release]),
        row("beyond: in the place of a master", 100, Event::Resume, Then::Master(INTERVAL), vec![Send(Priority::new(100)), Claim, Announce]),
        row("beyond: other settings", 100, Event::Change, Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: advert", 100, heard(HIGHER, 200), Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: timer", 100, Event::Tick, Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: shutdown", 100, Event::Leave, Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: shutdown at once", 100, Event::Stop, Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: announcement", 100, Event::Claimed, Then::Initialize, vec![]),
        row("6.4.1 nothing else counts: link down", 100, Event::LinkDown, Then::Initialize, vec![]),
    ]
}

#[rustfmt::skip]
fn backup() -> Vec<Row> {
    let row = |clause, preempt, at, event, then, actions| Row {
        clause,
        priority: 100,
        preempt,
        given: Given::Backup,
        at,
        event,
        then,
        actions,
    };
    let unchanged = Then::Backup(DOWN, INTERVAL);
    // Reset at 1000 ms by an advert with half our interval: down time and skew are the master's.
    let reset = Then::Backup(1_000 + DOWN / 2, INTERVAL / 2);
    let take_over = || vec![Send(Priority::new(100)), Claim, Announce];
    vec![
        row("6.4.2 shutdown", true, 1_000, Event::Leave, Then::Initialize, vec![]),
        row("6.4.2 shutdown at once", true, 1_000, Event::Stop, Then::Initialize, vec![]),
        row("beyond: announcements are the master's business", true, 1_000, Event::Claimed, unchanged, vec![]),
        row("6.4.2 link down is a shutdown", true, 1_000, Event::LinkDown, Then::Initialize, vec![]),
        row("6.4.2 a second startup is none", true, 1_000, Event::Start, unchanged, vec![]),
        row("beyond: nor can a backup resume", true, 1_000, Event::Resume, unchanged, vec![]),
        row("beyond: other settings count from the next advert on", true, 1_000, Event::Change, unchanged, vec![]),
        row("6.4.2 down timer has not fired", true, DOWN - 1, Event::Tick, unchanged, vec![]),
        row("6.4.2 down timer fires", true, DOWN, Event::Tick, Then::Master(DOWN + INTERVAL), take_over()),
        row("6.4.2 down timer fires late", true, DOWN + 900, Event::Tick, Then::Master(DOWN + 900 + INTERVAL), take_over()),
        row("6.4.2 priority 0: skew only, of the interval known", true, 1_000, heard(HIGHER, 0), Then::Backup(1_000 + SKEW, INTERVAL), vec![]),
        row("6.4.2 priority 0 also without preemption", false, 1_000, heard(HIGHER, 0), Then::Backup(1_000 + SKEW, INTERVAL), vec![]),
        row("6.4.2 priority 0 never makes us wait for longer", true, DOWN - 10, heard(HIGHER, 0), unchanged, vec![]),
        row("6.4.2 higher priority: timer reset, interval learned", true, 1_000, heard(HIGHER, 101), reset, vec![]),
        row("6.4.2 equal priority: the same, whatever the address", true, 1_000, heard(LOWER, 100), reset, vec![]),
        row("6.4.2 lower priority, preemption: discarded", true, 1_000, heard(HIGHER, 99), unchanged, vec![]),
        row("6.4.2 lower priority, no preemption: timer reset", false, 1_000, heard(LOWER, 1), reset, vec![]),
    ]
}

#[rustfmt::skip]
fn master() -> Vec<Row> {
    let row = |clause, priority, at, event, then, actions| Row {
        clause,
        priority,
        preempt: true,
        given: Given::Master,
        at,
        event,
        then,
        actions,
    };
    // Announcements of the master have ended by then, and its advert has not become due.
    let at = 2_000;
    let own = Send(Priority::new(100));
    let yielded = Then::Backup(at + DOWN / 2, INTERVAL / 2);
    let asserted = Then::Master(at + INTERVAL);
    let unchanged = Then::Master(INTERVAL);
    let farewell = Send(Priority::new(0));
    vec![
        row("6.4.3 shutdown: farewell, and the addresses stay for a successor", 100, at, Event::Leave, Then::Leaving(at + LEAVE), vec![farewell]),
        row("beyond: a rival's announcement is answered elsewhere", 100, at, Event::Claimed, unchanged, vec![]),
        row("6.4.3 shutdown at once: addresses off, then farewell", 100, at, Event::Stop, Then::Initialize, vec![Release, farewell]),
        row("6.4.3 link down: nobody would hear a farewell", 100, at, Event::LinkDown, Then::Initialize, vec![Release]),
        row("6.4.3 a second startup is none", 100, at, Event::Start, unchanged, vec![]),
        row("beyond: nor can a master resume", 100, at, Event::Resume, unchanged, vec![]),
        row("beyond: other settings are advertised at once", 100, at, Event::Change, asserted, vec![own]),
        row("6.4.3 advert timer fires, and the announcements due", 100, INTERVAL, Event::Tick, Then::Master(2 * INTERVAL), vec![own, Announce]),
        row("6.4.3 priority 0: advert at once, timer reset", 100, at, heard(HIGHER, 0), asserted, vec![own, Announce]),
        row("6.4.3 higher priority: backup, interval learned; a last advert so that the master announces itself", 100, at, heard(LOWER, 101), yielded, vec![Release, own]),
        row("6.4.3 equal priority, higher address: backup", 100, at, heard(HIGHER, 100), yielded, vec![Release, own]),
        row("6.4.3 equal priority, lower address: advert at once", 100, at, heard(LOWER, 100), asserted, vec![own, Announce]),
        row("6.4.3 equal priority, equal address: advert at once", 100, at, heard(LOCAL, 100), asserted, vec![own, Announce]),
        row("6.4.3 lower priority, higher address: advert at once", 100, at, heard(HIGHER, 99), asserted, vec![own, Announce]),
        row("6.4.3 owner stays", 255, at, heard(HIGHER, 254), asserted, vec![Send(Priority::new(255)), Announce]),
        row("6.4.3 a second owner with a higher address wins (erratum 8298)", 255, at, heard(HIGHER, 255), Then::Backup(at + 3 * INTERVAL / 2 + 5, INTERVAL / 2), vec![Release, Send(Priority::new(255))]),
    ]
}

#[rustfmt::skip]
fn leaving() -> Vec<Row> {
    let row = |clause, at, event, then, actions| Row {
        clause,
        priority: 100,
        preempt: true,
        given: Given::Leaving,
        at,
        event,
        then,
        actions,
    };
    let unchanged = Then::Leaving(LEAVE);
    vec![
        row("beyond: a successor has announced itself", 7, Event::Claimed, Then::Initialize, vec![Release]),
        row("beyond: a successor has spoken: it announces itself next", 7, heard(LOWER, 1), Then::Leaving(7 + OVERLAP), vec![]),
        row("beyond: a successor has spoken late", LEAVE - 1, heard(LOWER, 1), unchanged, vec![]),
        row("beyond: another one leaves, too", 7, heard(LOWER, 0), unchanged, vec![]),
        row("beyond: nobody has come yet", LEAVE - 1, Event::Tick, unchanged, vec![]),
        row("beyond: nobody comes", LEAVE, Event::Tick, Then::Initialize, vec![Release]),
        row("beyond: the link goes down", 7, Event::LinkDown, Then::Initialize, vec![Release]),
        row("beyond: it cannot wait any longer", 7, Event::Stop, Then::Initialize, vec![Release]),
        row("beyond: whoever leaves says so once", 7, Event::Leave, unchanged, vec![]),
        row("beyond: who has said farewell has no more to say", 7, Event::Change, unchanged, vec![]),
        row("beyond: and does not come back", 7, Event::Start, unchanged, vec![]),
        row("beyond: nor as a master", 7, Event::Resume, unchanged, vec![]),
    ]
}

/// Runs `state` to its deadlines until `end`, noting when it did what.
fn run(settings: &Settings, mut state: State, epoch: Instant, end: u64) -> (State, Vec<(u64, Action)>) {
    let mut done = Vec::new();
    while let Some(deadline) = state.deadline().filter(|&deadline| deadline <= epoch + milliseconds(end)) {
        let before = deadline.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_eq!(step(settings, state, Event::Tick, before), (state, vec![]), "a tick before the deadline");
        let (next, actions) = step(settings, state, Event::Tick, deadline);
        assert_ne!(next, state, "a tick at the deadline");
        let at = u64::try_from(deadline.duration_since(epoch).as_millis()).unwrap();
        done.extend(actions.into_iter().map(|action| (at, action)));
        state = next;
    }
    (state, done)
}

#[test]
fn a_new_master_announces_itself_four_times_in_a_second_and_then_every_ten() {
    let (settings, epoch) = (settings(100, true), epoch());
    let state = reach(Given::Master, &settings, epoch);
    let (_, done) = run(&settings, state, epoch, 25_000);
    let times = |wanted: Action| -> Vec<u64> {
        done.iter().filter(|(_, action)| *action == wanted).map(|&(at, _)| at).collect()
    };
    assert_eq!(times(Announce), [50, 200, 1_000, 11_000, 21_000]);
    let adverts: Vec<u64> = (1..=9).map(|count| count * INTERVAL).collect();
    assert_eq!(times(Send(Priority::new(100))), adverts);
}

#[test]
fn after_a_rival_master_the_announcements_start_again() {
    let (settings, epoch) = (settings(100, true), epoch());
    let state = reach(Given::Master, &settings, epoch);
    let (state, _) = run(&settings, state, epoch, 2_000);
    let (state, actions) = step(&settings, state, heard(LOWER, 50), epoch + milliseconds(2_000));
    assert_eq!(actions, [Send(Priority::new(100)), Announce]);
    let (_, done) = run(&settings, state, epoch, 4_000);
    assert_eq!(done, [(2_050, Announce), (2_200, Announce), (3_000, Announce)]);
}

#[test]
fn a_flood_of_weaker_adverts_is_answered_but_makes_no_flood_of_announcements() {
    let (settings, epoch) = (settings(100, true), epoch());
    let mut state = reach(Given::Master, &settings, epoch);
    let (mut answers, mut announcements) = (0, 0);
    for at in 1..=1_000 {
        for event in [heard(LOWER, 50), Event::Tick] {
            let (next, actions) = step(&settings, state, event, epoch + milliseconds(at));
            answers += actions.iter().filter(|action| matches!(action, Send(_))).count();
            announcements += actions.iter().filter(|&&action| action == Announce).count();
            state = next;
        }
    }
    assert_eq!(answers, 1_000);
    assert_eq!(announcements, 1_000 / 50);
}

#[test]
fn a_flood_of_farewells_does_not_keep_a_backup_from_taking_over() {
    let (settings, epoch) = (settings(100, true), epoch());
    let mut state = reach(Given::Backup, &settings, epoch);
    for at in 0..SKEW {
        state = step(&settings, state, heard(LOWER, 0), epoch + milliseconds(at)).0;
    }
    assert_eq!(step(&settings, state, Event::Tick, epoch + milliseconds(SKEW)).0.role(), Role::Master);
}

#[test]
fn a_weaker_master_is_replaced_after_one_down_time_however_often_it_speaks() {
    let (settings, epoch) = (settings(100, true), epoch());
    let mut state = reach(Given::Backup, &settings, epoch);
    for at in (0..DOWN).step_by(100) {
        state = step(&settings, state, heard(HIGHER, 99), epoch + milliseconds(at)).0;
    }
    assert_eq!(state.deadline(), Some(epoch + milliseconds(DOWN)));
}

/// A backup with a preempt delay that has heard adverts of priority `heard` until `end`, from its start at 0 ms on and
/// every 100 ms; and when it would take over if it heard nothing more.
fn patient(settings: &Settings, epoch: Instant, weaker: impl Fn(u64) -> u8, end: u64) -> (State, u64) {
    let mut state = step(settings, State::Initialize, Event::Start, epoch).0;
    for at in (0..end).step_by(100) {
        let event = Event::Advert { from: HIGHER, advert: advert(weaker(at), INTERVAL) };
        state = step(settings, state, Event::Tick, epoch + milliseconds(at)).0;
        state = step(settings, state, event, epoch + milliseconds(at)).0;
    }
    let deadline = state.deadline().unwrap();
    (state, u64::try_from(deadline.duration_since(epoch).as_millis()).unwrap())
}

#[test]
fn a_preempt_delay_lets_a_weaker_master_go_on_for_that_long_and_no_longer() {
    let (delay, epoch) = (30_000, epoch());
    let settings = Settings { preempt: Preempt::After(milliseconds(delay)), ..settings(100, true) };
    let cases: [(&str, u8, u64, u64); 4] = [
        ("the weaker master is silent during the delay: as any other", 99, 10_000, 9_900 + DOWN),
        (
            "it is heard to the end of the delay, and one down time later we take over",
            99,
            37_000,
            delay - 100 + DOWN,
        ),
        ("a stronger one is never replaced", 101, 60_000, 59_900 + DOWN),
        ("nor is an equal one", 100, 60_000, 59_900 + DOWN),
    ];
    for (what, priority, end, expected) in cases {
        assert_eq!(patient(&settings, epoch, |_| priority, end).1, expected, "{what}");
    }
    let (state, _) = patient(&settings, epoch, |_| 99, delay + DOWN + 100);
    assert_eq!(state.role(), Role::Master);
}

#[test]
fn a_preempt_delay_begins_anew_when_a_stronger_master_makes_room_for_a_weaker_one() {
    let (delay, epoch, change) = (30_000, epoch(), 50_000);
    let settings = Settings { preempt: Preempt::After(milliseconds(delay)), ..settings(100, true) };
    let weaker = |at| if at < change { 101 } else { 99 };
    assert_eq!(patient(&settings, epoch, weaker, change + delay).1, change + delay - 100 + DOWN);
    assert_eq!(patient(&settings, epoch, weaker, change + delay + DOWN - 100).1, change + delay - 100 + DOWN);
}

#[test]
fn a_farewell_ends_a_preempt_delay() {
    let epoch = epoch();
    let settings = Settings { preempt: Preempt::After(milliseconds(30_000)), ..settings(100, true) };
    let (state, _) = patient(&settings, epoch, |_| 99, 1_000);
    let state = step(&settings, state, heard(HIGHER, 0), epoch + milliseconds(1_000)).0;
    assert_eq!(state.deadline(), Some(epoch + milliseconds(1_000 + SKEW)));
}

#[test]
fn whoever_no_longer_preempts_waits_for_its_turn_no_longer() {
    let epoch = epoch();
    let before = Settings { preempt: Preempt::After(milliseconds(30_000)), ..settings(100, true) };
    let (state, _) = patient(&before, epoch, |_| 99, 29_000);
    let after = settings(100, false);
    let mut state = step(&after, state, Event::Change, epoch + milliseconds(29_000)).0;
    for at in (29_000..60_000).step_by(100) {
        let event = Event::Advert { from: HIGHER, advert: advert(99, INTERVAL) };
        state = step(&after, state, event, epoch + milliseconds(at)).0;
    }
    assert_eq!(state.deadline(), Some(epoch + milliseconds(59_900 + DOWN)));
}

#[test]
fn whoever_becomes_the_owner_takes_over_at_once() {
    let (epoch, owner) = (epoch(), settings(255, false));
    let backup = reach(Given::Backup, &settings(100, false), epoch);
    let (state, actions) = step(&owner, backup, Event::Change, epoch);
    assert_eq!((state.role(), actions), (Role::Master, vec![Send(Priority::new(255)), Claim, Announce]));
}

#[test]
fn an_endless_preempt_delay_is_no_preemption() {
    let epoch = epoch();
    let settings = Settings { preempt: Preempt::After(Duration::MAX), ..settings(100, true) };
    assert_eq!(patient(&settings, epoch, |_| 99, 60_000).1, 59_900 + DOWN);
}

#[test]
fn the_address_owner_replaces_a_weaker_master_at_once_whatever_it_is_told() {
    let epoch = epoch();
    for preempt in [Preempt::Never, Preempt::After(milliseconds(30_000))] {
        let settings = Settings { preempt, ..settings(255, true) };
        let started = step(&settings, State::Initialize, Event::Start, epoch).0;
        // A second owner, then somebody weaker.
        let backup = step(&settings, started, heard(HIGHER, 255), epoch).0;
        let later = step(&settings, backup, heard(HIGHER, 254), epoch + milliseconds(100)).0;
        assert_eq!(later.deadline(), backup.deadline(), "{preempt:?}");
    }
}
