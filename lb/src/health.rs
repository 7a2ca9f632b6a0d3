//! Whether a backend can answer, decided from what probes and connects came to.
//!
//! ```text
//!              first probe                  rise probes in a row succeed
//!   Unknown ----------------> Up <---------------------------------------------------+
//!      |                       |                                                     |
//!      |                       | fall probes or connects in a row fail               |
//!      |     first probe       v                kill of them in a row say: it is gone |
//!      +---------------> Unready / Down ------------------------------------> Dead --+
//! ```
//!
//! Two thresholds, for two things at stake. A backend that fails soon takes no new connections (*drain*): a mistake costs
//! little. Connections that it has are ended (*kill*) only when it has been silent for long, or says itself that it is
//! beyond help: a mistake cuts clients off from a server that is merely slow.
//!
//! Pure: the shell ([`Pool`](crate::pool::Pool)) compares the status before and after, logs, counts and ends connections.

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use nix::libc;

use crate::config::HealthCheck;

/// What is known of a backend. Only [`Status::Up`] takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// No probe has ended yet.
    #[default]
    Unknown,
    /// Ready.
    Up,
    /// It answers, but not as expected: starting, or draining before it stops. It ends its connections in its own way.
    Unready,
    /// It does not answer, or not intelligibly, or is not trusted. Its connections may still be of use.
    Down,
    /// It has not answered for long, or says that it is beyond help. Its connections are of no use to anybody.
    Dead,
}

/// Something learned about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A probe was answered as expected.
    ProbeOk,
    /// A probe was answered otherwise.
    ProbeUnready,
    /// A probe was answered by nobody whom we understand or trust.
    ProbeFailed,
    /// A probe was not answered, or by the word that the backend is beyond help.
    ProbeDead,
    /// A probe could not be sent: that says nothing about the backend.
    ProbeImpossible,
    /// A client's connection could not be passed on. Counts like a probe that was not answered; whoever sees it should
    /// [probe at once](Event::asks_for_probe) rather than wait for the next turn.
    ConnectFailed,
}

impl Event {
    /// Whether the next probe should not wait for its turn.
    pub const fn asks_for_probe(self) -> bool {
        matches!(self, Self::ConnectFailed)
    }

    /// Whether it is evidence for [`Status::Dead`].
    const fn says_dead(self) -> bool {
        matches!(self, Self::ProbeDead | Self::ConnectFailed)
    }

    /// What it alone says; `None` where that is nothing.
    const fn verdict(self) -> Option<Status> {
        match self {
            Self::ProbeOk => Some(Status::Up),
            Self::ProbeUnready => Some(Status::Unready),
            Self::ProbeFailed | Self::ProbeDead | Self::ConnectFailed => Some(Status::Down),
            Self::ProbeImpossible => None,
        }
    }
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// An answer as expected.
    Ready,
    /// Another answer.
    Unready,
    /// Another answer, and the word that it is beyond help.
    Dead,
    /// An answer that is unintelligible, or from somebody who is not trusted.
    Failed,
    /// No connection.
    Refused,
    /// No complete answer in time.
    TimedOut,
    /// This node could not ask.
    Local,
}

impl ProbeResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Ready, Self::Unready, Self::Dead, Self::Failed, Self::Refused, Self::TimedOut, Self::Local];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Dead => "dead",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Local => "local",
        }
    }

    /// What it says of the backend.
    pub const fn event(self) -> Event {
        match self {
            Self::Ready => Event::ProbeOk,
            Self::Unready => Event::ProbeUnready,
            Self::Failed => Event::ProbeFailed,
            Self::Dead | Self::Refused | Self::TimedOut => Event::ProbeDead,
            Self::Local => Event::ProbeImpossible,
        }
    }
}

/// Why a connection to a backend did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer within the frontend's connect timeout.
    TimedOut,
    /// The network says that it cannot be reached, or this node's own routes and filters do: to clients it is all the same.
    Unreachable,
    /// This node lacks something: ports, descriptors, memory. It says nothing about the backend.
    Local,
}

impl ConnectFailure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Local];

    /// What the error of a connect means.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // A reset during the handshake is a refusal by somebody in between.
            Some(libc::ECONNREFUSED | libc::ECONNRESET) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::TimedOut,
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EAGAIN
                | libc::EINTR,
            ) => Self::Local,
            // Routes: EHOSTUNREACH, ENETUNREACH, EACCES where they prohibit, EINVAL where they are black holes.
            // Filters: EPERM.
            _ => Self::Unreachable,
        }
    }

    /// The word for it in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
        }
    }

    /// Whether it says something about the backend.
    pub const fn blames_backend(self) -> bool {
        match self {
            Self::Refused | Self::TimedOut | Self::Unreachable => true,
            Self::Local => false,
        }
    }
}

