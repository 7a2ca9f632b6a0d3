//! The end of virtual services in whose place another dataplane forwards.

use std::collections::BTreeMap;

use plan::{Change, Forwarding, Frontend, Observed, ObservedService, Scope, Service, diff};

use super::{Addresses, Interface, Ipvs, Surroundings, TABLE, Table, lost, no_table};
use crate::{Dataplane, Error};

impl Ipvs {
    /// Whether this dataplane left something. What kube-proxy left has no table.
    pub fn is_left() -> Result<bool, Error> {
        let table = Table::open(TABLE, Surroundings::default());
        match table.and_then(|mut table| table.is_there()).map_err(no_table) {
            Err(Error::Kernel { .. }) => Ok(false),
            found => found,
        }
    }

    /// Ends what carries no connections, of the services within `scope`, and lets others drain: to be called again until
    /// nothing is left, which it then says. New connections must not need these services any more.
    pub fn retire(&mut self, scope: &Scope) -> Result<bool, Error> {
        let mut left = self.observe()?;
        let mut steps = farewells(&left, scope);
        for step in &steps {
            left.advance(step);
        }
        let over: Vec<Change> = within(&left, scope)
            .filter(|(_, service)| service.backends.is_empty())
            .map(|(frontend, _)| Change::RemoveService { frontend })
            .collect();
        for step in &over {
            left.advance(step);
        }
        steps.extend(over);
        if let Some(failure) = self.apply(&steps).into_iter().next() {
            return Err(failure.error);
        }
        if within(&left, scope).next().is_some() {
            return Ok(false);
        }
        self.table.remove().map_err(lost("remove the table of"))?;
        // The interface is somebody else's as long as it has services of somebody else's.
        if let (Addresses::Ours(_), true) = (&self.addresses, left.services.is_empty()) {
            Interface::cleanup().map_err(lost("remove the interface of"))?;
        }
        Ok(true)
    }
}

/// The steps after which nobody new is served.
fn farewells(found: &Observed, scope: &Scope) -> Vec<Change> {
    let empty = |(frontend, service): (Frontend, &ObservedService)| {
        (frontend, Service { rules: service.rules.clone(), backends: BTreeMap::new() })
    };
    let desired: Forwarding = within(found, scope).map(empty).collect();
    diff(found, &desired, scope)
}

fn within<'found>(
    found: &'found Observed,
    scope: &'found Scope,
) -> impl Iterator<Item = (Frontend, &'found ObservedService)> {
    let services = found.services.iter().map(|(frontend, service)| (*frontend, service));
    services.filter(|(frontend, _)| scope.contains(*frontend))
}
