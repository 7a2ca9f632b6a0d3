//! The transition function (RFC 9568 §6.4). That of RFC 3768 is the same but for its skew.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::packet::Advert;
use crate::settings::{Priority, Settings, Version};
use crate::state::{Action, Announcements, Backup, Event, State};

/// What becomes of `state` when `event` happens at `now`, and what is to be done about it, in order.
///
/// Every event is legal in every state. An advert that [`decode`](crate::decode) rejects must not come here: it has no
/// effect, least of all on a timer. After a pause, hand in the adverts that have been waiting before the `Tick`.
pub fn step(settings: &Settings, state: State, event: Event, now: Instant) -> (State, Vec<Action>) {
    match state {
        State::Initialize => match event {
            Event::Start => start(settings, now),
            Event::Resume => take_over(settings, now),
            Event::Change
            | Event::Leave
            | Event::Stop
            | Event::LinkDown
            | Event::Advert { .. }
            | Event::Claimed
            | Event::Tick => (state, Vec::new()),
        },
        State::Backup(backup) => match event {
            Event::Leave | Event::Stop | Event::LinkDown => (State::Initialize, Vec::new()),
            Event::Advert { advert, .. } => {
                (State::Backup(hear_as_backup(settings, backup, advert, now)), Vec::new())
            }
            Event::Tick if backup.master_down_at <= now => take_over(settings, now),
            Event::Change => change_as_backup(settings, backup, now),
            Event::Start | Event::Resume | Event::Claimed | Event::Tick => (state, Vec::new()),
        },
        State::Master { advertise_at, announcements } => match event {
            Event::Start | Event::Resume | Event::Claimed => (state, Vec::new()),
            Event::Change => {
                // At once: a backup may now be the stronger one, or have to wait for longer than it knows.
                let advertise_at = now + settings.version.interval();
                let actions = vec![Action::Send(Some(settings.priority))];
                (State::Master { advertise_at, announcements }, actions)
            }
            Event::Leave => leave(settings, now),
            Event::Stop => resign(),
            Event::LinkDown => (State::Initialize, vec![Action::Release]),
            Event::Advert { from, advert } if yields(settings, from, advert) => {
                give_way(settings, advert.interval, now)
            }
            Event::Advert { .. } => assert_mastership(settings, announcements, now),
            Event::Tick => tick_as_master(settings, advertise_at, announcements, now),
        },
        State::Leaving { release_at } => match event {
            Event::Claimed | Event::Stop | Event::LinkDown => (State::Initialize, vec![Action::Release]),
            Event::Tick if release_at <= now => (State::Initialize, vec![Action::Release]),
            Event::Advert { advert, .. } if advert.priority.is_some() => {
                (State::Leaving { release_at: release_at.min(now + OVERLAP) }, Vec::new())
            }
            Event::Start
            | Event::Resume
            | Event::Change
            | Event::Leave
            | Event::Advert { .. }
            | Event::Tick => (state, Vec::new()),
        },
    }
}

/// §6.4.1. A backup first takes the addresses off: a predecessor that was killed may have left them.
fn start(settings: &Settings, now: Instant) -> (State, Vec<Action>) {
    if settings.priority == Priority::OWNER {
        return take_over(settings, now);
    }
    let backup = follow(settings, settings.version.interval(), preempt_after(settings, now), now);
    (State::Backup(backup), vec![Action::Release])
}

/// A backup that has just heard its master, or pretends so at its start.
fn follow(
    settings: &Settings,
    master_interval: Duration,
    preempt_at: Option<Instant>,
    now: Instant,
) -> Backup {
    let master_down_at = now + master_down_interval(settings, master_interval);
    Backup { master_down_at, master_interval, preempt_at }
}

/// When a weaker master that was first heard at `now` is to be replaced.
fn preempt_after(settings: &Settings, now: Instant) -> Option<Instant> {
    settings.patience().and_then(|patience| now.checked_add(patience))
}

/// §6.4.2, `Active_Down_Timer` fires. The advert goes first, so that rivals hear it as early as can be.
fn take_over(settings: &Settings, now: Instant) -> (State, Vec<Action>) {
    let state = State::Master {
        advertise_at: now + settings.version.interval(),
        announcements: Announcements::begun(now),
    };
    (state, vec![Action::Send(Some(settings.priority)), Action::Claim, Action::Announce])
}

