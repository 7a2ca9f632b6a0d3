//! The maps the dataplane writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, MapInfo};
use bytemuck::{AnyBitPattern, NoUninit};
use ebpf_abi::{
    Address, Backend, BackendId, Load, MaglevTable, MemberKey, NO_SERVICE, Service, ServiceId, ServiceKey,
    SlotKey, SourceRange, Table, Turn,
};

use super::encode::SourceNetwork;
use super::pins::Pins;
use super::pod::Plain;
use super::repair::{Counted, Found};
use super::write::Write;
use crate::{Error, kernel};

/// The maps the dataplane writes, in the kernel.
#[derive(Debug)]
pub(super) struct Maps {
    services: Map<ServiceKey, Service>,
    exclusive: Map<Address, u32>,
    slots: Map<SlotKey, BackendId>,
    backends: Map<BackendId, Backend>,
    socket_loads: Map<BackendId, Load>,
    packet_loads: Map<BackendId, Load>,
    members: Map<MemberKey, BackendId>,
    maglev: Map<ServiceId, MaglevTable>,
    networks: Networks,
    turns: Map<ServiceId, Turn>,
}

impl Maps {
    /// Takes them from what was loaded.
    pub(super) fn take(object: &mut aya::Ebpf) -> Result<Self, Error> {
        Ok(Self {
            services: Map::take(object, ebpf_abi::SERVICES)?,
            exclusive: Map::take(object, ebpf_abi::EXCLUSIVE)?,
            slots: Map::take(object, ebpf_abi::SLOTS)?,
            backends: Map::take(object, ebpf_abi::BACKENDS)?,
            socket_loads: Map::take(object, ebpf_abi::SOCKET_LOADS)?,
            packet_loads: Map::take(object, ebpf_abi::PACKET_LOADS)?,
            members: Map::take(object, ebpf_abi::MEMBERS)?,
            maglev: Map::take(object, ebpf_abi::MAGLEV)?,
            networks: Networks::take(object, ebpf_abi::SOURCE_RANGES)?,
            turns: Map::take(object, ebpf_abi::TURNS)?,
        })
    }

    /// Everything they hold.
    pub(super) fn read(&self) -> Result<Found, Error> {
        Ok(Found {
            services: self.services.entries()?,
            exclusive: self.exclusive.entries()?.into_keys().collect(),
            slots: self.slots.entries()?,
            backends: self.backends.entries()?,
            loads: self.loads()?,
            members: self.members.entries()?,
            maglev: self.maglev.entries()?.into_iter().map(|(id, table)| (id, Arc::new(table))).collect(),
            networks: self.networks.entries()?,
            turns: self.turns.entries()?,
        })
    }

    fn loads(&self) -> Result<BTreeMap<BackendId, Counted>, Error> {
        let mut loads: BTreeMap<BackendId, Counted> = BTreeMap::new();
        for id in self.socket_loads.entries()?.into_keys() {
            loads.entry(id).or_default().sockets = true;
        }
        for id in self.packet_loads.entries()?.into_keys() {
            loads.entry(id).or_default().packets = true;
        }
        Ok(loads)
    }

    /// A number for each map that differs when an entry came or went (Linux 6.4; before, never).
    pub(super) fn usage(&self) -> Result<Vec<u64>, Error> {
        let limits = [
            self.services.limits,
            self.exclusive.limits,
            self.slots.limits,
            self.backends.limits,
            self.socket_loads.limits,
            self.packet_loads.limits,
            self.members.limits,
            self.maglev.limits,
            self.networks.limits,
            self.turns.limits,
        ];
        limits.iter().map(|limits| kernel::map_usage(limits.descriptor)).collect()
    }

