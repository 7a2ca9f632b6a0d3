//! VRRP version 3 over IPv4 (RFC 9568) as a pure state machine: no sockets, no clock, no logs.
#![forbid(unsafe_code)]

mod settings;

pub use settings::{AdvertInterval, Checksum, Priority, RouterId, Settings, VirtualAddresses};
