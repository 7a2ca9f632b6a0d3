//! Where connections go.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port, ServiceId};

/// One numbered place among the backends of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct SlotKey {
    /// Whose place.
    pub service: ServiceId,
    /// From 0 to [`crate::Service::slots`] - 1.
    pub slot: u32,
}

/// Names one backend of one service for as long as the maps live; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct BackendId(pub u32);

/// An endpoint of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Backend {
    /// The endpoint's address.
    pub address: Address,
    /// The endpoint's port.
    pub port: Port,
    /// Always 0.
    pub reserved: u16,
    /// Whose backend it is.
    pub service: ServiceId,
}

const _: () = assert!(size_of::<SlotKey>() == 8);
const _: () = assert!(size_of::<BackendId>() == 4);
const _: () = assert!(size_of::<Backend>() == 24);
