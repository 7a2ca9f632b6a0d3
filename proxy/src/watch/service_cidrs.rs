//! The networks that cluster addresses are taken from, where the server tells (Kubernetes 1.33).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use kube::runtime::watcher;
use tokio::time::sleep;

use super::{Ended, Follower, Following};
use crate::cluster::{Delta, ServiceCidr, Update, kind};

/// A server that does not tell is asked again: it may be another one by then.
const ASKED_AGAIN_AFTER: Duration = Duration::from_mins(5);

/// Follows `ServiceCIDR`s.
pub(super) struct ServiceCidrs {
    follower: Follower<ServiceCidr>,
    /// Whether it was said that the server does not tell.
    said: bool,
}

impl ServiceCidrs {
    pub(super) fn new(client: Client, following: Following) -> Self {
        let follower = Follower::new(client, following, kind::service_cidr, Update::ServiceCidrs);
        let selection = watcher::Config::default();
        Self { follower: Follower { selection, ..follower }, said: false }
    }

    /// Until nobody listens any more.
    pub(super) async fn follow(&mut self) {
        loop {
            let ended = match self.follower.is_served().await {
                Some(true) => {
                    self.said = false;
                    self.follower.follow().await
                }
                Some(false) => self.do_without().await,
                None => Ended::Broken,
            };
            match ended {
                Ended::Broken => {}
                Ended::Unheard => return,
            }
        }
    }

    async fn do_without(&mut self) -> Ended {
        if !std::mem::replace(&mut self.said, true) {
            tracing::info!(
                "no ServiceCIDRs are served, cluster addresses that no Service has are left alone"
            );
        }
        let Following { link, listeners, .. } = &self.follower.following;
        link.forget();
        let none = Delta::Listed { objects: BTreeMap::new(), refused: BTreeSet::new() };
        if listeners.updates.send(Update::ServiceCidrs(none)).await.is_err() {
            return Ended::Unheard;
        }
        tokio::select! {
            () = sleep(ASKED_AGAIN_AFTER) => Ended::Broken,
            () = listeners.updates.closed() => Ended::Unheard,
        }
    }
}
