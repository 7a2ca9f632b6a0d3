//! Frontends.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port};

/// A frontend: what a client names when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct ServiceKey {
    /// The address clients use.
    pub address: Address,
    /// The port clients use.
    pub port: Port,
    /// The IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Whose packets it is for.
    pub audience: Audience,
}

/// Whose packets a frontend is for. A packet from outside of the node looks for [`Audience::OUTSIDE`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Audience(pub u8);

impl Audience {
    /// Everyone, unless there is a frontend of their own for them.
    pub const EVERYONE: Self = Self(0);
    /// Those whose packets arrive from outside of the node.
    pub const OUTSIDE: Self = Self(1);
}

/// Names a service for as long as the maps live; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

/// The identifier that no service has.
pub const NO_SERVICE: ServiceId = ServiceId(0);

/// What stands behind a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Service {
    /// Under which its slots, its turn and everything else are found.
    pub id: ServiceId,
    /// How many slots it has.
    pub slots: u32,
    /// How its clients are treated.
    pub rules: Rules,
}

/// How the clients of a frontend are treated. All zero: everybody is served in turn, and refused where nobody serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Rules {
    /// Frontends of one group share what [`crate::AFFINITY`] remembers of a client; without [`Rules::AFFINITY`] always 0.
    pub affinity_group: u64,
    /// A client that made no new connection for so many seconds is forgotten; without [`Rules::AFFINITY`] always 0.
    pub affinity_timeout: u32,
    /// Who gets the next connection.
    pub scheduler: Scheduler,
    /// Whose source address is replaced by the node's.
    pub masquerade: Masquerade,
    /// [`Rules::AFFINITY`], [`Rules::SOURCE_RANGES`], [`Rules::DROP_WHEN_EMPTY`] and [`Rules::EXCLUSIVE`].
    pub flags: u8,
    /// Always 0.
    pub reserved: u8,
}

impl Rules {
    /// A client comes back to the backend it had.
    pub const AFFINITY: u8 = 1;
    /// Only those whom [`crate::SOURCE_RANGES`] knows are served, everybody else is dropped.
    pub const SOURCE_RANGES: u8 = 2;
    /// Without backends clients are dropped instead of refused.
    pub const DROP_WHEN_EMPTY: u8 = 4;
    /// The address is in [`crate::EXCLUSIVE`].
    pub const EXCLUSIVE: u8 = 8;

    /// Whether one of the flags is set.
    #[inline]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Scheduler(pub u8);

impl Scheduler {
    /// In turn, exactly.
    pub const ROUND_ROBIN: Self = Self(0);
    /// Any, with equal probability.
    pub const RANDOM: Self = Self(1);
    /// The one with the fewest connections.
    pub const LEAST_CONNECTIONS: Self = Self(2);
    /// By the service's table in [`crate::MAGLEV`] where there is a flow that all nodes see alike; in turn elsewhere.
    pub const MAGLEV: Self = Self(3);
}

/// Whose source address is replaced by the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Masquerade(pub u8);

impl Masquerade {
    /// Nobody's.
    pub const NEVER: Self = Self(0);
    /// That of whoever is no pod of this node.
    pub const FROM_OUTSIDE_PODS: Self = Self(1);
    /// Everybody's.
    pub const ALWAYS: Self = Self(2);
}

/// How many connections a service has handed out. Counted atomically, so that the turns of all processors together are
/// an exact round robin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Turn(pub u64);

/// Who may use a service with [`Rules::SOURCE_RANGES`]: the data of a longest-prefix match. The prefix is
/// [`SourceRange::SERVICE_BITS`] and that of the address, which for IPv4 is 96 longer than the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct SourceRange {
    /// Whose clients.
    pub service: ServiceId,
    /// The network's address, or a client's in a look-up.
    pub address: Address,
}

impl SourceRange {
    /// How many bits of a prefix are the service's.
    pub const SERVICE_BITS: u32 = 32;
    /// The prefix of a look-up.
    pub const BITS: u32 = Self::SERVICE_BITS + 128;
}

const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<ServiceId>() == 4);
const _: () = assert!(size_of::<Service>() == 24);
const _: () = assert!(size_of::<Turn>() == 8);
const _: () = assert!(size_of::<SourceRange>() == 20);
