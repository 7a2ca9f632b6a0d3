//! What one virtual router is told by its operator. Every type here is checked when it is made.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use crate::addresses::{Audience, VirtualAddresses};

/// The virtual router identifier (VRID, RFC 9568 §5.2.3): 1 to 255, one per virtual router and link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(NonZeroU8);

impl RouterId {
    /// `None` for 0, which RFC 9568 does not allow.
    pub const fn new(id: u8) -> Option<Self> {
        match NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How much a router wants to be master (RFC 9568 §5.2.4): 1 to 255, more is stronger.
///
/// 255 is for the owner of the addresses, who never waits. 0 is no priority: on the wire it says that a master leaves,
/// see [`Advert`](crate::Advert).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(NonZeroU8);

impl Priority {
    /// The priority of the address owner.
    pub const OWNER: Self = Self(NonZeroU8::MAX);

    /// `None` for 0.
    pub const fn new(priority: u8) -> Option<Self> {
        match NonZeroU8::new(priority) {
            Some(priority) => Some(Self(priority)),
            None => None,
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The time between two adverts of a master in version 3 (RFC 9568 §5.2.7): whole centiseconds, 10 ms to 40.95 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvertInterval {
    centiseconds: u16,
}

impl AdvertInterval {
    /// The default of RFC 9568 §6.1.
    pub const ONE_SECOND: Self = Self { centiseconds: 100 };

    /// `None` outside of 10 ms to 40.95 s, and for what is no whole number of centiseconds: nothing is rounded.
    pub fn new(interval: Duration) -> Option<Self> {
        if !interval.as_nanos().is_multiple_of(10_000_000) {
            return None;
        }
        Self::from_centiseconds(u16::try_from(interval.as_millis() / 10).ok()?)
    }

    /// The interval as adverts carry it: 12 bits, and never 0.
    pub const fn from_centiseconds(centiseconds: u16) -> Option<Self> {
        match centiseconds {
            1..=0x0fff => Some(Self { centiseconds }),
            _ => None,
        }
    }

    /// As adverts carry it.
    pub const fn centiseconds(self) -> u16 {
        self.centiseconds
    }

    /// As a span of time.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.centiseconds as u64 * 10)
    }
}

/// The time between two adverts of a master in version 2 (RFC 3768 §5.3.7): whole seconds, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WholeSeconds(NonZeroU8);

impl WholeSeconds {
    /// `None` outside of 1 s to 255 s, and for what is no whole number of seconds: nothing is rounded.
    pub fn new(interval: Duration) -> Option<Self> {
        let seconds = NonZeroU8::new(u8::try_from(interval.as_secs()).ok()?)?;
        (interval.subsec_nanos() == 0).then_some(Self(seconds))
    }

    /// As adverts carry it.
    pub const fn number(self) -> u8 {
        self.0.get()
    }

    /// As a span of time.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

/// What the routers of version 2 tell each other to keep strangers out (RFC 2338 §5.3.6.2, simple text password). It is
/// on the wire for all to read: it protects from mistakes, not from attackers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; 8]);

impl Password {
    /// `None` unless it is 1 to 8 bytes, none of them 0: adverts fill it up with these.
    pub fn new(password: &str) -> Option<Self> {
        let bytes = password.as_bytes();
        let mut filled = [0; 8];
        filled.get_mut(..bytes.len())?.copy_from_slice(bytes);
        (!bytes.is_empty() && !bytes.contains(&0)).then_some(Self(filled))
    }

    /// As adverts carry it.
    pub(crate) const fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// Whether `found` is the same, in a time that does not depend on how much of it is.
    pub(crate) fn is(self, found: &[u8]) -> bool {
        let difference = self
            .0
            .iter()
            .zip(found)
            .fold(0, |difference, (ours, theirs)| std::hint::black_box(difference | (ours ^ theirs)));
        found.len() == self.0.len() && difference == 0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

/// The version of the protocol, the same for all routers of a virtual router, and what only it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768: whole seconds, and all routers must agree on them.
    Two {
        /// Time between our adverts while we are master, and between those of any other.
        interval: WholeSeconds,
        /// What every advert must carry.
        password: Option<Password>,
    },
    /// RFC 9568.
    Three {
        /// Time between our adverts while we are master.
        interval: AdvertInterval,
        /// How checksums are computed and expected.
        checksum: Checksum,
    },
}

impl Version {
    /// As adverts carry it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Two { .. } => 2,
            Self::Three { .. } => 3,
        }
    }

    /// Time between our adverts while we are master.
    pub const fn interval(self) -> Duration {
        match self {
            Self::Two { interval, .. } => interval.duration(),
            Self::Three { interval, .. } => interval.duration(),
        }
    }
}

/// Which bytes the checksum of an IPv4 advert of version 3 covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checksum {
    /// The message and an IPv4 pseudo-header, as RFC 5798 was read by keepalived and FRR.
    #[default]
    PseudoHeader,
    /// The message alone, as RFC 9568 §5.2.8 has it.
    Plain,
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PseudoHeader => "pseudo-header",
            Self::Plain => "plain",
        })
    }
}