/// How many results in a row change the mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until [`Status::Up`].
    pub rise: NonZeroU32,
    /// Failures until no longer [`Status::Up`].
    pub fall: NonZeroU32,
    /// Failures by silence, refusal or its own word until [`Status::Dead`]; `None`: never.
    pub kill: Option<NonZeroU32>,
    /// How long a backend may take no new connections until those that it has are ended; `None`: for ever.
    pub drain: Option<Duration>,
}

impl From<&HealthCheck> for Thresholds {
    fn from(check: &HealthCheck) -> Self {
        let HealthCheck { rise, fall, kill, drain_deadline: drain, .. } = *check;
        Self { rise, fall, kill, drain }
    }
}

/// What is known of one backend, and how long the evidence against it has been growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    status: Status,
    /// Results in a row that speak against `status`.
    contrary: u32,
    /// Results in a row that say: it is gone.
    dead: u32,
}

impl Health {
    /// What is known.
    pub const fn status(self) -> Status {
        self.status
    }

    /// Whether the last result spoke against what is known: the next one should not be long in coming.
    pub const fn in_doubt(self) -> bool {
        self.contrary > 0
    }

    /// What is known after `event`.
    #[must_use]
    pub fn after(self, event: Event, thresholds: Thresholds) -> Self {
        let Some(verdict) = event.verdict() else {
            // It says nothing; but whoever waits for the first probe must not wait for ever.
            return if self.status == Status::Unknown { Self { status: Status::Down, ..self } } else { self };
        };
        let dead = if event.says_dead() { self.dead.saturating_add(1) } else { 0 };
        let (status, contrary) = match (self.status, verdict) {
            // A refused connect alone settles nothing about a backend whose first probe is still on its way.
            (Status::Unknown, _) if event == Event::ConnectFailed => return self,
            (Status::Up, Status::Up) => (Status::Up, 0),
            (Status::Up, verdict) => self.contradicted(verdict, thresholds.fall),
            (Status::Unready | Status::Down | Status::Dead, Status::Up) => {
                self.contradicted(Status::Up, thresholds.rise)
            }
            // The first probe decides; and between two that take no connections nothing is at stake.
            (Status::Unknown | Status::Unready | Status::Down | Status::Dead, verdict) => (verdict, 0),
        };
        let gone = thresholds.kill.is_some_and(|kill| dead >= kill.get());
        let status = if status == Status::Down && gone { Status::Dead } else { status };
        Self { status, contrary, dead }
    }

