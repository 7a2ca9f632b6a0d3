//! The table of conversations: how full it is of those that live.
//!
//! The kernel pushes out what was not used for longest once it is full, and never sooner, so that without somebody who clears
//! away what is over every table is full some day, and nobody knows how full of life. Who does so also counts the conversations
//! of each backend anew: the programs count those that begin and that are closed, but not those that fall silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use ebpf_abi::{BackendId, Connection, Load, REPLY, SECOND, Tuple};
use nix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::ebpf::maps::take_map;
use crate::ebpf::pod::Plain;

/// It is looked through so many nanoseconds after the last time, or later where that took long: what it takes is a hundredth
/// of a processor at most.
const PAUSE: u64 = 5 * SECOND;
const SHARE: u64 = 100;

/// The table.
pub(super) struct Flows {
    entries: HashMap<MapData, Plain<Tuple>, Plain<Connection>>,
    loads: HashMap<MapData, Plain<BackendId>, Plain<Load>>,
    fill: Arc<Fill>,
    /// Whether it was said that there is little room left.
    crowded: bool,
    sweep_at: u64,
}

/// How many a backend has.
#[derive(Clone, Copy, Debug)]
struct Conversations {
    /// As the programs have it.
    known: u64,
    /// As the table has it.
    counted: u64,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Fill {
    /// Entries that lived when it was last looked at. A conversation has one for each direction.
    pub(super) entries: AtomicU64,
    /// How many there can be.
    pub(super) capacity: AtomicU64,
}

impl Flows {
    pub(super) fn take(object: &mut Ebpf, fill: Arc<Fill>) -> Result<Self, Error> {
        let failed = Error::map("open", ebpf_abi::CONNECTIONS.name);
        let map = take_map(object, ebpf_abi::CONNECTIONS)?;
        if let aya::maps::Map::LruHashMap(data) = &map {
            let capacity = data.info().map_err(&failed)?.max_entries();
            fill.capacity.store(capacity.into(), Ordering::Relaxed);
        }
        let loads = take_map(object, ebpf_abi::PACKET_LOADS)?;
        let loads = HashMap::try_from(loads).map_err(Error::map("open", ebpf_abi::PACKET_LOADS.name))?;
        Ok(Self {
            entries: HashMap::try_from(map).map_err(failed)?,
            loads,
            fill,
            crowded: false,
            sweep_at: 0,
        })
    }

    /// Counts what lives and clears away what is over, unless that was done just now.
    pub(super) fn sweep_when_due(&mut self) -> Result<(), Error> {
        let begun = now()?;
        if begun < self.sweep_at {
            return Ok(());
        }
        let outcome = self.sweep(begun);
        let ended = now()?;
        self.sweep_at = ended + PAUSE.max((ended - begun) * SHARE);
        outcome
    }

    /// Costs about a microsecond per entry.
    fn sweep(&mut self, now: u64) -> Result<(), Error> {
        let failed = || Error::map("read", ebpf_abi::CONNECTIONS.name);
        let (mut living, mut over) = (0, Vec::new());
        let mut loads = self.loads()?;
        for key in self.entries.keys() {
            let key = key.map_err(failed())?;
            match self.entries.get(&key, 0) {
                Ok(Plain(connection)) if connection.is_over(key.0.protocol, now) => over.push(key),
                Ok(Plain(connection)) => {
                    living += 1;
                    if connection.flags & REPLY == 0
                        && !connection.is_closed()
                        && let Some(load) = loads.get_mut(&connection.backend)
                    {
                        load.counted += 1;
                    }
                }
                // The kernel was faster.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        for key in over {
            match self.entries.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::map("write", ebpf_abi::CONNECTIONS.name)(error)),
            }
        }
        self.correct(&loads)?;
        self.fill.entries.store(living, Ordering::Relaxed);
        self.tell(living);
        Ok(())
    }

    /// The backends whose conversations are counted.
    fn loads(&self) -> Result<BTreeMap<BackendId, Conversations>, Error> {
        let entries = self.loads.iter().map(|entry| {
            entry.map(|(Plain(id), Plain(Load(known)))| (id, Conversations { known, counted: 0 }))
        });
        entries.collect::<Result<_, _>>().map_err(Error::map("read", ebpf_abi::PACKET_LOADS.name))
    }

    /// What began or ended while they were counted is right again the next time.
    fn correct(&mut self, loads: &BTreeMap<BackendId, Conversations>) -> Result<(), Error> {
        const EXIST: u64 = 2;
        for (id, Conversations { known, counted }) in loads {
            if known == counted {
                continue;
            }
            match self.loads.insert(Plain(*id), Plain(Load(*counted)), EXIST) {
                // The backend went meanwhile.
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(Error::map("write", ebpf_abi::PACKET_LOADS.name))?,
            }
        }
        Ok(())
    }

    /// Says when it comes to be nearly full, and when there is room again.
    fn tell(&mut self, living: u64) {
        let capacity = self.fill.capacity.load(Ordering::Relaxed);
        let (much, less) = (capacity / 10 * 9, capacity / 10 * 7);
        if !self.crowded && living > much {
            self.crowded = true;
            tracing::warn!(
                living,
                capacity,
                "the table of conversations is nearly full, idle ones will be pushed out"
            );
        } else if self.crowded && living < less {
            self.crowded = false;
            tracing::info!(living, capacity, "the table of conversations has room again");
        }
    }
}

/// The clock of [`Connection::seen`].
fn now() -> Result<u64, Error> {
    let failed = |error: nix::errno::Errno| Error::File {
        action: "read",
        path: "CLOCK_MONOTONIC".into(),
        source: error.into(),
    };
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(failed)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    Ok(seconds * SECOND + u64::try_from(now.tv_nsec()).unwrap_or_default())
}