/// Whether a stronger router takes over from a weaker master that is well (`Preempt_Mode`, RFC 9568 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preempt {
    /// It serves under any master.
    Never,
    /// It lets a weaker master go on for this long, from its own start or from the time it first hears the weaker one
    /// in a row; then it takes over. Zero is what RFC 9568 knows. A weaker master that is silent or says farewell is
    /// replaced as any other.
    After(Duration),
}

/// One virtual router as this node takes part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which virtual router.
    pub router_id: RouterId,
    /// How much this node wants to be its master.
    pub priority: Priority,
    /// How its routers speak.
    pub version: Version,
    /// Whether a master of lower priority is replaced. The address owner always does so, at once.
    pub preempt: Preempt,
    /// The address our adverts come from, of the family of the virtual ones and never one of these: the primary one of
    /// the interface, over IPv6 the link-local one (RFC 9568 §5.1.2.1).
    pub local: IpAddr,
    /// Who our adverts are for, and whose we believe.
    pub audience: Audience,
    /// The addresses the master holds.
    pub addresses: VirtualAddresses,
}

impl Settings {
    /// Where every advert is to be sent.
    pub fn destinations(&self) -> Vec<IpAddr> {
        match &self.audience {
            Audience::Group => vec![self.addresses.family().group()],
            Audience::Peers(peers) => peers.iter().collect(),
        }
    }

    /// How long a weaker master may go on; `None` for ever.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self.preempt {
            Preempt::Never | Preempt::After(_) if self.priority == Priority::OWNER => Some(Duration::ZERO),
            Preempt::Never => None,
            Preempt::After(delay) => Some(delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_whole_centiseconds_in_range_and_never_rounded() {
        let centiseconds = |interval| AdvertInterval::new(interval).map(AdvertInterval::centiseconds);
        let cases = [
            (Duration::ZERO, None),
            (Duration::from_millis(9), None),
            (Duration::from_millis(10), Some(1)),
            (Duration::from_micros(10_001), None),
            (Duration::from_nanos(10_000_001), None),
            (Duration::from_millis(100), Some(10)),
            (Duration::from_millis(105), None),
            (Duration::from_millis(40_950), Some(4095)),
            (Duration::from_millis(40_960), None),
            (Duration::from_secs(41), None),
            (Duration::from_secs(u64::MAX), None),
        ];
        for (interval, expected) in cases {
            assert_eq!(centiseconds(interval), expected, "{interval:?}");
        }
    }

    #[test]
    fn an_interval_survives_its_duration() {
        for centiseconds in 1..=0x0fff {
            let interval = AdvertInterval::from_centiseconds(centiseconds).unwrap();
            assert_eq!(AdvertInterval::new(interval.duration()), Some(interval));
        }
    }

    #[test]
    fn version_2_counts_whole_seconds_and_never_rounds() {
        let cases = [
            (Duration::ZERO, None),
            (Duration::from_millis(500), None),
            (Duration::from_secs(1), Some(1)),
            (Duration::from_nanos(1_000_000_001), None),
            (Duration::from_secs(255), Some(255)),
            (Duration::from_secs(256), None),
            (Duration::from_secs(257), None),
            (Duration::MAX, None),
        ];
        for (interval, expected) in cases {
            assert_eq!(WholeSeconds::new(interval).map(WholeSeconds::number), expected, "{interval:?}");
        }
    }

    #[test]
    fn a_password_is_one_to_eight_bytes_and_is_not_shown() {
        for refused in ["", "123456789", "12\0", "äöüäö"] {
            assert_eq!(Password::new(refused), None, "{refused:?}");
        }
        assert_eq!(Password::new("12345678").map(Password::bytes), Some(*b"12345678"));
        let password = Password::new("secret").unwrap();
        assert_eq!(password.bytes(), *b"secret\0\0");
        assert!(!format!("{password:?}").contains("secret"));
        assert!(password.is(b"secret\0\0"));
        for other in [&b"secret\0\x01"[..], b"Secret\0\0", b"secret", b"", b"secret\0\0\0", &[0; 8]] {
            assert!(!password.is(other), "{other:?}");
        }
    }

    #[test]
    fn zero_is_neither_a_router_nor_a_priority() {
        assert_eq!(RouterId::new(0), None);
        assert_eq!(Priority::new(0), None);
        assert_eq!(RouterId::new(255).map(RouterId::number), Some(255));
        assert_eq!(Priority::new(255), Some(Priority::OWNER));
    }
}
