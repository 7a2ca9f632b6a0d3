//! Desired, observed, diff, apply.

use std::collections::BTreeSet;

use daemon::exit::chain;
use dataplane::Error;
use plan::{Change, Frontend, Observed};

use super::account::drifted;
use super::exceptions::{say_left_out, support};
use super::{Settings, Writer};
use crate::cluster::Cluster;
use crate::explain::View;
use crate::guard;

/// What a sync did.
#[derive(Default)]
pub(super) struct Written {
    pub(super) changes: Vec<Change>,
    pub(super) drifted: usize,
    pub(super) complete: bool,
}

impl Writer {
    /// Writes what is to be different at `frontends`.
    pub(super) fn write_changes(
        &mut self,
        view: &mut View,
        mut applied: Observed,
        frontends: &BTreeSet<Frontend>,
    ) -> Result<Written, Error> {
        let mut changes = Vec::new();
        let scope = &self.scope;
        let Settings { guard, notices, .. } = &mut self.settings;
        let say = |frontend, reason: &str| say_left_out(notices, &view.planner, frontend, reason);
        for &frontend in frontends {
            let desired = guard.wanted(frontend, view.planner.desired(frontend));
            let dataplane = self.dataplane.as_ref();
            let support = desired.map_or(Ok(None), |service| support(dataplane, scope, frontend, service));
            let is_served = self.exceptions.note(frontend, support, say);
            if !scope.contains(frontend) {
                continue;
            }
            let desired = desired.filter(|_| is_served);
            if let Some((known, desired)) = applied.services.get_mut(&frontend).zip(desired)
                && known.backends.keys().any(|backend| !desired.backends.contains_key(backend))
                && let Some(counted) = self.dataplane.recount(frontend)?
            {
                known.backends = counted;
            }
            changes.extend(plan::diff_frontend(frontend, applied.services.get(&frontend), desired));
        }
        Ok(self.write(view, applied, changes))
    }

    /// Reads what there is and writes everything that is to be different.
    pub(super) fn write_all(&mut self, view: &mut View) -> Result<Written, Error> {
        let found = self.dataplane.observe()?;
        if view.applied.is_none() {
            tracing::info!(frontends = found.services.len(), "adopting what the kernel forwards already");
        }
        let left = view.applied.as_ref().map(Observed::forwarding);
        let drifted = left.map_or(0, |left| drifted(&left, &found.forwarding()));
        let mut desired = view.planner.forwarding();
        if view.applied.is_none() {
            let proves = |frontend| view.planner.holder(frontend).is_none_or(guard::proves);
            self.settings.guard.adopt(&found.forwarding(), &desired, proves);
        }
        self.settings.guard.wanted_of_all(&mut desired);
        self.exceptions.left_out.retain(|frontend, _| desired.contains_key(frontend));
        let (dataplane, scope, notices) = (self.dataplane.as_ref(), &self.scope, &self.settings.notices);
        let say = |frontend, reason: &str| say_left_out(notices, &view.planner, frontend, reason);
        desired.retain(|&frontend, service| {
            self.exceptions.note(frontend, support(dataplane, scope, frontend, service), say)
        });
        let changes = plan::diff(&found, &desired, &self.scope);
        let written = self.write(view, found, changes);
        // Services come first: what they have is not to be taken for nobody's.
        self.keep_service_cidrs(view.planner.cluster())?;
        Ok(Written { drifted, ..written })
    }

    fn keep_service_cidrs(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let Some(cidrs) = cluster.service_cidrs() else { return Ok(()) };
        self.dataplane.set_service_cidrs(&cidrs)?;
        if self.service_cidrs != cidrs {
            let networks: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            tracing::info!(networks = networks.join(" "), "cluster addresses come from these networks");
            self.service_cidrs = cidrs;
        }
        Ok(())
    }

    fn write(&mut self, view: &mut View, mut applied: Observed, changes: Vec<Change>) -> Written {
        let failures = self.dataplane.apply(&changes);
        let failed: BTreeSet<Change> = failures.iter().map(|failure| failure.change.clone()).collect();
        let (changes, failed): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| !failed.contains(change));
        for change in &changes {
            tracing::debug!(%change, "written");
            applied.advance(change);
        }
        if let Some(first) = failures.first() {
            tracing::error!(failed = failed.len(), first = chain(first), "rules not written, trying again");
        }
        view.applied = Some(applied);
        Written { changes, drifted: 0, complete: failures.is_empty() }
    }
}
