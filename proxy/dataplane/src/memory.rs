//! The plan as its own kernel.

use std::collections::BTreeSet;

use ipnet::IpNet;
use plan::{Backend, Change, Frontend, Observed, Service};

use crate::{Dataplane, Deviation, Error, Failure, Unsupported};

/// A dataplane that forwards nothing and remembers everything: what tests, and `--dry-run`s, apply plans to.
///
/// ```
/// use dataplane::{Dataplane, Memory};
/// use plan::{Change, Frontend, Port, Protocol, Service};
///
/// let frontend = Frontend::new([10, 254, 0, 1].into(), Port::new(443).expect("not 0"), Protocol::Tcp);
/// let mut memory = Memory::default();
/// assert!(memory.apply(&[Change::AddService { frontend, service: Service::default() }]).is_empty());
/// assert!(memory.observe()?.services.contains_key(&frontend));
/// # Ok::<(), dataplane::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    observed: Observed,
    service_cidrs: BTreeSet<IpNet>,
}

impl Memory {
    /// The networks that cluster addresses come from.
    pub const fn service_cidrs(&self) -> &BTreeSet<IpNet> {
        &self.service_cidrs
    }

    /// Pretends that `count` connections to a backend are carried; without effect on a backend that is not there.
    pub fn set_connections(&mut self, frontend: Frontend, backend: Backend, count: u64) {
        let service = self.observed.services.get_mut(&frontend);
        if let Some(found) = service.and_then(|service| service.backends.get_mut(&backend)) {
            found.connections = count;
        }
    }
}

impl Dataplane for Memory {
    fn supports(&self, _: Frontend, _: &Service) -> Result<Option<Deviation>, Unsupported> {
        Ok(None)
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        Ok(self.observed.clone())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        for change in changes {
            self.observed.advance(change);
        }
        Vec::new()
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        self.service_cidrs.clone_from(cidrs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Memory that outlives its owner, as a kernel does.
    #[derive(Clone, Default)]
    struct Kernel(Arc<Mutex<Memory>>);

    impl Dataplane for Kernel {
        fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported> {
            self.0.lock().unwrap().supports(frontend, service)
        }

        fn observe(&mut self) -> Result<Observed, Error> {
            self.0.lock().unwrap().observe()
        }

        fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
            self.0.lock().unwrap().apply(changes)
        }

        fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
            self.0.lock().unwrap().set_service_cidrs(cidrs)
        }
    }

    #[test]
    fn memory_keeps_the_contract() {
        let kernel = Kernel::default();
        crate::contract::holds(|| Box::new(kernel.clone()));
    }
}
