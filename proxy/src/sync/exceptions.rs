//! Frontends that are planned and not served, or not as planned.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{Dataplane, Deviation};
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

/// How the Service at a frontend is served otherwise than planned, if so; or why it is not served: it is left to others,
/// or the dataplane cannot.
pub(super) fn support(
    dataplane: &dyn Dataplane,
    scope: &Scope,
    frontend: Frontend,
    service: &plan::Service,
) -> Result<Option<Deviation>, String> {
    if !scope.contains(frontend) {
        return Err(format!("{frontend}: its address is left to others (ipvs.excludeCIDRs)"));
    }
    dataplane.supports(frontend, service).map_err(|unsupported| unsupported.to_string())
}

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    /// What is not served, and why.
    pub(super) left_out: BTreeMap<Frontend, String>,
    /// How something is served otherwise than planned.
    deviations: BTreeSet<Deviation>,
}

impl Exceptions {
    /// Takes in what is so at a frontend, and has `say` tell once why it is left out. Whether it is not.
    pub(super) fn note(
        &mut self,
        frontend: Frontend,
        support: Result<Option<Deviation>, String>,
        say: impl Fn(Frontend, &str),
    ) -> bool {
        match support {
            Ok(deviation) => {
                self.left_out.remove(&frontend);
                if let Some(deviation) = deviation.filter(|deviation| self.deviations.insert(*deviation)) {
                    tracing::info!(%frontend, %deviation, "served otherwise than planned, as all that are alike");
                }
                true
            }
            Err(reason) => {
                if self.left_out.get(&frontend) != Some(&reason) {
                    say(frontend, &reason);
                    self.left_out.insert(frontend, reason);
                }
                false
            }
        }
    }
}