/// §6.4.2, ADVERTISEMENT received.
fn hear_as_backup(settings: &Settings, backup: Backup, advert: Advert, now: Instant) -> Backup {
    let Some(priority) = advert.priority else {
        // Only ever sooner: a stream of farewells must not keep us from taking over.
        let skewed = now + skew(settings, backup.master_interval);
        return Backup { master_down_at: backup.master_down_at.min(skewed), ..backup };
    };
    if priority >= settings.priority {
        return follow(settings, advert.interval, None, now);
    }
    let preempt_at = backup.preempt_at.or_else(|| preempt_after(settings, now));
    if preempt_at.is_some_and(|preempt_at| preempt_at <= now) {
        return Backup { preempt_at, ..backup };
    }
    follow(settings, advert.interval, preempt_at, now)
}

/// The owner of the addresses waits for nobody. Others go by their new settings from the next advert on, and stop
/// waiting for their turn if they no longer preempt.
fn change_as_backup(settings: &Settings, backup: Backup, now: Instant) -> (State, Vec<Action>) {
    if settings.priority == Priority::OWNER {
        return take_over(settings, now);
    }
    let preempt_at = settings.patience().and(backup.preempt_at);
    (State::Backup(Backup { preempt_at, ..backup }), Vec::new())
}

/// §6.4.3, Shutdown, of a router that still works: the addresses stay until somebody else has them, so that they are never
/// nobody's. If nobody takes them, they stay for no longer than the weakest backup would wait.
fn leave(settings: &Settings, now: Instant) -> (State, Vec<Action>) {
    let release_at = now + most_skew(settings, settings.version.interval()).min(LONGEST_LEAVE) + OVERLAP;
    (State::Leaving { release_at }, vec![Action::Send(None)])
}

/// How long a successor may take from its advert to its claim, whichever is lost.
const OVERLAP: Duration = Duration::from_millis(50);
/// Nobody who stops a router waits for longer.
const LONGEST_LEAVE: Duration = Duration::from_secs(1);

/// §6.4.3, Shutdown, of a router that is of no more use. The farewell comes last: whoever takes over on it must not find
/// us still answering for the addresses.
fn resign() -> (State, Vec<Action>) {
    (State::Initialize, vec![Action::Release, Action::Send(None)])
}

/// §6.4.3: a master gives way to a higher priority, and among equals to the higher address.
fn yields(settings: &Settings, from: IpAddr, advert: Advert) -> bool {
    advert.priority.is_some_and(|priority| (priority, from) > (settings.priority, settings.local))
}

/// §6.4.3: a master that hears a stronger one becomes its backup.
///
/// Its last advert is more than the RFC asks for. If the link had been cut without our noticing, the stronger one has
/// been master all along: clients on our side look for the addresses here, and it does not know until it hears us.
/// Then it [announces itself](assert_mastership).
fn give_way(settings: &Settings, master_interval: Duration, now: Instant) -> (State, Vec<Action>) {
    (
        State::Backup(follow(settings, master_interval, None, now)),
        vec![Action::Release, Action::Send(Some(settings.priority))],
    )
}

/// §6.4.3: a master that hears a weaker one, or one's farewell, speaks up at once.
///
/// It announces again, too. Two masters mean that the link was cut without our noticing; the other one has announced
/// itself meanwhile, and gives way now without taking that back, so only we can bring the clients back.
fn assert_mastership(
    settings: &Settings,
    announcements: Announcements,
    now: Instant,
) -> (State, Vec<Action>) {
    let (announcements, announce) = announcements.again(now);
    let advertise_at = now + settings.version.interval();
    let mut actions = vec![Action::Send(Some(settings.priority))];
    actions.extend(announce.then_some(Action::Announce));
    (State::Master { advertise_at, announcements }, actions)
}

/// §6.4.3, `Adver_Timer` fires; and the announcements that are due.
fn tick_as_master(
    settings: &Settings,
    advertise_at: Instant,
    announcements: Announcements,
    now: Instant,
) -> (State, Vec<Action>) {
    let (announcements, announce) = announcements.advance(now);
    let advertise = advertise_at <= now;
    let advertise_at = if advertise { now + settings.version.interval() } else { advertise_at };
    let mut actions = Vec::new();
    actions.extend(advertise.then_some(Action::Send(Some(settings.priority))));
    actions.extend(announce.then_some(Action::Announce));
    (State::Master { advertise_at, announcements }, actions)
}

/// `Skew_Time` (§6.1): up to one interval, or one second in version 2; less for a stronger router, so that the strongest
/// backup is first.
fn skew(settings: &Settings, master_interval: Duration) -> Duration {
    most_skew(settings, master_interval) * (256 - u32::from(settings.priority.number())) / 256
}

const fn most_skew(settings: &Settings, master_interval: Duration) -> Duration {
    match settings.version {
        Version::Two { .. } => Duration::from_secs(1),
        Version::Three { .. } => master_interval,
    }
}

/// `Active_Down_Interval` (§6.1).
fn master_down_interval(settings: &Settings, master_interval: Duration) -> Duration {
    3 * master_interval + skew(settings, master_interval)
}
