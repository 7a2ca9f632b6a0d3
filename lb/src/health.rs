//! Whether a backend can answer, decided from what probes and connects came to.
//!
//! ```text
//!              first probe                  rise probes in a row succeed
//!   Unknown ----------------> Up <----------------------------------------+
//!      |                       |                                          |
//!      |                       | fall probes or connects in a row fail    |
//!      |     first probe       v                                          |
//!      +---------------> Unready / Down ----------------------------------+
//! ```
//!
//! Pure: the shell ([`Pool`](crate::pool::Pool)) compares the status before and after, logs and counts.

use std::num::NonZeroU32;

/// What is known of a backend. Only [`Status::Up`] takes new connections; established ones are left alone in every
/// status: a server that answers "not ready" is about to end them in its own way, and one that is gone is found out by
/// TCP itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// No probe has ended yet.
    #[default]
    Unknown,
    /// Ready.
    Up,
    /// It answers, but not with 200: starting, or draining before it stops.
    Unready,
    /// It does not answer.
    Down,
}

/// Something learned about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A probe was answered with 200.
    ProbeOk,
    /// A probe was answered otherwise.
    ProbeUnready,
    /// A probe was not answered, or not in time, or not by whom we trust.
    ProbeFailed,
    /// A client's connection could not be passed on. Counts like a failed probe; whoever sees it should
    /// [probe at once](Event::asks_for_probe) rather than wait for the next turn.
    ConnectFailed,
}

impl Event {
    /// Whether the next probe should not wait for its turn.
    pub const fn asks_for_probe(self) -> bool {
        match self {
            Self::ConnectFailed => true,
            Self::ProbeOk | Self::ProbeUnready | Self::ProbeFailed => false,
        }
    }
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// 200.
    Ready,
    /// Another status.
    Unready,
    /// No answer, or none that counts.
    Failed,
    /// No complete answer in time.
    TimedOut,
}

impl ProbeResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Unready, Self::Failed, Self::TimedOut];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
        }
    }

    /// What it says of the backend.
    pub const fn event(self) -> Event {
        match self {
            Self::Ready => Event::ProbeOk,
            Self::Unready => Event::ProbeUnready,
            Self::Failed | Self::TimedOut => Event::ProbeFailed,
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
    /// The network says that it cannot be reached.
    Unreachable,
    /// This node lacks something: ports, descriptors, memory, a permission. It says nothing about the backend.
    Local,
}

impl ConnectFailure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Local];

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
}

/// What is known of one backend, and how long the evidence against it has been growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    status: Status,
    /// Results in a row that speak against `status`.
    contrary: u32,
}

impl Health {
    /// What is known.
    pub const fn status(self) -> Status {
        self.status
    }

    /// What is known after `event`.
    #[must_use]
    pub fn after(self, event: Event, thresholds: Thresholds) -> Self {
        match (self.status, verdict(event)) {
            // A refused connect alone settles nothing about a backend whose first probe is still on its way.
            (Status::Unknown, _) if event == Event::ConnectFailed => self,
            (Status::Up, Status::Up) => Self::settled(Status::Up),
            (Status::Up, verdict) => self.contradicted(verdict, thresholds.fall),
            (Status::Unready | Status::Down, Status::Up) => self.contradicted(Status::Up, thresholds.rise),
            // The first probe decides; and between two that take no connections nothing is at stake.
            (Status::Unknown | Status::Unready | Status::Down, verdict) => Self::settled(verdict),
        }
    }

    const fn settled(status: Status) -> Self {
        Self { status, contrary: 0 }
    }

    const fn contradicted(self, verdict: Status, needed: NonZeroU32) -> Self {
        let contrary = self.contrary.saturating_add(1);
        if contrary >= needed.get() { Self::settled(verdict) } else { Self { contrary, ..self } }
    }
}

/// What `event` alone says.
const fn verdict(event: Event) -> Status {
    match event {
        Event::ProbeOk => Status::Up,
        Event::ProbeUnready => Status::Unready,
        Event::ProbeFailed | Event::ConnectFailed => Status::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter per event: k = 200, n = not 200, x = no answer, c = connect failed. The result is one letter per
    /// status after each event: U(p), N(ot ready), D(own), ? (unknown).
    fn course(events: &str, rise: u32, fall: u32) -> String {
        let thresholds =
            Thresholds { rise: NonZeroU32::new(rise).unwrap(), fall: NonZeroU32::new(fall).unwrap() };
        let mut health = Health::default();
        let mut statuses = String::new();
        for letter in events.chars() {
            let event = match letter {
                'k' => Event::ProbeOk,
                'n' => Event::ProbeUnready,
                'x' => Event::ProbeFailed,
                'c' => Event::ConnectFailed,
                other => panic!("{other}"),
            };
            health = health.after(event, thresholds);
            statuses.push(match health.status() {
                Status::Unknown => '?',
                Status::Up => 'U',
                Status::Unready => 'N',
                Status::Down => 'D',
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
            ("a connect before the first probe settles nothing", "cck", "??U"),
            ("one failure is forgiven", "kxk", "UUU"),
            ("fall failures in a row are not", "kxx", "UUD"),
            ("failures must be in a row", "kxkxkx", "UUUUUU"),
            ("not ready counts as failure", "knn", "UUN"),
            ("the last failure names the status", "kxn", "UUN"),
            ("connects count like probes", "kcc", "UUD"),
            ("connect and probe add up", "kcn", "UUN"),
            ("one success is not enough", "xk", "DD"),
            ("rise successes in a row are", "xkkk", "DDDU"),
            ("successes must be in a row", "xkkxkkk", "DDDDDDU"),
            ("not ready breaks the row too", "nkknkkk", "NNNNNNU"),
            ("back down needs fall again", "xkkkxkx", "DDDUUUU"),
            ("a dying server is unready, then gone", "knnx", "UUND"),
            ("a starting server is gone, then unready, then up", "xnkkk", "DNNNU"),
        ];
        for (name, events, statuses) in cases {
            assert_eq!(course(events, 3, 2), statuses, "{name}");
        }
    }

    #[test]
    fn thresholds_of_one_follow_every_event() {
        assert_eq!(course("kxknkck", 1, 1), "UDUNUDU");
    }

    #[test]
    fn only_a_failed_connect_asks_for_a_probe() {
        let asking = [Event::ProbeOk, Event::ProbeUnready, Event::ProbeFailed, Event::ConnectFailed]
            .map(Event::asks_for_probe);
        assert_eq!(asking, [false, false, false, true]);
    }

    #[test]
    fn numbers_are_positions() {
        assert!(ProbeResult::ALL.into_iter().map(|result| result as usize).eq(0..4));
        assert!(ConnectFailure::ALL.into_iter().map(|failure| failure as usize).eq(0..4));
    }
}
