//! What a virtual router is in, what can happen to it and what it then wants done.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::packet::Advert;
use crate::settings::Priority;

/// The state of one virtual router on this node (RFC 9568 §6.3). Each holds the timers that run in it and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, stopped, or without a link.
    Initialize,
    /// Another router is master, or none is yet.
    Backup(Backup),
    /// We hold the addresses (`Active` in RFC 9568).
    Master {
        /// When our next advert is due (`Adver_Timer`).
        advertise_at: Instant,
        /// Gratuitous ARP, or unsolicited neighbour advertisements, now and again.
        announcements: Announcements,
    },
    /// We have said farewell, and hold the addresses until a successor does.
    Leaving {
        /// When the addresses are given up, whether or not there is one.
        release_at: Instant,
    },
}

/// What a backup remembers of its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// When we take over unless an advert comes (`Active_Down_Timer`).
    pub master_down_at: Instant,
    /// The master's interval (`Active_Adver_Interval`), from which down time and skew follow.
    pub master_interval: Duration,
    /// When a weaker master's adverts stop counting, so that we take over from it. `None` for never, and after a
    /// stronger one until a weaker one is heard.
    pub preempt_at: Option<Instant>,
}

impl State {
    /// When [`Event::Tick`] will have an effect; `None` if only another event can have one.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Initialize => None,
            Self::Backup(backup) => Some(backup.master_down_at),
            Self::Master { advertise_at, announcements } => Some(announcements.due().min(*advertise_at)),
            Self::Leaving { release_at } => Some(*release_at),
        }
    }

    /// The state without its timers.
    pub const fn role(&self) -> Role {
        match self {
            Self::Initialize => Role::Initialize,
            Self::Backup(_) => Role::Backup,
            Self::Master { .. } | Self::Leaving { .. } => Role::Master,
        }
    }
}

/// A [`State`] without its timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes no part.
    Initialize,
    /// Ready to take over.
    Backup,
    /// Holds the addresses.
    Master,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Initialize, Self::Backup, Self::Master];

    /// A word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// What happens to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is started, or its link is back.
    Start,
    /// It is started in the place of a program on this node that was master until now: the addresses are there, and
    /// the link must not notice.
    Resume,
    /// The settings are others than before: a new priority, say. Not the addresses or the local one: for these it is
    /// stopped and started.
    Change,
    /// It is asked to stop, and what it holds the addresses for still works.
    Leave,
    /// It has to stop at once: what it holds the addresses for is of no more use.
    Stop,
    /// The link is gone, or the address that adverts come from: nothing that is sent now would count.
    LinkDown,
    /// An advert was received that [`decode`](crate::decode) found good.
    Advert {
        /// Its sender.
        from: IpAddr,
        /// What it says.
        advert: Advert,
    },
    /// Another host has announced that the addresses are there (gratuitous ARP, neighbour advertisement). It counts only
    /// for a router that waits for its successor.
    Claimed,
    /// Time has passed. Before [`State::deadline`] it changes nothing.
    Tick,
}

/// What the shell is to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send our advert, to all [destinations](crate::Settings::destinations): with this priority, or as a farewell.
    Send(Option<Priority>),
    /// Put the virtual addresses on the interface. They may be there already.
    Claim,
    /// Tell the link where the virtual addresses are (gratuitous ARP, unsolicited neighbour advertisement).
    Announce,
    /// Take the virtual addresses off the interface. They may be gone already.
    Release,
}

/// The repetition of announcements by a master: at once, then 50 ms, 200 ms and 1 s later, and every 10 s from there.
///
/// One frame may be lost, and one may lose a race against the last answers of the former master: the first ones cure
/// that. The slow ones are for hosts that were cut off while the master changed, of which no router can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcements {
    last: Instant,
    made: usize,
}

impl Announcements {
    /// The pauses after the first announcements.
    const PAUSES: [Duration; 3] =
        [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(800)];
    /// The pauses after all others.
    const REFRESH: Duration = Duration::from_secs(10);

    /// The first one has been made at `now`.
    pub(crate) const fn begun(now: Instant) -> Self {
        Self { last: now, made: 0 }
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Instant {
        self.last + Self::PAUSES.get(self.made).copied().unwrap_or(Self::REFRESH)
    }

    /// The same after `now`, and whether an announcement is to be made now.
    pub(crate) fn advance(self, now: Instant) -> (Self, bool) {
        if self.due() <= now {
            (Self { last: now, made: self.made.saturating_add(1) }, true)
        } else {
            (self, false)
        }
    }

    /// The series again from its start, because somebody else has claimed the addresses meanwhile; and whether the
    /// first is to be made now. It is not if the last one was just made: hostile adverts cannot make us flood the link.
    pub(crate) fn again(self, now: Instant) -> (Self, bool) {
        if self.last + Self::PAUSES[0] <= now {
            (Self::begun(now), true)
        } else {
            (Self { last: self.last, made: 0 }, false)
        }
    }
}
