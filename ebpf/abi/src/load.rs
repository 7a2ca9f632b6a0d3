//! How busy a backend is, and how long connections take to it.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{BackendId, ServiceId};

/// How many connections a backend has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Load(pub u64);

/// Names a socket; the kernel never gives one out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Cookie(pub u64);

/// Where a socket is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Held {
    /// The backend that it has.
    pub backend: BackendId,
}

/// A socket that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Dial {
    /// To which service.
    pub service: ServiceId,
    /// Always 0.
    pub reserved: u32,
    /// Since when, in nanoseconds since the machine started, sleep included.
    pub begun: u64,
}

/// How long the connections of a service took, from `connect` to the end of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Latency {
    /// All of them together, in nanoseconds.
    pub total: u64,
    /// How many took at most the limit of the same place and more than the one before; the last, more than all limits.
    pub counts: [u64; Latency::LIMITS.len() + 1],
}

impl Latency {
    /// In nanoseconds. A handshake within a node takes some tens of microseconds, a first packet that is lost one second.
    pub const LIMITS: [u64; 8] = {
        const MICROSECOND: u64 = 1_000;
        const MILLISECOND: u64 = 1_000_000;
        [
            100 * MICROSECOND,
            300 * MICROSECOND,
            MILLISECOND,
            3 * MILLISECOND,
            10 * MILLISECOND,
            100 * MILLISECOND,
            1_000 * MILLISECOND,
            5_000 * MILLISECOND,
        ]
    };

    /// In which of [`Latency::counts`] one of so many nanoseconds is.
    #[inline]
    pub const fn place(nanoseconds: u64) -> u32 {
        (nanoseconds > Self::LIMITS[0]) as u32
            + (nanoseconds > Self::LIMITS[1]) as u32
            + (nanoseconds > Self::LIMITS[2]) as u32
            + (nanoseconds > Self::LIMITS[3]) as u32
            + (nanoseconds > Self::LIMITS[4]) as u32
            + (nanoseconds > Self::LIMITS[5]) as u32
            + (nanoseconds > Self::LIMITS[6]) as u32
            + (nanoseconds > Self::LIMITS[7]) as u32
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sum = Self { total: self.total.wrapping_add(other.total), ..self };
        for (count, more) in sum.counts.iter_mut().zip(other.counts) {
            *count = count.wrapping_add(more);
        }
        sum
    }

    /// What came after `before`; `None` where one number is less than it was.
    #[must_use]
    pub fn since(self, before: Self) -> Option<Self> {
        let mut since = Self { total: self.total.checked_sub(before.total)?, ..self };
        for (count, less) in since.counts.iter_mut().zip(before.counts) {
            *count = count.checked_sub(less)?;
        }
        Some(since)
    }
}

const _: () = assert!(size_of::<Load>() == 8);
const _: () = assert!(size_of::<Held>() == 4);
const _: () = assert!(size_of::<Dial>() == 16);
const _: () = assert!(size_of::<Latency>() == 80);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_where_its_limit_is() {
        for (place, limit) in (0..).zip(Latency::LIMITS) {
            assert_eq!((Latency::place(limit), Latency::place(limit + 1)), (place, place + 1), "{limit}");
        }
        assert_eq!((Latency::place(0), Latency::place(u64::MAX)), (0, 8));
    }

    #[test]
    fn what_is_less_than_it_was_began_anew() {
        let mut later = Latency { total: 5, ..Latency::default() };
        later.counts[3] = 2;
        assert_eq!(later.plus(later).since(later), Some(later));
        assert_eq!(later.since(later.plus(later)), None);
    }
}
