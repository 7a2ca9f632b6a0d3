//! What the virtual router's thread lets others know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vrrp::{Priority, Role};

/// How a virtual router is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterStatus {
    /// What this node is.
    pub role: Role,
    /// Since when it is that.
    pub since: Instant,
    /// Why it became that.
    pub reason: String,
    /// The priority that its adverts carry.
    pub priority: Priority,
    /// Where its adverts come from; `None` without a link.
    pub local: Option<IpAddr>,
    /// The other routers that were heard, by address.
    pub peers: BTreeMap<IpAddr, Peer>,
}

/// Another router on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The priority of its last advert; `None` if that was a farewell.
    pub priority: Option<Priority>,
    /// When that was heard.
    pub heard: Instant,
}

impl RouterStatus {
    /// There are no more nodes in a control plane. Whoever is on the link can invent addresses.
    const MOST_PEERS: usize = 32;

    fn hear(&mut self, from: IpAddr, peer: Peer) {
        self.peers.insert(from, peer);
        if self.peers.len() > Self::MOST_PEERS {
            let longest_silent = self.peers.iter().min_by_key(|(_, peer)| peer.heard);
            if let Some((&longest_silent, _)) = longest_silent {
                self.peers.remove(&longest_silent);
            }
        }
    }
}

/// The status as the router's thread and others share it.
#[derive(Debug)]
pub(super) struct SharedStatus(Mutex<RouterStatus>);

impl SharedStatus {
    pub(super) fn new(priority: Priority, now: Instant) -> Self {
        Self(Mutex::new(RouterStatus {
            role: Role::Initialize,
            since: now,
            reason: "started".to_owned(),
            priority,
            local: None,
            peers: BTreeMap::new(),
        }))
    }

    pub(super) fn changed(&self, role: Role, reason: String, now: Instant) {
        let mut status = self.lock();
        (status.role, status.reason, status.since) = (role, reason, now);
    }

    pub(super) fn settings(&self, priority: Priority, local: Option<IpAddr>) {
        let mut status = self.lock();
        (status.priority, status.local) = (priority, local);
    }

    pub(super) fn heard(&self, from: IpAddr, priority: Option<Priority>, now: Instant) {
        self.lock().hear(from, Peer { priority, heard: now });
    }

    pub(super) fn role(&self) -> Role {
        self.lock().role
    }

    pub(super) fn read(&self) -> RouterStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, RouterStatus> {
        // Nothing that holds the lock changes it halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn of_very_many_peers_those_heard_last_are_remembered() {
        let start = start();
        let status = SharedStatus::new(Priority::OWNER, start);
        for number in 0..1_000_u32 {
            let now = start + Duration::from_millis(number.into());
            status.heard(Ipv4Addr::from(0x0a00_0000 + number).into(), Priority::new(100), now);
        }
        let expected = (968..1_000).map(|number| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
        assert_eq!(status.read().peers.into_keys().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
