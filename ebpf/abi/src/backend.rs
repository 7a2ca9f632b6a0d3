//! Where connections go.

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct BackendId(pub u32);

/// The identifier that no backend has.
pub const NO_BACKEND: BackendId = BackendId(0);

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

/// Who gets a flow with a given hash: entry `hash * LENGTH >> 32`, the same endpoint on every node. Without backends
/// every entry is [`NO_BACKEND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct MaglevTable(pub [BackendId; MaglevTable::LENGTH]);

impl MaglevTable {
    /// A prime, and as many entries as fit into 16 KiB with what the kernel adds: a hundred times forty backends.
    pub const LENGTH: usize = 4079;

    /// The entry of a flow with this hash.
    #[inline]
    pub const fn position(hash: u32) -> u32 {
        // The verifier follows a product and a shift; of a remainder older kernels know nothing.
        ((hash as u64 * Self::LENGTH as u64) >> 32) as u32
    }
}

const _: () = assert!(size_of::<SlotKey>() == 8);
const _: () = assert!(size_of::<BackendId>() == 4);
const _: () = assert!(size_of::<Backend>() == 24);
const _: () = assert!(size_of::<MaglevTable>() == 16_316);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_has_an_entry_and_every_entry_a_hash() {
        let last = u32::try_from(MaglevTable::LENGTH).unwrap() - 1;
        assert_eq!((MaglevTable::position(0), MaglevTable::position(u32::MAX)), (0, last));
        let share = u32::MAX / (last + 1) + 1;
        let met: std::collections::BTreeSet<u32> =
            (0..=last).map(|entry| MaglevTable::position(entry.saturating_mul(share))).collect();
        assert_eq!(met.len(), MaglevTable::LENGTH);
    }
}
