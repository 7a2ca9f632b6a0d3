//! From what is to what should be.

use crate::{
    Change, Forwarding, Frontend, Observed, ObservedBackend, ObservedService, Protocol, Scope, Service,
};

/// The steps from `observed` to `desired`, touching nothing outside `scope`.
///
/// Backends are added before the rules change, and others are removed after that: at every step a frontend treats its
/// clients as it did before or as it will. Only rules about who is served at all come first. The order is that of the keys: equal input, equal steps.
pub fn diff(observed: &Observed, desired: &Forwarding, scope: &Scope) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut frontends: Vec<Frontend> = observed.services.keys().chain(desired.keys()).copied().collect();
    frontends.sort_unstable();
    frontends.dedup();
    for frontend in frontends {
        if scope.contains(frontend) {
            let found = observed.services.get(&frontend);
            changes.extend(diff_frontend(frontend, found, desired.get(&frontend)));
        }
    }
    changes
}

/// The steps for one frontend: what [`diff()`] says of it. Its cost depends on this frontend alone.
pub fn diff_frontend(
    frontend: Frontend,
    observed: Option<&ObservedService>,
    desired: Option<&Service>,
) -> Vec<Change> {
    match (observed, desired) {
        (None, None) => Vec::new(),
        (Some(_), None) => vec![Change::RemoveService { frontend }],
        (None, Some(desired)) => vec![Change::AddService { frontend, service: desired.clone() }],
        (Some(observed), Some(desired)) => {
            let rules = (observed.rules != desired.rules)
                .then(|| Change::SetRules { frontend, rules: desired.rules.clone() });
            // Who is to be kept out is so before there is anybody else to reach.
            let first = observed.rules.source_ranges != desired.rules.source_ranges;
            let (first, later) = if first { (rules, None) } else { (None, rules) };
            let mut changes = Vec::from_iter(first);
            for (&backend, &weight) in &desired.backends {
                let serves = |found: &ObservedBackend| !found.draining && found.weight == weight;
                if !observed.backends.get(&backend).is_some_and(serves) {
                    changes.push(Change::AddBackend { frontend, backend, weight });
                }
            }
            changes.extend(later);
            for (&backend, found) in &observed.backends {
                if !desired.backends.contains_key(&backend) {
                    changes.extend(match farewell(frontend.protocol(), *found) {
                        Farewell::Keep => None,
                        Farewell::Drain => Some(Change::DrainBackend { frontend, backend }),
                        Farewell::Remove => Some(Change::RemoveBackend { frontend, backend }),
                    });
                }
            }
            changes
        }
    }
}

enum Farewell {
    Keep,
    Drain,
    Remove,
}

/// Connections outlive their backend's place in the plan, for as long as they may; datagrams have no end to wait for.
fn farewell(protocol: Protocol, found: ObservedBackend) -> Farewell {
    if found.overdue {
        return Farewell::Remove;
    }
    match (protocol, found.connections, found.draining) {
        (Protocol::Udp, _, _) | (Protocol::Tcp | Protocol::Sctp, 0, _) => Farewell::Remove,
        (Protocol::Tcp | Protocol::Sctp, _, false) => Farewell::Drain,
        (Protocol::Tcp | Protocol::Sctp, _, true) => Farewell::Keep,
    }
}
