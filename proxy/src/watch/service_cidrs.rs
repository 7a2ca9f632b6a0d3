//! The networks that cluster addresses are taken from, where the server tells (Kubernetes 1.33).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use kube::runtime::watcher;
use tokio::time::sleep;

use super::{Ended, Follower, Following};
use crate::cluster::{Delta, Kind, ServiceCidr, Update, kind};

/// A server that does not tell is asked again: it may be another one by then.
const ASKED_AGAIN_AFTER: Duration = Duration::from_mins(5);

/// Follows `ServiceCIDR`s.
pub(super) struct ServiceCidrs {
    client: Client,
    follower: Follower<ServiceCidr>,
    /// Whether it was said that the server does not tell.
    said: bool,
}

impl ServiceCidrs {
    pub(super) fn new(client: Client, following: Following) -> Self {
        let follower = Follower::new(client.clone(), following, kind::service_cidr, Update::ServiceCidrs);
        let selection = watcher::Config::default();
        Self { client, follower: Follower { selection, ..follower }, said: false }
    }

    /// Until nobody listens any more.
    pub(super) async fn follow(&mut self) {
        loop {
            let served = self.client.list_api_group_resources(Kind::ServiceCidr.api_version()).await;
            let ended = match served {
                Ok(resources)
                    if resources.resources.iter().any(|it| it.name == Kind::ServiceCidr.plural()) =>
                {
                    self.said = false;
                    self.follower.follow().await
                }
                Ok(_) => self.do_without().await,
                Err(kube::Error::Api(status)) if status.code == 404 => self.do_without().await,
                Err(error) => {
                    self.follower.failed(&watcher::Error::InitialListFailed(error)).await;
                    Ended::Broken
                }
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
