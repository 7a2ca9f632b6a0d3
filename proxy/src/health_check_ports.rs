//! The ports at which load balancers ask whether to send a Service's traffic to this node
//! (`spec.healthCheckNodePort`), answered as kube-proxy answers them (`pkg/proxy/healthcheck/service_health.go`).
//!
//! They are open at the addresses of node ports. Any path will do: 200 where endpoints of the Service are ready on this
//! node and this proxy keeps up with their changes, else 503.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use daemon::admin::{Admin, Answer, Routes};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use plan::Port;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::health_check::SharedHealth;
use crate::notice::{Notice, Notices};
use crate::planner::{HealthCheck, HealthChecks};
use crate::server::BIND_AGAIN_AFTER;
use crate::{clock, cluster::Name};

/// How many endpoints this node has, for balancers that weigh nodes by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Keeps the ports open that `checks` asks for, until nobody says any more what to tell.
pub(crate) async fn serve(
    mut checks: watch::Receiver<HealthChecks>,
    health: &SharedHealth,
    notices: &Notices,
) {
    let mut open: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    let mut contested = BTreeSet::new();
    loop {
        let wanted = checks.borrow_and_update().clone();
        note_contested(&wanted, &mut contested);
        let listeners = listeners(&wanted);
        let closed: Vec<_> = open.extract_if(.., |at, _| !listeners.contains(at)).collect();
        for (_, listener) in closed {
            listener.close().await;
        }
        for at in listeners {
            open.entry(at).or_insert_with(|| {
                let (checks, health, notices) = (checks.clone(), health.clone(), notices.clone());
                Listener(tokio::spawn(listen(at, checks, health, notices)))
            });
        }
        if checks.changed().await.is_err() {
            return;
        }
    }
}

/// Every address with every port.
fn listeners(checks: &HealthChecks) -> BTreeSet<SocketAddr> {
    let ports = checks.services.values().map(|check| check.port.number());
    ports.flat_map(|port| checks.addresses.iter().map(move |at| SocketAddr::new(*at, port))).collect()
}

/// Of which Service a port tells: where two ask for one port, which no API server allows, of the first by name.
fn asked_of(checks: &HealthChecks, port: u16) -> Option<(&Name, HealthCheck)> {
    let mut services = checks.services.iter().map(|(name, check)| (name, *check));
    services.find(|(_, check)| check.port.number() == port)
}

fn note_contested(checks: &HealthChecks, known: &mut BTreeSet<(Port, Name)>) {
    let loses = |(name, check): &(&Name, &HealthCheck)| {
        asked_of(checks, check.port.number()).is_some_and(|(holder, _)| holder != *name)
    };
    let contested = checks.services.iter().filter(loses);
    let contested: BTreeSet<_> = contested.map(|(name, check)| (check.port, name.clone())).collect();
    for (port, service) in contested.difference(known) {
        tracing::warn!(%service, %port, "another service has this health check port, nothing is told of this one");
    }
    *known = contested;
}

/// A port that is open, or tried again and again.
struct Listener(JoinHandle<()>);

impl Listener {
    /// Afterwards the address is free.
    async fn close(mut self) {
        self.0.abort();
        // That it was cut short is what was asked for.
        drop((&mut self.0).await);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn listen(
    at: SocketAddr,
    checks: watch::Receiver<HealthChecks>,
    health: SharedHealth,
    notices: Notices,
) {
    let mut said = false;
    loop {
        let (asked, health) = (checks.clone(), health.clone());
        let told = move || answer(&asked.borrow(), at.port(), health.lock().is_healthy(clock::now()));
        match Admin::bind(at, Routes::default().otherwise(told)).await {
            Ok(admin) => {
                tracing::info!(%at, "health check port open");
                admin.serve().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%at, %error, "health check port not bound, trying again");
                    if let Some((service, _)) = asked_of(&checks.borrow(), at.port()) {
                        let note = format!("health check port {at} not bound: {error}");
                        notices.leave(Notice::health_check_port_not_bound(service.clone(), note));
                    }
                }
                sleep(BIND_AGAIN_AFTER).await;
            }
        }
    }
}

fn answer(checks: &HealthChecks, port: u16, healthy: bool) -> Answer {
    let Some((Name { namespace, name }, check)) = asked_of(checks, port) else {
        return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "no service asks for this port any more\n");
    };
    let count = check.local_endpoints;
    let well = healthy && count > 0;
    let body = json!({
        "service": { "namespace": &**namespace, "name": &**name },
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    });
    Answer::json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
        .with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .with_header(WEIGHT, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(services: &[(&str, u16, usize)]) -> HealthChecks {
        let check = |&(name, port, local_endpoints): &(&str, u16, usize)| {
            let port = Port::new(port).expect("not 0");
            (Name::new(None, name), HealthCheck { port, local_endpoints })
        };
        let addresses = ["192.0.2.1", "fd00::1"].map(|text| text.parse().expect("an address"));
        HealthChecks { addresses: addresses.into(), services: services.iter().map(check).collect() }
    }

    #[test]
    fn every_port_is_open_at_every_address() {
        let found: Vec<String> = listeners(&checks(&[("a", 32_000, 1), ("b", 32_001, 0)]))
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        let expected = ["192.0.2.1:32000", "192.0.2.1:32001", "[fd00::1]:32000", "[fd00::1]:32001"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_balancer_is_sent_where_endpoints_are_ready_and_changes_are_written() {
        let cases = [
            (
                2,
                true,
                200,
                r#"{"localEndpoints":2,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#,
            ),
            (
                0,
                true,
                503,
                r#"{"localEndpoints":0,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#,
            ),
            (
                1,
                false,
                503,
                r#"{"localEndpoints":1,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":false}"#,
            ),
        ];
        for (count, healthy, status, body) in cases {
            let told = answer(&checks(&[("web", 32_000, count)]), 32_000, healthy);
            assert_eq!((told.status.as_u16(), told.body.as_str()), (status, body));
            assert_eq!(told.headers[WEIGHT], count.to_string());
        }
        assert_eq!(answer(&checks(&[]), 32_000, true).status, 503);
    }

    #[test]
    fn a_port_that_two_want_tells_of_one_and_that_is_said_once() {
        let both = checks(&[("b", 32_000, 2), ("a", 32_000, 1)]);
        assert_eq!(
            asked_of(&both, 32_000).map(|(name, check)| (&*name.name, check.local_endpoints)),
            Some(("a", 1))
        );
        let mut known = BTreeSet::new();
        note_contested(&both, &mut known);
        assert!(known.iter().map(|(port, name)| (port.number(), &*name.name)).eq([(32_000, "b")]));
        note_contested(&checks(&[("b", 32_000, 2)]), &mut known);
        assert_eq!(known, BTreeSet::new());
    }
}