    /// Carries out one write.
    pub(super) fn write(&mut self, write: &Write) -> Result<(), Error> {
        match *write {
            Write::Reserve(first_free) => self.turns.put(NO_SERVICE, Turn(first_free.into())),
            Write::PutTurn(id) => self.turns.put(id, Turn::default()),
            Write::DropTurn(id) => self.turns.drop(id),
            Write::PutService(key, service) => self.services.put(key, service),
            Write::DropService(key) => self.services.drop(key),
            Write::PutExclusive(address) => self.exclusive.put(address, 1),
            Write::DropExclusive(address) => self.exclusive.drop(address),
            Write::PutBackend(id, backend) => self.backends.put(id, backend),
            Write::DropBackend(id) => self.backends.drop(id),
            Write::PutSlot(key, id) => self.slots.put(key, id),
            Write::DropSlot(key) => self.slots.drop(key),
            Write::PutLoad(id) => {
                self.socket_loads.begin(id, Load::default())?;
                self.packet_loads.begin(id, Load::default())
            }
            Write::DropLoad(id) => {
                self.socket_loads.drop(id)?;
                self.packet_loads.drop(id)
            }
            Write::PutMember(key, id) => self.members.put(key, id),
            Write::DropMember(key) => self.members.drop(key),
            Write::PutMaglev(id, ref table) => self.maglev.put(id, **table),
            Write::DropMaglev(id) => self.maglev.drop(id),
            Write::PutSourceNetwork(network) => self.networks.put(network),
            Write::DropSourceNetwork(network) => self.networks.drop(network),
        }
    }
}

/// What is known of a map.
#[derive(Clone, Copy, Debug)]
struct Limits {
    name: &'static str,
    descriptor: RawFd,
    /// As found: state that an earlier process pinned keeps the capacity it was made with.
    capacity: u32,
}

/// One map.
#[derive(Debug)]
struct Map<K, V> {
    limits: Limits,
    entries: HashMap<MapData, Plain<K>, Plain<V>>,
}

