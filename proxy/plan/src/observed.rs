//! What the kernel was found to forward.

use std::collections::BTreeMap;

use crate::{Backend, Change, Forwarding, Frontend, Rules, Service, Weight};

/// A backend as found in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedBackend {
    /// Its share of new connections. What it is does not matter while it drains.
    pub weight: Weight,
    /// Takes no new connections; those it has may end by themselves.
    pub draining: bool,
    /// Connections the dataplane itself still has to carry. Zero where the dataplane is not on the path of established
    /// connections, as with translation at the socket.
    pub connections: u64,
    /// Has been draining for longer than it may: the connections that are left are given up.
    pub overdue: bool,
}

/// A service as found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedService {
    /// How its clients are treated.
    pub rules: Rules,
    /// All backends, draining ones included.
    pub backends: BTreeMap<Backend, ObservedBackend>,
}

/// Everything the kernel was found to forward, foreign frontends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The services by frontend.
    pub services: BTreeMap<Frontend, ObservedService>,
}

impl Observed {
    /// What new connections meet: the plan that, applied to an empty kernel, gives this state.
    pub fn forwarding(&self) -> Forwarding {
        self.services.iter().map(|(frontend, service)| (*frontend, service.forwarding())).collect()
    }

    /// What this state becomes when `change` is carried out. A change that names what is not there has no effect.
    pub fn advance(&mut self, change: &Change) {
        match change {
            Change::AddService { frontend, service } => {
                self.services.entry(*frontend).or_insert_with(|| service.clone().into());
            }
            Change::SetRules { frontend, rules } => {
                if let Some(service) = self.services.get_mut(frontend) {
                    service.rules = rules.clone();
                }
            }
            Change::RemoveService { frontend } => {
                self.services.remove(frontend);
            }
            Change::AddBackend { frontend, backend, weight } => {
                if let Some(service) = self.services.get_mut(frontend) {
                    let found = service.backends.entry(*backend).or_default();
                    (found.weight, found.draining, found.overdue) = (*weight, false, false);
                }
            }
            Change::DrainBackend { frontend, backend } => {
                if let Some(found) =
                    self.services.get_mut(frontend).and_then(|service| service.backends.get_mut(backend))
                {
                    found.draining = true;
                }
            }
            Change::RemoveBackend { frontend, backend } => {
                if let Some(service) = self.services.get_mut(frontend) {
                    service.backends.remove(backend);
                }
            }
        }
    }
}

impl ObservedService {
    /// What new connections to this service meet.
    pub fn forwarding(&self) -> Service {
        let backends = self.backends.iter().filter(|(_, found)| !found.draining);
        let backends = backends.map(|(backend, found)| (*backend, found.weight));
        Service { rules: self.rules.clone(), backends: backends.collect() }
    }
}

/// A service that was just added.
impl From<Service> for ObservedService {
    fn from(Service { rules, backends }: Service) -> Self {
        let found = |weight| ObservedBackend { weight, ..ObservedBackend::default() };
        let backends = backends.into_iter().map(|(backend, weight)| (backend, found(weight)));
        Self { rules, backends: backends.collect() }
    }
}
