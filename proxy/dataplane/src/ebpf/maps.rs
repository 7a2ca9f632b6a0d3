//! The maps the dataplane writes.

use std::collections::BTreeMap;
use std::io;

use aya::maps::{HashMap, MapData, MapError};
use bytemuck::{AnyBitPattern, NoUninit};
use ebpf_abi::{Backend, BackendId, NO_SERVICE, Service, ServiceId, ServiceKey, SlotKey, Table, Turn};

use super::pod::Plain;
use super::repair::Found;
use super::write::Write;
use crate::Error;

/// The maps the dataplane writes, in the kernel.
#[derive(Debug)]
pub(super) struct Maps {
    services: Map<ServiceKey, Service>,
    slots: Map<SlotKey, BackendId>,
    backends: Map<BackendId, Backend>,
    turns: Map<ServiceId, Turn>,
}

impl Maps {
    /// Takes them from what was loaded.
    pub(super) fn take(object: &mut aya::Ebpf) -> Result<Self, Error> {
        Ok(Self {
            services: Map::take(object, ebpf_abi::SERVICES)?,
            slots: Map::take(object, ebpf_abi::SLOTS)?,
            backends: Map::take(object, ebpf_abi::BACKENDS)?,
            turns: Map::take(object, ebpf_abi::TURNS)?,
        })
    }

    /// Everything they hold.
    pub(super) fn read(&self) -> Result<Found, Error> {
        Ok(Found {
            services: self.services.entries()?,
            slots: self.slots.entries()?,
            backends: self.backends.entries()?,
            turns: self.turns.entries()?,
        })
    }

    /// Carries out one write.
    pub(super) fn write(&mut self, write: Write) -> Result<(), Error> {
        match write {
            Write::Reserve(first_free) => self.turns.put(NO_SERVICE, Turn(first_free.into())),
            Write::PutTurn(id) => self.turns.put(id, Turn::default()),
            Write::DropTurn(id) => self.turns.drop(id),
            Write::PutService(key, service) => self.services.put(key, service),
            Write::DropService(key) => self.services.drop(key),
            Write::PutBackend(id, backend) => self.backends.put(id, backend),
            Write::DropBackend(id) => self.backends.drop(id),
            Write::PutSlot(key, id) => self.slots.put(key, id),
            Write::DropSlot(key) => self.slots.drop(key),
        }
    }
}

/// One map, with its name for errors.
#[derive(Debug)]
struct Map<K, V> {
    name: &'static str,
    /// As found: state that an earlier process pinned keeps the capacity it was made with.
    capacity: u32,
    entries: HashMap<MapData, Plain<K>, Plain<V>>,
}

impl<K, V> Map<K, V>
where
    K: NoUninit + AnyBitPattern + Ord,
    V: NoUninit + AnyBitPattern,
{
    fn take(object: &mut aya::Ebpf, table: Table) -> Result<Self, Error> {
        let name = table.name;
        let open = |source| Error::Map { action: "open", map: name, source };
        let map =
            object.take_map(name).ok_or_else(|| open(MapError::InvalidName { name: name.to_owned() }))?;
        let aya::maps::Map::HashMap(data) = map else {
            return Err(open(MapError::InvalidMapType { map_type: 0 }));
        };
        let capacity = data.info().map_err(open)?.max_entries();
        let entries = HashMap::try_from(aya::maps::Map::HashMap(data)).map_err(open)?;
        Ok(Self { name, capacity, entries })
    }

    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        let entries = self.entries.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)));
        entries.collect::<Result<_, _>>().map_err(|source| self.error("read", source))
    }

    fn put(&mut self, key: K, value: V) -> Result<(), Error> {
        self.entries.insert(Plain(key), Plain(value), 0).map_err(|source| self.error("write", source))
    }

    /// Success where there is no such entry.
    fn drop(&mut self, key: K) -> Result<(), Error> {
        match self.entries.remove(&Plain(key)) {
            Ok(()) => Ok(()),
            Err(source)
                if system_error(&source).is_some_and(|error| error.kind() == io::ErrorKind::NotFound) =>
            {
                Ok(())
            }
            Err(source) => Err(self.error("write", source)),
        }
    }

    fn error(&self, action: &'static str, source: MapError) -> Error {
        if system_error(&source).is_some_and(|error| error.kind() == io::ErrorKind::ArgumentListTooLong) {
            // What E2BIG means for a map.
            return Error::Full { map: self.name, capacity: self.capacity };
        }
        Error::Map { action, map: self.name, source }
    }
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
