//! What serves clients, once it does: the relay and the virtual routers.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::admin::Answer;
use hyper::StatusCode;
use vrrp::Role;

use crate::config::Frontend;
use crate::relay::{Change, RelayError, Running};
use crate::router::{Beginning, Prepared, Router, RouterConfig, RouterError, RouterStatus};

/// Shared by the main loop, which opens, changes and closes it, and by the admin server, which asks how it is.
#[derive(Debug, Default)]
pub(crate) struct FrontDoor {
    parts: Mutex<Option<Parts>>,
}

#[derive(Debug)]
struct Parts {
    relay: Running,
    /// By instance.
    routers: BTreeMap<String, Router>,
}

impl FrontDoor {
    /// Clients are served from now on. Virtual routers are [started](Self::start_router) later: an address is claimed only
    /// where clients are served.
    pub(crate) fn open(&self, relay: Running) {
        *self.parts() = Some(Parts { relay, routers: BTreeMap::new() });
    }

    /// Where this node is master, clients notice nothing: who comes from now on waits for the next master, who has come
    /// before has a moment to finish, and the rest is told before the address goes.
    pub(crate) async fn close(&self) {
        let parts = self.parts().take();
        if let Some(Parts { mut relay, routers }) = parts {
            let routers: Vec<Router> = routers.into_values().collect();
            if shut(&relay, &routers) {
                tokio::time::sleep(COURTESY).await;
                relay.close();
                drop(tokio::time::timeout(PATIENCE, nobody_new(&relay)).await);
                relay.stop();
                Router::leave_all(routers);
            } else {
                // The addresses, if there are any, go first: clients meet the next master and no closed port.
                Router::leave_all(routers);
                relay.stop();
            }
        }
    }

    /// As if nothing had been: connections are closed, and the virtual routers end without a word or a change.
    pub(crate) fn abandon(&self) {
        let parts = self.parts().take();
        if let Some(Parts { relay, routers }) = parts {
            for router in routers.into_values() {
                router.hand_over();
            }
            relay.stop();
        }
    }

    /// Starts a virtual router, which follows how the relay does.
    pub(crate) fn start_router(
        &self,
        instance: String,
        prepared: Prepared,
        beginning: Beginning,
    ) -> Result<(), RouterError> {
        if let Some(parts) = &mut *self.parts() {
            let router = prepared.follow(parts.relay.vitality()).start(beginning)?;
            parts.routers.insert(instance, router);
        }
        Ok(())
    }

    /// Ends a virtual router: its addresses are off when this returns.
    pub(crate) fn remove_router(&self, instance: &str) {
        let router = self.parts().as_mut().and_then(|parts| parts.routers.remove(instance));
        router.into_iter().for_each(Router::stop);
    }

    /// Tells a virtual router something else.
    pub(crate) fn change_router(&self, config: &RouterConfig) {
        if let Some(router) = self.parts().as_ref().and_then(|parts| parts.routers.get(&config.instance())) {
            router.change(config.clone());
        }
    }

    /// The virtual routers, which are the caller's from now on.
    pub(crate) fn take_routers(&self) -> BTreeMap<String, Router> {
        self.parts().as_mut().map(|parts| std::mem::take(&mut parts.routers)).unwrap_or_default()
    }

    pub(crate) fn router_statuses(&self) -> BTreeMap<String, RouterStatus> {
        let parts = self.parts();
        let routers = parts.iter().flat_map(|parts| &parts.routers);
        routers.map(|(instance, router)| (instance.clone(), router.status())).collect()
    }

    /// Further descriptors of the sockets on which clients are accepted.
    pub(crate) fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        self.parts().as_ref().map_or(Ok(Vec::new()), |parts| parts.relay.listeners())
    }

    /// Accepts no more; connections stay.
    pub(crate) fn close_listeners(&self) {
        if let Some(parts) = &mut *self.parts() {
            parts.relay.close();
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.parts().as_ref().map_or(0, |parts| parts.relay.connections())
    }

    pub(crate) fn accepts(&self) -> bool {
        self.parts().as_ref().is_some_and(|parts| parts.relay.accepts())
    }

    /// Whether every thread has done what it was asked at the last time.
    pub(crate) fn is_responsive(&self) -> bool {
        let mut parts = self.parts();
        let Some(Parts { relay, routers }) = &mut *parts else { return false };
        // Every one is asked, whatever the others do.
        let routers = routers.values().map(Router::is_responsive).fold(true, |all, one| all & one);
        relay.is_responsive() & routers
    }

    /// Does what can fail of a change of the frontend.
    pub(crate) fn prepare(&self, frontend: &Frontend) -> Result<Option<Change>, RelayError> {
        self.parts().as_ref().map(|parts| parts.relay.prepare(frontend)).transpose()
    }

    pub(crate) fn change(&self, change: Change) -> Result<(), RelayError> {
        self.parts().as_mut().map_or(Ok(()), |parts| parts.relay.change(change))
    }

    /// The part that has ended by itself, if one has.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        let parts = self.parts();
        let Parts { relay, routers } = parts.as_ref()?;
        if !relay.is_running() {
            return Some("the relay");
        }
        (!routers.values().all(Router::is_running)).then_some("a virtual router")
    }

    pub(crate) fn health(&self) -> Answer {
        let unwell = |what| Answer::text(StatusCode::SERVICE_UNAVAILABLE, what);
        match &*self.parts() {
            None => unwell("not open yet, or closed\n"),
            Some(Parts { relay, .. }) if !relay.accepts() => unwell("the relay does not accept\n"),
            Some(Parts { routers, .. }) if !routers.values().all(Router::is_running) => {
                unwell("a virtual router does not run\n")
            }
            Some(_) => Answer::text(StatusCode::OK, "ok\n"),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        // Nothing that holds the lock changes it halfway.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets new clients of the addresses that we hold wait; whether there are any, and they can.
fn shut(relay: &Running, routers: &[Router]) -> bool {
    let mut masters = routers.iter().filter(|router| router.role() == Role::Master).peekable();
    if masters.peek().is_none() {
        return false;
    }
    match relay.listeners() {
        Ok(doors) => {
            let doors: Arc<[TcpListener]> = doors.into();
            masters.for_each(|master| master.shut(Arc::clone(&doors)));
            true
        }
        Err(error) => {
            tracing::warn!(%error, "clients cannot wait for the next master");
            false
        }
    }
}

async fn nobody_new(relay: &Running) {
    while relay.has_new() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Longer than a short request usually takes, its connection included.
const COURTESY: Duration = Duration::from_millis(20);
/// How much longer it may take where client, backend or we are short of processors. New clients wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(150);
const LOOK: Duration = Duration::from_millis(5);