impl<K, V> Map<K, V>
where
    K: NoUninit + AnyBitPattern + Ord,
    V: NoUninit + AnyBitPattern,
{
    fn take(object: &mut aya::Ebpf, table: Table) -> Result<Self, Error> {
        let (map, limits) = take(object, table)?;
        let entries = HashMap::try_from(map).map_err(|source| limits.error("open", source))?;
        Ok(Self { limits, entries })
    }

    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        let entries = self.entries.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)));
        entries.collect::<Result<_, _>>().map_err(|source| self.limits.error("read", source))
    }

    fn put(&mut self, key: K, value: V) -> Result<(), Error> {
        self.entries.insert(Plain(key), Plain(value), 0).map_err(|source| self.limits.error("write", source))
    }

    /// Success where there is such an entry, which stays as it is.
    fn begin(&mut self, key: K, value: V) -> Result<(), Error> {
        const NO_EXIST: u64 = 1;
        match self.entries.insert(Plain(key), Plain(value), NO_EXIST) {
            Err(source)
                if system_error(&source).is_none_or(|error| error.kind() != io::ErrorKind::AlreadyExists) =>
            {
                Err(self.limits.error("write", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Success where there is no such entry.
    fn drop(&mut self, key: K) -> Result<(), Error> {
        self.limits.dropped(self.entries.remove(&Plain(key)))
    }
}

/// The networks from which services may be used.
#[derive(Debug)]
struct Networks {
    limits: Limits,
    entries: LpmTrie<MapData, Plain<SourceRange>, u32>,
}

impl Networks {
    fn take(object: &mut aya::Ebpf, table: Table) -> Result<Self, Error> {
        let (map, limits) = take(object, table)?;
        let entries = LpmTrie::try_from(map).map_err(|source| limits.error("open", source))?;
        Ok(Self { limits, entries })
    }

    fn entries(&self) -> Result<BTreeSet<SourceNetwork>, Error> {
        let entries = self
            .entries
            .keys()
            .map(|key| key.map(|key| SourceNetwork { range: key.data().0, prefix: key.prefix_len() }));
        entries.collect::<Result<_, _>>().map_err(|source| self.limits.error("read", source))
    }

    fn put(&mut self, SourceNetwork { range, prefix }: SourceNetwork) -> Result<(), Error> {
        let key = Key::new(prefix, Plain(range));
        self.entries.insert(&key, 1, 0).map_err(|source| self.limits.error("write", source))
    }

    /// Success where there is no such entry.
    fn drop(&mut self, SourceNetwork { range, prefix }: SourceNetwork) -> Result<(), Error> {
        self.limits.dropped(self.entries.remove(&Key::new(prefix, Plain(range))))
    }
}

/// Takes a map from what was loaded.
pub(super) fn take_map(object: &mut aya::Ebpf, Table { name, .. }: Table) -> Result<aya::maps::Map, Error> {
    let missing = || MapError::InvalidName { name: name.to_owned() };
    object.take_map(name).ok_or_else(|| Error::map("open", name)(missing()))
}

fn take(object: &mut aya::Ebpf, table: Table) -> Result<(aya::maps::Map, Limits), Error> {
    let name = table.name;
    let open = Error::map("open", name);
    let map = take_map(object, table)?;
    let data = if let aya::maps::Map::HashMap(data) = &map {
        data
    } else if let aya::maps::Map::LpmTrie(data) = &map {
        data
    } else {
        return Err(open(MapError::InvalidMapType { map_type: 0 }));
    };
    let capacity = data.info().map_err(open)?.max_entries();
    let descriptor = data.fd().as_fd().as_raw_fd();
    Ok((map, Limits { name, descriptor, capacity }))
}

impl Limits {
    fn error(self, action: &'static str, source: MapError) -> Error {
        let Self { name: map, capacity, .. } = self;
        // What E2BIG means for a hash, and ENOSPC for a trie.
        if system_error(&source).is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::ArgumentListTooLong | io::ErrorKind::StorageFull)
        }) {
            return Error::Full { map, capacity };
        }
        Error::map(action, map)(source)
    }

    fn dropped(self, outcome: Result<(), MapError>) -> Result<(), Error> {
        match outcome {
            Err(source)
                if system_error(&source).is_none_or(|error| error.kind() != io::ErrorKind::NotFound) =>
            {
                Err(self.error("write", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A map of ours by its pin, read beside whoever owns the dataplane.
pub(super) fn pinned(pins: &Pins, table: Table) -> Result<aya::maps::Map, Error> {
    let failed = Error::map("open", table.name);
    let data = MapData::from_pin(pins.maps().join(table.name)).map_err(&failed)?;
    aya::maps::Map::from_map_data(data).map_err(&failed)
}

/// The same of one that is a hash.
pub(super) fn pinned_hash<K, V>(
    pins: &Pins,
    table: Table,
) -> Result<HashMap<MapData, Plain<K>, Plain<V>>, Error>
where
    K: NoUninit + AnyBitPattern,
    V: NoUninit + AnyBitPattern,
{
    HashMap::try_from(pinned(pins, table)?).map_err(Error::map("open", table.name))
}

/// The identifiers of the pinned maps, to pin them again.
pub(super) fn identifiers(pins: &Pins) -> Result<Vec<(&'static str, u32)>, Error> {
    let identifier = |Table { name, .. }: Table| {
        let found = MapInfo::from_pin(pins.maps().join(name));
        Ok((name, found.map_err(Error::map("inspect", name))?.id()))
    };
    ebpf_abi::TABLES.into_iter().map(identifier).collect()
}

/// Pins the maps that somebody unpinned; says how many.
pub(super) fn restore(pins: &Pins, identifiers: &[(&'static str, u32)]) -> Result<u64, Error> {
    let mut restored = 0;
    for &(name, id) in identifiers {
        let path = pins.maps().join(name);
        if !path.exists() {
            let pinned = MapData::from_id(id).map_err(Error::map("open", name))?.pin(&path);
            pinned.map_err(|error| Error::File {
                action: "pin a map at",
                path,
                source: io::Error::other(error),
            })?;
            restored += 1;
        }
    }
    Ok(restored)
}

/// The system's own error in a map's.
pub(super) fn system_error(error: &MapError) -> Option<&io::Error> {
    if let MapError::SyscallError(error) = error {
        return Some(&error.io_error);
    }
    if let MapError::CreateError { io_error, .. } = error {
        return Some(io_error);
    }
    None
}
