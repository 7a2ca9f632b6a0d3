//! Is this proxy doing its work? `/healthz` and `/livez` as kube-proxy answers them.
//!
//! Unhealthy is one thing only: a change that has waited for longer than two sync periods to be written. An idle proxy
//! is healthy, and so is one whose API server is away, because what it forwards is as good as it can be.
//!
//! `/healthz` is asked by load balancers outside of the cluster: it turns them away from a node that is to be taken away
//! as well. `/livez` is asked by whoever would restart this process, which would not help.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use daemon::admin::{Answer, Routes};
use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use prometheus::{IntCounterVec, Registry};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::cluster::{Family, Standing};
use crate::config::Config;
use crate::debug_pages::{Began, flagz, statusz};
use crate::explain::SharedView;
use crate::metrics::{AnswerMetrics, ServiceLevelIndicators};

/// What Go prints for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What is known of the syncs.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    patience: Duration,
    waiting_since: Option<Instant>,
    last_written: Option<SystemTime>,
    node: Standing,
}

impl Health {
    /// Loses patience after two of these.
    pub(crate) fn new(sync_period: Duration) -> Self {
        Self { patience: sync_period * 2, waiting_since: None, last_written: None, node: Standing::default() }
    }

    /// Loses patience after two of these from now on.
    pub(crate) fn follow(&mut self, sync_period: Duration) {
        self.patience = sync_period * 2;
    }

