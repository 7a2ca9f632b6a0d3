//! Clients that come back to the backend they had.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port, ServiceId};

/// A client of a group of frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct AffinityKey {
    /// [`crate::Rules::affinity_group`].
    pub group: u64,
    /// The client.
    pub client: Client,
}

/// Whoever is taken for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Client {
    address: Address,
    /// 0 for an address on the wire, 1 for a network namespace.
    kind: u32,
    /// Always 0.
    reserved: u32,
}

impl Client {
    /// Whoever sends packets from an address.
    #[inline]
    pub const fn from_address(address: Address) -> Self {
        Self { address, kind: 0, reserved: 0 }
    }

    /// Whoever is in a network namespace of this node, by its cookie: a pod, or everybody in the host's network. A
    /// socket that connects need not have an address yet.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
    pub const fn from_namespace(cookie: u64) -> Self {
        let address = Address::from_v6_words([0, 0, (cookie >> 32) as u32, cookie as u32]);
        Self { address, kind: 1, reserved: 0 }
    }
}

/// The backend that a client had. By its address, because each frontend of a group has backends of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Affinity {
    /// The backend's address.
    pub address: Address,
    /// The backend's port.
    pub port: Port,
    /// Always 0.
    pub reserved: [u16; 3],
    /// When the client last made a connection, in nanoseconds since the machine started, sleep included.
    pub seen: u64,
}

/// An endpoint as one of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct MemberKey {
    /// Whose backend.
    pub service: ServiceId,
    /// The endpoint's address.
    pub address: Address,
    /// The endpoint's port.
    pub port: Port,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<AffinityKey>() == 32);
const _: () = assert!(size_of::<Affinity>() == 32);
const _: () = assert!(size_of::<MemberKey>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_taken_for_a_namespace() {
        let cookie = 0x0102_0304_0506_0708;
        let address = Address::from_v6_words([0, 0, 0x0102_0304, 0x0506_0708]);
        assert_ne!(Client::from_namespace(cookie), Client::from_address(address));
        assert_ne!(Client::from_namespace(cookie), Client::from_namespace(cookie + 1));
        assert_ne!(Client::from_namespace(cookie), Client::from_namespace(cookie + (1 << 32)));
    }
}
