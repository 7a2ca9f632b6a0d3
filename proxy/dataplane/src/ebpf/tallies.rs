//! What the programs counted of each service, for who asks now and then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, MapError, PerCpuHashMap};
use ebpf_abi::{Latency, Service, ServiceId, ServiceKey, Tally};
use plan::Frontend;

use super::encode;
use super::maps::{pinned, pinned_hash};
use super::pins::Pins;
use super::pod::Plain;
use crate::Error;

/// What the programs count of services, read from the kernel's maps.
#[derive(Clone)]
pub struct ServiceCounters(Arc<Counters>);

struct Counters {
    tallies: PerCpuHashMap<MapData, Plain<ServiceId>, Plain<Tally>>,
    latencies: HashMap<MapData, Plain<ServiceId>, Plain<Latency>>,
    services: HashMap<MapData, Plain<ServiceKey>, Plain<Service>>,
    /// Whose the tallies are; `None` for a service that is gone. An identifier is given out once.
    frontends: Mutex<BTreeMap<ServiceId, Option<Frontend>>>,
}

/// What was counted of one frontend since the kernel first met it, or last forgot it among many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCount {
    /// Names it for as long as the maps live.
    pub id: u32,
    /// The frontend; `None` for one that is gone.
    pub frontend: Option<Frontend>,
    /// The sums over all processors.
    pub tally: Tally,
    /// How long its connections took, of those that a socket of the node made.
    pub latency: Latency,
}

impl fmt::Debug for ServiceCounters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ServiceCounters")
    }
}

impl ServiceCounters {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let tallies = PerCpuHashMap::try_from(pinned(pins, ebpf_abi::TALLIES)?);
        Ok(Self(Arc::new(Counters {
            tallies: tallies.map_err(Error::map("open", ebpf_abi::TALLIES.name))?,
            latencies: pinned_hash(pins, ebpf_abi::LATENCIES)?,
            services: pinned_hash(pins, ebpf_abi::SERVICES)?,
            frontends: Mutex::default(),
        })))
    }

    /// Of every service that was asked for of late. Its cost grows with these, and with all services where one was asked
    /// for the first time.
    pub fn read(&self) -> Result<Vec<ServiceCount>, Error> {
        let mut tallies = BTreeMap::new();
        for key in self.0.tallies.keys() {
            let key = key.map_err(Error::map("read", ebpf_abi::TALLIES.name))?;
            match self.0.tallies.get(&key, 0) {
                Ok(values) => {
                    let all = values.iter().map(|value| value.0);
                    tallies.insert(key.0, all.fold(Tally::default(), Tally::plus));
                }
                // Others were asked for meanwhile.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(Error::map("read", ebpf_abi::TALLIES.name)(error)),
            }
        }
        // No one panics while holding it, and if so: it is plain data.
        let mut frontends = self.0.frontends.lock().unwrap_or_else(PoisonError::into_inner);
        frontends.retain(|id, _| tallies.contains_key(id));
        if tallies.keys().any(|id| !frontends.contains_key(id)) {
            frontends.extend(tallies.keys().map(|id| (*id, None)));
            for entry in &self.0.services {
                let (key, service) = entry.map_err(Error::map("read", ebpf_abi::SERVICES.name))?;
                if let Some(frontend) = frontends.get_mut(&service.0.id) {
                    *frontend = encode::frontend(&key.0);
                }
            }
        }
        let count = |(id, tally): (ServiceId, Tally)| {
            let frontend = frontends.get(&id).copied().flatten();
            Ok(ServiceCount { id: id.0, frontend, tally, latency: self.latency(id)? })
        };
        tallies.into_iter().map(count).collect()
    }

    fn latency(&self, id: ServiceId) -> Result<Latency, Error> {
        match self.0.latencies.get(&Plain(id), 0) {
            Ok(Plain(latency)) => Ok(latency),
            // No socket of the node has connected to it, or others have since.
            Err(MapError::KeyNotFound) => Ok(Latency::default()),
            Err(error) => Err(Error::map("read", ebpf_abi::LATENCIES.name)(error)),
        }
    }
}
