//! Frontends that are planned and not served.

use std::collections::BTreeMap;

use dataplane::Dataplane;
use plan::{Frontend, Scope};

use crate::notice::{Notice, Notices};
use crate::planner::Planner;

/// Says that a frontend is left out, and why.
pub(super) fn say_left_out(notices: &Notices, planner: &Planner, frontend: Frontend, reason: &str) {
    tracing::warn!(reason, "left out");
    if let Some(service) = planner.holder(frontend) {
        notices.leave(Notice::left_out(service, planner.cluster(), reason));
    }
}

/// Why the Service at a frontend is not served, where it is not: it is left to others, or the dataplane cannot.
pub(super) fn refusal(
    dataplane: &dyn Dataplane,
    scope: &Scope,
    frontend: Frontend,
    service: &plan::Service,
) -> Option<String> {
    if !scope.contains(frontend) {
        return Some(format!("{frontend}: its address is left to others (ipvs.excludeCIDRs)"));
    }
    dataplane.supports(frontend, service).err().map(|unsupported| unsupported.to_string())
}

/// Notes why a frontend is left out, and says it once. Whether it is not.
pub(super) fn note_refusal(
    left_out: &mut BTreeMap<Frontend, String>,
    frontend: Frontend,
    refusal: Option<String>,
    say: impl Fn(Frontend, &str),
) -> bool {
    let Some(reason) = refusal else {
        left_out.remove(&frontend);
        return true;
    };
    if left_out.get(&frontend) != Some(&reason) {
        say(frontend, &reason);
        left_out.insert(frontend, reason);
    }
    false
}
