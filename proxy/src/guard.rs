//! Holds back the sudden end of nearly everything.
//!
//! A list that lacks nearly all of what there was tells of an API server that lost its data, not of a cluster that lost
//! its Services. What it lacks then stays in force, object by object, until it comes back, an event deletes it, or an
//! operator says that it is gone. A start is judged likewise, by what the kernel forwards. Pure.
//!
//! The Service `kubernetes` proves nothing: every API server makes it for itself, also an empty one.

use std::collections::{BTreeMap, BTreeSet};

use plan::{Forwarding, Frontend};

use crate::cluster::{Cluster, Delta, Name, Service, Slice, Update};

/// Fewer things than this may vanish at once without suspicion.
const FEWEST: usize = 3;

/// What is held back.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// Whether anything is to be.
    is_on: bool,
    services: BTreeSet<Name>,
    slices: BTreeSet<Name>,
    /// What an earlier process left in the kernel.
    frontends: Forwarding,
}

/// How much is held back, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) services: usize,
    pub(crate) slices: usize,
    pub(crate) frontends: usize,
}

impl Held {
    /// Whether that is anything.
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Guard {
    /// One that holds something back only if `is_on`.
    pub(crate) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// What of `update` is to be believed at once, by a cluster that knows what `cluster` knows.
    pub(crate) fn admit(&mut self, update: Update, cluster: &Cluster) -> Vec<Update> {
        if !self.is_on {
            return vec![update];
        }
        let mut admitted = Vec::new();
        let update = match update {
            Update::Services(Delta::Listed { objects, mut refused }) => {
                self.judge_services(&objects, &refused, cluster);
                refused.extend(self.services.iter().cloned());
                Update::Services(Delta::Listed { objects, refused })
            }
            Update::Slices(Delta::Listed { mut objects, mut refused }) => {
                self.judge_slices(&objects, &refused, cluster);
                objects.retain(|name, _| !self.slices.contains(name));
                refused.extend(self.slices.iter().cloned());
                Update::Slices(Delta::Listed { objects, refused })
            }
            Update::Services(Delta::Applied(ref name, _) | Delta::Removed(ref name)) => {
                self.services.remove(name);
                update
            }
            Update::Slices(Delta::Removed(ref name)) => {
                self.slices.remove(name);
                update
            }
            Update::Slices(Delta::Applied(ref name, ref slice)) => {
                self.slices.remove(name);
                if slice.has_endpoints() {
                    // Whatever stood in for these is not needed any more.
                    let replaced = |held: &Name| is_of(cluster, held, &slice.service);
                    let replaced = self.slices.extract_if(.., replaced).map(Delta::Removed);
                    admitted.extend(replaced.map(Update::Slices));
                }
                update
            }
            Update::Node(_) | Update::ServiceCidrs(_) | Update::NodeUnknown | Update::Interfaces(_) => update,
        };
        admitted.push(update);
        admitted
    }

    /// Judges a start: `found` is what the kernel forwards, `desired` what the lists come to, and `proves` tells frontends
    /// apart that have to do with the cluster's Services from those of an API server's own.
    pub(crate) fn adopt(
        &mut self,
        found: &Forwarding,
        desired: &Forwarding,
        proves: impl Fn(Frontend) -> bool,
    ) {
        let live = found.iter().filter(|&(frontend, service)| is_served(Some(service)) && proves(*frontend));
        let (mut count, mut lost) = (0, Forwarding::new());
        for (frontend, service) in live {
            count += 1;
            if !is_served(desired.get(frontend)) {
                lost.insert(*frontend, service.clone());
            }
        }
        if self.is_on && is_sudden(count, lost.len()) {
            self.frontends = lost;
        }
    }

    /// What is to be forwarded at `frontend` where the plan has `desired`. What has backends again is held back no more.
    pub(crate) fn wanted<'plan>(
        &'plan mut self,
        frontend: Frontend,
        desired: Option<&'plan plan::Service>,
    ) -> Option<&'plan plan::Service> {
        if is_served(desired) {
            self.frontends.remove(&frontend);
        }
        self.frontends.get(&frontend).or(desired)
    }

    /// As [`Guard::wanted`], for the whole plan.
    pub(crate) fn wanted_of_all(&mut self, desired: &mut Forwarding) {
        self.frontends.retain(|frontend, _| !is_served(desired.get(frontend)));
        desired.extend(self.frontends.clone());
    }

    /// What an operator has said to be gone.
    pub(crate) fn release(&mut self) -> Vec<Update> {
        self.frontends.clear();
        let services = std::mem::take(&mut self.services).into_iter().map(Delta::Removed);
        let slices = std::mem::take(&mut self.slices).into_iter().map(Delta::Removed);
        services.map(Update::Services).chain(slices.map(Update::Slices)).collect()
    }

    /// How much is held back.
    pub(crate) fn held(&self) -> Held {
        Held { services: self.services.len(), slices: self.slices.len(), frontends: self.frontends.len() }
    }

    fn judge_services(
        &mut self,
        listed: &BTreeMap<Name, Service>,
        refused: &BTreeSet<Name>,
        cluster: &Cluster,
    ) {
        let is_listed = |name: &Name| listed.contains_key(name) || refused.contains(name);
        self.services.retain(|name| !is_listed(name));
        let known = cluster.services().map(|(name, _)| name);
        let live: Vec<&Name> = known.filter(|name| proves(name) && !self.services.contains(*name)).collect();
        let lost: Vec<&Name> = live.iter().copied().filter(|name| !is_listed(name)).collect();
        if is_sudden(live.len(), lost.len()) {
            self.services.extend(lost.into_iter().cloned());
        }
    }

    /// By Services and not by slices: these have other names after a change of the kind they are listed as.
    fn judge_slices(&mut self, listed: &BTreeMap<Name, Slice>, refused: &BTreeSet<Name>, cluster: &Cluster) {
        let listed = listed.values().filter(|slice| slice.has_endpoints()).map(|slice| &slice.service);
        let listed: BTreeSet<&Name> = listed.collect();
        let mut live: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (name, slice) in cluster.all_slices().filter(|(_, slice)| slice.has_endpoints()) {
            if self.slices.contains(name) && listed.contains(&slice.service) {
                self.slices.remove(name);
            } else if proves(&slice.service) && !self.slices.contains(name) {
                live.entry(&slice.service).or_default().push(name);
            }
        }
        let is_lost = |(service, slices): &(&&Name, &Vec<&Name>)| {
            !listed.contains(**service) && !slices.iter().any(|slice| refused.contains(*slice))
        };
        let lost: Vec<&Vec<&Name>> = live.iter().filter(is_lost).map(|(_, slices)| slices).collect();
        if is_sudden(live.len(), lost.len()) {
            self.slices.extend(lost.into_iter().flatten().copied().cloned());
        }
    }
}

/// Whether `lost` of `live` things at once are not to be believed: at least nine of ten.
const fn is_sudden(live: usize, lost: usize) -> bool {
    lost >= FEWEST && lost * 10 >= live * 9
}

/// Whether a Service has to do with the cluster's data.
pub(crate) fn proves(service: &Name) -> bool {
    (&*service.namespace, &*service.name) != ("default", "kubernetes")
}

fn is_served(service: Option<&plan::Service>) -> bool {
    service.is_some_and(|service| !service.backends.is_empty())
}

fn is_of(cluster: &Cluster, slice: &Name, service: &Name) -> bool {
    cluster.slice(slice).is_some_and(|slice| slice.service == *service)
}

#[cfg(test)]
mod tests;
