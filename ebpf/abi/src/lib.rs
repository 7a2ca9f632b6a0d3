//! The keys and values of the maps that the eBPF programs read and the dataplane writes.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | [`SERVICES`] | hash | [`ServiceKey`] | [`Service`] | dataplane |
//! | [`SLOTS`] | hash | [`SlotKey`] | [`BackendId`] | dataplane |
//! | [`BACKENDS`] | hash | [`BackendId`] | [`Backend`] | dataplane |
//! | [`TURNS`] | hash | [`ServiceId`] | [`Turn`] | dataplane creates, programs count |
//! | [`FLOWS`] | LRU hash | [`FlowKey`] | [`Flow`] | programs |
//! | [`ORIGINS`] | LRU hash | [`OriginKey`] | [`Origin`] | programs |
//!
//! A connection to a service is one look-up in `SERVICES`, one count in `TURNS` and the look-ups of the slot that the
//! count names and of the backend in it. Identifiers are given out once and never again while the maps live, so that
//! what a program remembers of a backend that is gone can be told from its successor.
//!
//! Byte order is a matter of type: [`Address`] and [`Port`] hold what is on the wire, every other number is the host's.
//! No type has padding; a change of size is a change of [`VERSION`].

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod backend;
mod flow;
mod service;

pub use address::{Address, Port};
pub use backend::{Backend, BackendId, SlotKey};
pub use flow::{Flow, FlowKey, Origin, OriginKey};
pub use service::{NO_SERVICE, Service, ServiceId, ServiceKey, Turn};

/// Version of everything in this crate. State pinned by another version is not read.
pub const VERSION: u32 = 1;

/// A map: what the kernel calls it and how many entries it holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The map's name, at most 15 bytes, which is all the kernel keeps.
    pub name: &'static str,
    /// Its capacity.
    pub capacity: u32,
}

/// Frontends.
pub const SERVICES: Table = Table { name: "SERVICES", capacity: 65_536 };
/// The backends of each service, numbered from 0 without gaps.
pub const SLOTS: Table = Table { name: "SLOTS", capacity: 262_144 };
/// Backends.
pub const BACKENDS: Table = Table { name: "BACKENDS", capacity: 262_144 };
/// The round robin counter of each service. Under [`NO_SERVICE`] it keeps the first identifier that is not reserved
/// yet, so that a dataplane that starts over what it finds gives out none again. There is room for one more, so that it is
/// [`SERVICES`] that is found full.
pub const TURNS: Table = Table { name: "TURNS", capacity: SERVICES.capacity + 2 };
/// Which backend an unconnected UDP socket talks to.
pub const FLOWS: Table = Table { name: "FLOWS", capacity: 131_072 };
/// Which service a translated peer stands for.
pub const ORIGINS: Table = Table { name: "ORIGINS", capacity: 131_072 };

/// Every map.
pub const TABLES: [Table; 6] = [SERVICES, SLOTS, BACKENDS, TURNS, FLOWS, ORIGINS];
