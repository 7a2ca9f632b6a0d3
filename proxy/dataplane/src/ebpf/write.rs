//! One write to one map: what a change is made of.

use std::sync::Arc;

use ebpf_abi::{
    Address, Backend, BackendId, MaglevTable, MemberKey, Service, ServiceId, ServiceKey, SlotKey,
};

use super::encode::SourceNetwork;

/// One entry put or dropped. A program may run between any two, so their order is what keeps a service whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Identifiers below this one are taken, also after a restart.
    Reserve(u32),
    /// A new service's counter, from 0.
    PutTurn(ServiceId),
    DropTurn(ServiceId),
    PutService(ServiceKey, Service),
    DropService(ServiceKey),
    /// The address belongs to services alone.
    PutExclusive(Address),
    DropExclusive(Address),
    PutBackend(BackendId, Backend),
    DropBackend(BackendId),
    PutSlot(SlotKey, BackendId),
    DropSlot(SlotKey),
    /// Its connections are counted, from 0.
    PutLoad(BackendId),
    DropLoad(BackendId),
    PutMember(MemberKey, BackendId),
    DropMember(MemberKey),
    /// Also in the place of another.
    PutMaglev(ServiceId, Arc<MaglevTable>),
    DropMaglev(ServiceId),
    PutSourceNetwork(SourceNetwork),
    DropSourceNetwork(SourceNetwork),
}

impl Write {
    /// What takes back an entry that was new; `None` where there is nothing to take back, or nobody knows what was
    /// there.
    pub(super) const fn taken_back(&self) -> Option<Self> {
        match *self {
            Self::PutTurn(id) => Some(Self::DropTurn(id)),
            Self::PutService(key, _) => Some(Self::DropService(key)),
            Self::PutExclusive(address) => Some(Self::DropExclusive(address)),
            Self::PutBackend(id, _) => Some(Self::DropBackend(id)),
            Self::PutSlot(key, _) => Some(Self::DropSlot(key)),
            Self::PutLoad(id) => Some(Self::DropLoad(id)),
            Self::PutMember(key, _) => Some(Self::DropMember(key)),
            Self::PutSourceNetwork(network) => Some(Self::DropSourceNetwork(network)),
            Self::Reserve(_)
            | Self::DropTurn(_)
            | Self::DropService(_)
            | Self::DropExclusive(_)
            | Self::DropBackend(_)
            | Self::DropSlot(_)
            | Self::DropLoad(_)
            | Self::DropMember(_)
            | Self::PutMaglev(..)
            | Self::DropMaglev(_)
            | Self::DropSourceNetwork(_) => None,
        }
    }
}
