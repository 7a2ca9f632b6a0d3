//! What the programs remember of sockets. Sockets are named by their cookie, which the kernel never gives out twice.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, BackendId, Port, ServiceId};

/// An unconnected UDP socket that sends to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct FlowKey {
    /// The socket.
    pub cookie: u64,
    /// The service it sends to.
    pub service: ServiceId,
    /// Always 0.
    pub reserved: u32,
}

/// The backend its datagrams go to, as long as that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Flow {
    /// The backend.
    pub backend: BackendId,
}

/// A socket and a peer that was put in place of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct OriginKey {
    /// The socket.
    pub cookie: u64,
    /// The backend's address.
    pub address: Address,
    /// The backend's port.
    pub port: Port,
    /// Always 0.
    pub reserved: [u16; 3],
}

/// The frontend that the application named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Origin {
    /// The frontend's address.
    pub address: Address,
    /// The frontend's port.
    pub port: Port,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<Flow>() == 4);
const _: () = assert!(size_of::<OriginKey>() == 32);
const _: () = assert!(size_of::<Origin>() == 20);
