//! The change from one dataplane to another, of which clients notice nothing.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{Dataplane, Deviation, Error, Failure, Inspection, Unsupported};
use ipnet::IpNet;
use plan::{Backend, Change, Frontend, Observed, ObservedBackend, Service};

/// A dataplane in whose place another one may still forward: that retires once this one was told everything.
pub(crate) struct Successor<D, R> {
    dataplane: D,
    /// Ends what the predecessor does, as far as it can be ended by now; `None` once it is gone.
    retire: Option<R>,
    whole: bool,
}

impl<D, R> Successor<D, R> {
    /// `retire` tells whether the predecessor is gone, and is asked about once a second until it is.
    pub(crate) const fn new(dataplane: D, retire: R) -> Self {
        Self { dataplane, retire: Some(retire), whole: false }
    }
}

impl<D: Dataplane, R: FnMut() -> Result<bool, Error> + Send> Dataplane for Successor<D, R> {
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported> {
        self.dataplane.supports(frontend, service)
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.dataplane.observe()
    }

    fn recount(&mut self, frontend: Frontend) -> Result<Option<BTreeMap<Backend, ObservedBackend>>, Error> {
        self.dataplane.recount(frontend)
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let failures = self.dataplane.apply(changes);
        self.whole |= failures.is_empty();
        failures
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        self.dataplane.set_service_cidrs(cidrs)
    }

    fn inspect(&mut self) -> Result<Inspection, Error> {
        let found = self.dataplane.inspect()?;
        if let Some(retire) = self.retire.as_mut().filter(|_| self.whole) {
            match retire() {
                Ok(gone) => self.retire = self.retire.take().filter(|_| !gone),
                Err(error) if found == Inspection::default() => return Err(error),
                // It is said the next time, if it is still so.
                Err(_) => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use dataplane::Memory;

    use super::*;

    #[test]
    fn the_predecessor_stays_until_everything_was_told_and_goes_once() {
        let tried = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&tried);
        let times = || tried.load(Ordering::Relaxed);
        let mut successor = Successor::new(Memory::default(), move || {
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Error::Identifiers),
                // It still has something to do.
                1 => Ok(false),
                _ => Ok(true),
            }
        });
        successor.inspect().expect("nothing is tried");
        assert_eq!(times(), 0);
        assert!(successor.apply(&[]).is_empty());
        assert!(successor.inspect().is_err());
        for _ in 0..3 {
            successor.inspect().expect("it goes");
        }
        assert_eq!(times(), 3);
    }
}
