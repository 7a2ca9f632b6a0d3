//! What clients made of a service.

use bytemuck::{AnyBitPattern, NoUninit};

/// What the programs count of one service, on each processor by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Tally {
    /// Connections, and exchanges of datagrams, that were translated at a socket.
    pub socket_connections: u64,
    /// Those that are translated packet by packet.
    pub packet_connections: u64,
    /// Connections and packets that met no backend.
    pub refused: u64,
    /// Bytes of translated packets.
    pub bytes: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            socket_connections: self.socket_connections.wrapping_add(other.socket_connections),
            packet_connections: self.packet_connections.wrapping_add(other.packet_connections),
            refused: self.refused.wrapping_add(other.refused),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    /// What came after `before`; `None` where one number is less than it was.
    #[must_use]
    pub fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            socket_connections: self.socket_connections.checked_sub(before.socket_connections)?,
            packet_connections: self.packet_connections.checked_sub(before.packet_connections)?,
            refused: self.refused.checked_sub(before.refused)?,
            bytes: self.bytes.checked_sub(before.bytes)?,
        })
    }
}

/// One of the numbers of a [`Tally`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Tallied {
    /// [`Tally::socket_connections`].
    SocketConnection,
    /// [`Tally::packet_connections`].
    PacketConnection,
    /// [`Tally::refused`].
    Refused,
    /// [`Tally::bytes`].
    Bytes,
}

const _: () = assert!(size_of::<Tally>() == 32);
