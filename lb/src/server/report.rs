//! How the front door is, gathered from its parts.

use std::time::Duration;

use tokio::time::Instant;

use super::Server;
use crate::health;
use crate::pool::Standing;
use crate::reload::router;
use crate::router::RouterStatus;
use crate::status::{Backend, Configuration, Frontend, LastCheck, LastReload, Peer, Status, VirtualRouter};

impl Server {
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let last_reload = self.times.last_reload.as_ref().map(|(at, result, details)| LastReload {
            seconds_ago: seconds(*at),
            result: result.label().to_owned(),
            details: details.clone(),
        });
        let routers = self.front_door.router_statuses();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            running_seconds: seconds(self.times.started),
            configuration: Configuration {
                file: self.file.display().to_string(),
                in_force_seconds: seconds(self.times.in_force),
                last_reload,
            },
            frontend: Frontend {
                listen: self.config.frontend.listen.clone(),
                accepting: self.front_door.accepts(),
                connections: self.front_door.connections() + self.pool.carried(),
            },
            virtual_routers: routers
                .into_iter()
                .map(|(name, it)| self.virtual_router(name, &it, now))
                .collect(),
            backends: self.pool.standings().iter().map(|standing| backend(standing, now)).collect(),
        }
    }

    fn virtual_router(&self, instance: String, status: &RouterStatus, now: Instant) -> VirtualRouter {
        let now = now.into_std();
        let seconds = |since| now.saturating_duration_since(since).as_secs_f64();
        let config = router(&self.config, &instance);
        let addresses = config.map(|it| it.addresses.networks().iter().map(ToString::to_string).collect());
        let peers = status.peers.iter().map(|(&address, peer)| Peer {
            address,
            priority: peer.priority.map_or(0, vrrp::Priority::number),
            seconds_ago: seconds(peer.heard),
        });
        VirtualRouter {
            role: status.role.label().to_owned(),
            role_seconds: seconds(status.since),
            reason: status.reason.clone(),
            priority: status.priority.number(),
            local: status.local,
            addresses: addresses.unwrap_or_default(),
            peers: peers.collect(),
            instance,
        }
    }
}

fn backend(standing: &Standing, now: Instant) -> Backend {
    let Standing { member, status, since, reason, checked, connections, drained, removed } = standing;
    let seconds = |since: Instant| Duration::as_secs_f64(&now.saturating_duration_since(since));
    let state = match status {
        health::Status::Unknown => "unknown",
        health::Status::Up => "up",
        health::Status::Unready => "unready",
        health::Status::Down => "down",
        health::Status::Dead => "dead",
    };
    Backend {
        name: member.backend.name.to_string(),
        address: member.backend.address,
        state: state.to_owned(),
        state_seconds: seconds(*since),
        reason: reason.clone(),
        last_check: checked
            .as_ref()
            .map(|check| LastCheck { result: check.result.clone(), seconds_ago: seconds(check.at) }),
        connections: *connections,
        connections_total: member.metrics.connections.get(),
        drained: *drained,
        removed: *removed,
    }
}
