//! `frontend.forwarding`, and what goes with it.

use daemon::document::Section;

use super::{Backend, Balance, Frontend, Rebalance};

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// This process: see [`relay`](crate::relay).
    #[default]
    Relay,
    /// The kernel's IP virtual server: see [`virtual_services`](crate::virtual_services).
    Ipvs,
}

pub(super) fn forwarding(section: &mut Section<'_>) -> Forwarding {
    let choices = [("relay", Forwarding::Relay), ("ipvs", Forwarding::Ipvs)];
    section.choice("forwarding", &choices).unwrap_or_default()
}

/// Notes what virtual services cannot do: packets are passed on as they come.
pub(super) fn refuse_what_only_the_relay_does(
    root: &mut Section<'_>,
    frontend: &Frontend,
    backends: &[(Backend, usize)],
    rebalance: Rebalance,
) {
    if frontend.forwarding != Forwarding::Ipvs {
        return;
    }
    let lacks = "has no effect with forwarding: ipvs";
    let Balance { slow_start, .. } = frontend.balance;
    for (field, is_asked_for) in [
        ("frontend.slowStart", !slow_start.is_zero()),
        ("frontend.congestionControl", frontend.congestion_control.is_some()),
        ("rebalance.perMinute", rebalance.per_minute.is_some()),
    ] {
        if is_asked_for {
            root.problem(field, lacks);
        }
    }
    for (position, address) in frontend.listen.iter().enumerate() {
        if address.ip().is_unspecified() || address.port() == 0 {
            let what = format!("must be one address and port with forwarding: ipvs, found {address}");
            root.problem(&format!("frontend.listen[{position}]"), what);
        }
    }
    for (backend, position) in backends {
        let at = |field: &str| format!("backends[{position}].{field}");
        for (field, is_asked_for) in [
            ("backup", backend.backup),
            ("maxConnections", backend.max_connections.is_some()),
            ("sendProxy", backend.send_proxy),
        ] {
            if is_asked_for {
                root.problem(&at(field), lacks);
            }
        }
        if frontend.listen.iter().any(|address| address.is_ipv4() != backend.address.is_ipv4()) {
            let what = format!("{} is of another family than an address of the frontend", backend.address);
            root.problem(&at("address"), what);
        }
    }
}
