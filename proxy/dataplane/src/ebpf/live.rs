//! What the maps hold at this moment, for who asks now and then beside the thread that writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, MapData, MapError};
use ebpf_abi::{Backend, BackendId, Service, ServiceId, ServiceKey, SlotKey, SourceRange, Table};
use ipnet::IpNet;
use plan::{Frontend, ObservedBackend, ObservedService};

use super::encode::{self, SourceNetwork};
use super::maps::{pinned, pinned_hash};
use super::pins::Pins;
use super::pod::Plain;
use crate::Error;

/// The services in the kernel's maps, read without a word to whoever owns the dataplane.
#[derive(Clone)]
pub struct LiveServices(Arc<Tables>);

struct Tables {
    services: HashMap<MapData, Plain<ServiceKey>, Plain<Service>>,
    slots: HashMap<MapData, Plain<SlotKey>, Plain<BackendId>>,
    backends: HashMap<MapData, Plain<BackendId>, Plain<Backend>>,
    networks: LpmTrie<MapData, Plain<SourceRange>, u32>,
}

impl fmt::Debug for LiveServices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LiveServices")
    }
}

impl LiveServices {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let networks = LpmTrie::try_from(pinned(pins, ebpf_abi::SOURCE_RANGES)?);
        Ok(Self(Arc::new(Tables {
            services: pinned_hash(pins, ebpf_abi::SERVICES)?,
            slots: pinned_hash(pins, ebpf_abi::SLOTS)?,
            backends: pinned_hash(pins, ebpf_abi::BACKENDS)?,
            networks: networks.map_err(Error::map("open", ebpf_abi::SOURCE_RANGES.name))?,
        })))
    }

    /// All frontends. What has a key that no frontend has is none.
    pub fn frontends(&self) -> Result<BTreeSet<Frontend>, Error> {
        let keys = self.0.services.keys().map(|key| key.map(|Plain(key)| encode::frontend(&key)));
        let keys = keys.filter_map(Result::transpose).collect::<Result<_, _>>();
        keys.map_err(Error::map("read", ebpf_abi::SERVICES.name))
    }

    /// What is forwarded at `frontend`; `None` where that is nothing, or what this dataplane would not have written. Its
    /// cost grows with the backends of this frontend, and with all source ranges where it has some.
    pub fn read(&self, frontend: Frontend) -> Result<Option<ObservedService>, Error> {
        let key = encode::service_key(frontend);
        let Some(service) = found(&self.0.services, key, ebpf_abi::SERVICES)? else { return Ok(None) };
        let has_networks = service.rules.has(ebpf_abi::Rules::SOURCE_RANGES);
        let networks = if has_networks { self.networks(service.id)? } else { BTreeSet::new() };
        let Some(rules) = encode::plan_rules(service.rules, networks) else { return Ok(None) };
        let mut backends = BTreeMap::new();
        for slot in 0..service.slots {
            let key = SlotKey { service: service.id, slot };
            let Some(id) = found(&self.0.slots, key, ebpf_abi::SLOTS)? else { continue };
            let backend = found(&self.0.backends, id, ebpf_abi::BACKENDS)?;
            if let Some(backend) = backend.filter(|backend| backend.service == service.id) {
                let backend = encode::plan_backend(&backend);
                backends.extend(backend.map(|backend| (backend, ObservedBackend::default())));
            }
        }
        Ok(Some(ObservedService { rules, backends }))
    }

    fn networks(&self, service: ServiceId) -> Result<BTreeSet<IpNet>, Error> {
        let mut networks = BTreeSet::new();
        for key in self.0.networks.keys() {
            let key = key.map_err(Error::map("read", ebpf_abi::SOURCE_RANGES.name))?;
            let network = SourceNetwork { range: key.data().0, prefix: key.prefix_len() };
            networks.extend(encode::plan_network(&network).filter(|_| network.range.service == service));
        }
        Ok(networks)
    }
}

fn found<K, V: Copy>(
    map: &HashMap<MapData, Plain<K>, Plain<V>>,
    key: K,
    table: Table,
) -> Result<Option<V>, Error>
where
    Plain<K>: Pod,
    Plain<V>: Pod,
{
    match map.get(&Plain(key), 0) {
        Ok(Plain(value)) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(Error::map("read", table.name)(error)),
    }
}
