//! The change from one dataplane to another, of which clients notice nothing.

use std::collections::BTreeMap;

use dataplane::{Dataplane, Error, Failure, Inspection, Unsupported};
use plan::{Backend, Change, Frontend, Observed, ObservedBackend, Service};

/// A dataplane in whose place another one may still forward: that is removed once this one was told everything.
pub(crate) struct Successor<D, R> {
    dataplane: D,
    /// Removes the predecessor; `None` once it is gone.
    remove: Option<R>,
    whole: bool,
}

impl<D, R> Successor<D, R> {
    /// `remove` removes the predecessor, and does nothing where there is none.
    pub(crate) const fn new(dataplane: D, remove: R) -> Self {
        Self { dataplane, remove: Some(remove), whole: false }
    }
}

impl<D: Dataplane, R: FnMut() -> Result<(), Error> + Send> Dataplane for Successor<D, R> {
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<(), Unsupported> {
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

    fn inspect(&mut self) -> Result<Inspection, Error> {
        if let Some(remove) = self.remove.as_mut().filter(|_| self.whole) {
            remove()?;
            self.remove = None;
        }
        self.dataplane.inspect()
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
            // The first time it fails.
            if count.fetch_add(1, Ordering::Relaxed) > 0 { Ok(()) } else { Err(Error::Identifiers) }
        });
        successor.inspect().expect("nothing is tried");
        assert_eq!(times(), 0);
        assert!(successor.apply(&[]).is_empty());
        assert!(successor.inspect().is_err());
        for _ in 0..2 {
            successor.inspect().expect("it is gone");
        }
        assert_eq!(times(), 2);
    }
}