    /// Something awaits writing since `now`, if nothing did before.
    pub(crate) fn queued(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Nothing awaits writing any more.
    pub(crate) fn written(&mut self, at: SystemTime) {
        self.waiting_since = None;
        self.last_written = Some(at);
    }

    /// What is now known of the node. Says what was known before.
    pub(crate) const fn note_node(&mut self, standing: Standing) -> Standing {
        std::mem::replace(&mut self.node, standing)
    }

    /// What is known of the node.
    pub(crate) const fn node(&self) -> Standing {
        self.node
    }

    /// Whether nothing has waited too long.
    pub(crate) fn is_healthy(&self, now: Instant) -> bool {
        self.waiting_since.is_none_or(|since| now.saturating_duration_since(since) < self.patience)
    }

    /// The body of an answer; only `/healthz` speaks of the node.
    fn report(&self, path: Path, now: Instant, wall: SystemTime) -> (StatusCode, Value) {
        let healthy = self.is_healthy(now);
        let well = match path {
            Path::Healthz => healthy && self.node.is_eligible(),
            Path::Livez => healthy,
        };
        // "Now" while healthy, however long ago the last change was: watchdogs of old compare the two times.
        let last_updated = if well { Some(wall) } else { self.last_written };
        let last_updated = last_updated.map_or_else(|| NEVER.to_owned(), written_out);
        let of_family = json!({ "lastUpdated": last_updated, "healthy": healthy });
        let status: serde_json::Map<String, Value> =
            Family::ALL.iter().map(|family| (family.name().to_owned(), of_family.clone())).collect();
        let mut body = json!({
            "lastUpdated": last_updated,
            "currentTime": written_out(wall),
            "healthy": healthy,
            "status": status,
        });
        match path {
            Path::Healthz => body["nodeEligible"] = json!(self.node.is_eligible()),
            Path::Livez => {}
        }
        (if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

#[derive(Clone, Copy)]
enum Path {
    Healthz,
    Livez,
}

/// The health that the sync thread keeps and the admin server reads.
#[derive(Clone, Debug)]
pub(crate) struct SharedHealth(Arc<Mutex<Health>>);

impl SharedHealth {
    pub(crate) fn new(health: Health) -> Self {
        Self(Arc::new(Mutex::new(health)))
    }

    /// No one panics while holding it, and if so: it is plain data.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is served at `healthzBindAddress`.
pub(crate) fn health_routes(health: &SharedHealth, answers: &AnswerMetrics) -> Routes {
    Routes::default()
        .with("/healthz", answer(health.clone(), Path::Healthz, answers.healthz.clone()))
        .with("/livez", answer(health.clone(), Path::Livez, answers.livez.clone()))
}

/// What is served at `metricsBindAddress`; `config` is what is in force.
pub(crate) fn metrics_routes(
    registry: Registry,
    indicators: ServiceLevelIndicators,
    config: watch::Receiver<Config>,
    view: SharedView,
    began: Began,
) -> Routes {
    let mode = config.borrow().mode.name();
    let flags = config.clone();
    Routes::default()
        .with_metrics(registry)
        .with_metrics_at("/metrics/slis", indicators.registry.clone())
        .with("/healthz", move || {
            indicators.note_answered();
            Answer::text(StatusCode::OK, "ok")
        })
        .with("/statusz", move || Answer::text(StatusCode::OK, statusz(began, clock::now())))
        .with("/flagz", move || Answer::text(StatusCode::OK, flagz(&flags.borrow().document)))
        .with("/proxyMode", move || Answer::text(StatusCode::OK, mode))
        .with("/configz", move || {
            Answer::json(StatusCode::OK, &json!({ "kubeproxy.config.k8s.io": config.borrow().document }))
        })
        .with("/frontends", {
            let view = view.clone();
            move || view.frontends()
        })
        .with_query("/explain", move |query| view.answer(query))
}

fn answer(health: SharedHealth, path: Path, answers: IntCounterVec) -> impl Fn() -> Answer + Send + Sync {
    move || {
        let (status, body) = health.lock().report(path, clock::now(), clock::wall());
        answers.with_label_values(&[status.as_str()]).inc();
        Answer::json(status, &body)
    }
}

/// RFC 3339. A clock outside of the years 1 to 9999 has never been.
fn written_out(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    fn statuses(health: &Health, now: Instant) -> (u16, u16) {
        let status = |path| health.report(path, now, SystemTime::UNIX_EPOCH).0.as_u16();
        (status(Path::Healthz), status(Path::Livez))
    }

    #[test]
    fn only_a_change_that_waits_too_long_is_sick() {
        let now = clock::now();
        let mut health = Health::new(PERIOD);
        assert_eq!(statuses(&health, now + 1000 * PERIOD), (200, 200), "idle is not sick");
        health.queued(now);
        health.queued(now + PERIOD);
        assert_eq!(statuses(&health, now + PERIOD), (200, 200));
        assert_eq!(statuses(&health, now + 2 * PERIOD), (503, 503), "counted from the first");
        health.written(SystemTime::UNIX_EPOCH);
        assert_eq!(statuses(&health, now + 2 * PERIOD), (200, 200));
    }

    #[test]
    fn a_node_that_is_to_go_is_unhealthy_and_alive() {
        let mut health = Health::new(PERIOD);
        let cases = [(Standing::Unknown, 200), (Standing::Leaving, 503), (Standing::Staying, 200)];
        for (standing, expected) in cases {
            health.note_node(standing);
            assert_eq!(statuses(&health, clock::now()), (expected, 200), "{standing:?}");
        }
        health.note_node(Standing::Leaving);
        let (_, body) = health.report(Path::Healthz, clock::now(), SystemTime::UNIX_EPOCH);
        assert_eq!((&body["nodeEligible"], &body["healthy"]), (&json!(false), &json!(true)), "it syncs well");
    }

    #[test]
    fn the_body_is_that_of_kube_proxy() {
        let now = clock::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        let mut health = Health::new(PERIOD);
        let (_, body) = health.report(Path::Healthz, now, wall);
        let time = "1970-01-02T00:00:00Z";
        let family = json!({ "lastUpdated": time, "healthy": true });
        let expected = json!({
            "lastUpdated": time, "currentTime": time, "nodeEligible": true, "healthy": true,
            "status": { "IPv4": family, "IPv6": family },
        });
        assert_eq!(body, expected);
        health.queued(now);
        let (_, body) = health.report(Path::Livez, now + 2 * PERIOD, wall);
        assert_eq!(body["lastUpdated"], NEVER);
        assert_eq!(body["healthy"], false);
        assert_eq!(body.get("nodeEligible"), None);
    }
}