    fn contradicted(self, verdict: Status, needed: NonZeroU32) -> (Status, u32) {
        let contrary = self.contrary.saturating_add(1);
        if contrary >= needed.get() { (verdict, 0) } else { (self.status, contrary) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter per event: k = as expected, n = not ready, f = unintelligible, x = no answer, i = could not ask, c =
    /// connect failed. The result is one letter per status after each event: U(p), N(ot ready), D(own), X (dead),
    /// ? (unknown).
    fn course(events: &str, rise: u32, fall: u32, kill: u32) -> String {
        let count = |number| NonZeroU32::new(number).unwrap();
        let thresholds =
            Thresholds { rise: count(rise), fall: count(fall), kill: NonZeroU32::new(kill), drain: None };
        let mut health = Health::default();
        let mut statuses = String::new();
        for letter in events.chars() {
            let event = match letter {
                'k' => Event::ProbeOk,
                'n' => Event::ProbeUnready,
                'f' => Event::ProbeFailed,
                'x' => Event::ProbeDead,
                'i' => Event::ProbeImpossible,
                'c' => Event::ConnectFailed,
                other => panic!("{other}"),
            };
            health = health.after(event, thresholds);
            statuses.push(match health.status() {
                Status::Unknown => '?',
                Status::Up => 'U',
                Status::Unready => 'N',
                Status::Down => 'D',
                Status::Dead => 'X',
            });
        }
        statuses
    }

    #[test]
    fn status_follows_from_the_course_of_events() {
        let cases = [
            ("the first probe decides", "k", "U"),
            ("the first probe decides against", "n", "N"),
            ("the first probe is not answered", "x", "D"),
            ("the first probe cannot be sent", "i", "D"),
            ("a connect before the first probe settles nothing", "cck", "??U"),
            ("one failure is forgiven", "kxk", "UUU"),
            ("fall failures in a row are not", "kxx", "UUD"),
            ("nor are answers that nobody understands", "kff", "UUD"),
            ("failures must be in a row", "kxkxkx", "UUUUUU"),
            ("not ready counts as failure", "knn", "UUN"),
            ("the last failure names the status", "kxn", "UUN"),
            ("connects count like probes", "kcc", "UUD"),
            ("connect and probe add up", "kcn", "UUN"),
            ("what cannot be asked says nothing", "kxixiik", "UUUDDDD"),
            ("one success is not enough", "xk", "DD"),
            ("rise successes in a row are", "xkkk", "DDDU"),
            ("successes must be in a row", "xkkxkkk", "DDDDDDU"),
            ("not ready breaks the row too", "nkknkkk", "NNNNNNU"),
            ("back down needs fall again", "xkkkxkx", "DDDUUUU"),
            ("a dying server is unready, then gone", "knnx", "UUND"),
            ("a starting server is gone, then unready, then up", "xnkkk", "DNNNU"),
        ];
        for (name, events, statuses) in cases {
            assert_eq!(course(events, 3, 2, 0), statuses, "{name}");
        }
    }

    #[test]
    fn it_is_dead_when_it_has_been_gone_for_long() {
        let cases = [
            ("silence in a row", "kxxxx", "UUDDX"),
            ("and it stays dead", "kxxxxx", "UUDDXX"),
            ("connects count", "kccxx", "UUDDX"),
            ("who answers is not dead, however badly", "kffffff", "UUDDDDD"),
            ("nor is who is not ready", "knnnnnn", "UUNNNNN"),
            ("an answer begins the row anew", "kxxxfxxxx", "UUDDDDDDX"),
            ("so does a success", "kxxxkxxxx", "UUDDDDDDX"),
            ("what cannot be asked does not", "kxxxix", "UUDDDX"),
            ("it was gone before it was ever up", "xxxx", "DDDX"),
            ("the dead may answer that they are not ready", "kxxxxn", "UUDDXN"),
            ("or nonsense", "kxxxxf", "UUDDXD"),
            ("the dead come back like everybody", "kxxxxkkk", "UUDDXXXU"),
            ("success at times is not enough", "kxxxxkx", "UUDDXXD"),
        ];
        for (name, events, statuses) in cases {
            assert_eq!(course(events, 3, 2, 4), statuses, "{name}");
        }
        assert_eq!(course("kxxxxxxxxx", 3, 2, 0), "UUDDDDDDDD", "no threshold, no death");
    }

    #[test]
    fn thresholds_of_one_follow_every_event() {
        assert_eq!(course("kfknkcx", 1, 1, 2), "UDUNUDX");
    }

    #[test]
    fn whoever_was_contradicted_last_is_in_doubt() {
        let fall = NonZeroU32::MIN.saturating_add(2);
        let thresholds = Thresholds { rise: NonZeroU32::MIN, fall, kill: None, drain: None };
        let mut health = Health::default();
        for (event, in_doubt) in [
            (Event::ProbeOk, false),
            (Event::ProbeDead, true),
            (Event::ProbeOk, false),
            (Event::ProbeDead, true),
            (Event::ConnectFailed, true),
            (Event::ProbeDead, false),
            (Event::ProbeDead, false),
        ] {
            health = health.after(event, thresholds);
            assert_eq!(health.in_doubt(), in_doubt, "{event:?} {health:?}");
        }
    }

    #[test]
    fn only_what_this_node_lacks_does_not_blame_the_backend() {
        let cases = [
            (libc::ECONNREFUSED, "refused", true),
            (libc::ECONNRESET, "refused", true),
            (libc::ETIMEDOUT, "timeout", true),
            (libc::EHOSTUNREACH, "unreachable", true),
            (libc::ENETUNREACH, "unreachable", true),
            (libc::EMFILE, "local", false),
            (libc::EADDRNOTAVAIL, "local", false),
            (libc::ENOBUFS, "local", false),
            (libc::EINVAL, "unreachable", true),
            (libc::EACCES, "unreachable", true),
            (libc::EPERM, "unreachable", true),
        ];
        for (code, label, blames) in cases {
            let failure = ConnectFailure::of(&io::Error::from_raw_os_error(code));
            assert_eq!((failure.label(), failure.blames_backend()), (label, blames), "{code}");
        }
    }

    #[test]
    fn numbers_are_positions() {
        assert!(ProbeResult::ALL.into_iter().map(|result| result as usize).eq(0..7));
        assert!(ConnectFailure::ALL.into_iter().map(|failure| failure as usize).eq(0..4));
    }
}
