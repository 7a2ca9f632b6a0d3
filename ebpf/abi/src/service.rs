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
    pub protocol: u16,
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
    /// Under which its slots and its turn are found.
    pub id: ServiceId,
    /// How many slots it has. With none its clients are refused.
    pub slots: u32,
}

/// How many connections a service has handed out. Counted atomically, so that the turns of all processors together are
/// an exact round robin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Turn(pub u64);

const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<ServiceId>() == 4);
const _: () = assert!(size_of::<Service>() == 8);
const _: () = assert!(size_of::<Turn>() == 8);
