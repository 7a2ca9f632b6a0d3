//! What this proxy counts and measures.
//!
//! Where kube-proxy publishes a metric for the same fact, its name is used (`pkg/proxy/metrics/metrics.go`); the rest is
//! `fairway_proxy_…`. kube-proxy runs one proxier per family and labels its metrics `ip_family`. Here one sync serves
//! both: it counts for each family whose rules it touched, and a comparison of everything counts for both.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector, exponential_buckets, linear_buckets,
};

use crate::cluster::Family;
use crate::guard::Held;
use crate::pacing::Extent;
use crate::planner::{Planner, PolicyOf};

/// The metrics of one process.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) sync: SyncMetrics,
    pub(crate) answers: AnswerMetrics,
    pub(crate) sources: SourceMetrics,
}

/// What the sync thread measures.
#[derive(Clone, Debug)]
pub(crate) struct SyncMetrics {
    durations: Durations,
    no_local_endpoints: IntGaugeVec,
    last: GaugeVec,
    last_queued: GaugeVec,
    network_programming: HistogramVec,
    pub(crate) endpoint_changes_pending: IntGauge,
    pub(crate) endpoint_changes: IntCounter,
    pub(crate) service_changes_pending: IntGauge,
    pub(crate) service_changes: IntCounter,
    pub(crate) failures: IntCounter,
    pub(crate) drift_repaired: IntCounter,
    pub(crate) inspection: InspectionMetrics,
    pub(crate) frontends: IntGauge,
    pub(crate) frontends_left_out: IntGauge,
    held_back: IntGaugeVec,
}

/// What the health endpoints count, by HTTP status.
#[derive(Clone, Debug)]
pub(crate) struct AnswerMetrics {
    pub(crate) healthz: IntCounterVec,
    pub(crate) livez: IntCounterVec,
}

/// What the sources count, by the kind of object.
#[derive(Clone, Debug)]
pub(crate) struct SourceMetrics {
    pub(crate) connected: IntGaugeVec,
    pub(crate) errors: IntCounterVec,
    pub(crate) objects_refused: IntCounterVec,
    /// By status, method and server.
    pub(crate) requests: IntCounterVec,
    pub(crate) events: EventMetrics,
}

/// What became of Events that were not written.
#[derive(Clone, Debug)]
pub(crate) struct EventMetrics {
    pub(crate) dropped: IntCounter,
    pub(crate) failures: IntCounter,
}

impl Metrics {
    /// Creates the metrics and publishes them in `registry`. Fails where a name is taken.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let publish = Publish(registry);
        let version = publish.integer_gauges(
            "fairway_proxy_build_info",
            "Always 1; the label says which version runs",
            "version",
        )?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            sync: SyncMetrics::register(&publish)?,
            answers: AnswerMetrics {
                healthz: publish.counters("kubeproxy_proxy_healthz_total", "Answers of /healthz", "code")?,
                livez: publish.counters("kubeproxy_proxy_livez_total", "Answers of /livez", "code")?,
            },
            sources: SourceMetrics {
                connected: publish.integer_gauges(
                    "fairway_proxy_apiserver_connected",
                    "Whether the API server answers, by the kind of object asked for",
                    "kind",
                )?,
                errors: publish.counters(
                    "fairway_proxy_watch_errors_total",
                    "Failed requests to the API server and broken watches",
                    "kind",
                )?,
                objects_refused: publish.counters(
                    "fairway_proxy_objects_refused_total",
                    "Objects that were not understood",
                    "kind",
                )?,
                requests: publish.published(IntCounterVec::new(
                    Opts::new("rest_client_requests_total", "Requests to the API server, by their outcome"),
                    &["code", "method", "host"],
                )?)?,
                events: EventMetrics {
                    dropped: publish.counter(
                        "fairway_proxy_events_dropped_total",
                        "Events that came faster than they could be written",
                    )?,
                    failures: publish.counter(
                        "fairway_proxy_event_failures_total",
                        "Events that the API server did not take",
                    )?,
                },
            },
        })
    }
}

/// What `/metrics/slis` shows, as every component of Kubernetes: whether its health checks succeed. kube-proxy has one at
/// that address, which is that it answers.
#[derive(Clone, Debug)]
pub(crate) struct ServiceLevelIndicators {
    pub(crate) registry: Registry,
    health: IntGaugeVec,
    checks: IntCounterVec,
}

impl ServiceLevelIndicators {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let publish = Publish(&registry);
        let health =
            Opts::new("kubernetes_healthcheck", "Whether a health check succeeded when it was last made");
        let checks = Opts::new("kubernetes_healthchecks_total", "Health checks made, by their outcome");
        Ok(Self {
            health: publish.published(IntGaugeVec::new(health, &["name", "type"])?)?,
            checks: publish.published(IntCounterVec::new(checks, &["name", "status", "type"])?)?,
            registry,
        })
    }

    /// Notes that `/healthz` was asked for, and so answered.
    pub(crate) fn note_answered(&self) {
        self.health.with_label_values(&["ping", "healthz"]).set(1);
        self.checks.with_label_values(&["ping", "success", "healthz"]).inc();
    }
}

/// What the sync thread finds when it looks after the dataplane.
#[derive(Clone, Debug)]
pub(crate) struct InspectionMetrics {
    pub(crate) restored: IntCounter,
    pub(crate) failures: IntCounter,
    pub(crate) udp_sockets_moved: IntCounter,
    pub(crate) udp_sockets_ended: IntCounter,
    pub(crate) udp_socket_failures: IntCounter,
}

impl InspectionMetrics {
    fn register(publish: &Publish<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            restored: publish.counter(
                "fairway_proxy_dataplane_restored_total",
                "Programs, pins and networks of cluster addresses that somebody else removed or changed, put back",
            )?,
            failures: publish.counter(
                "fairway_proxy_inspection_failures_total",
                "Times that the dataplane could not be looked after",
            )?,
            udp_sockets_moved: publish.counter(
                "fairway_proxy_udp_sockets_moved_total",
                "Connected UDP sockets that were connected to another endpoint when theirs had gone",
            )?,
            udp_sockets_ended: publish.counter(
                "fairway_proxy_udp_sockets_ended_total",
                "Connected UDP sockets that were ended when their endpoint had gone",
            )?,
            udp_socket_failures: publish.counter(
                "fairway_proxy_udp_socket_failures_total",
                "Network namespaces that could not be searched for UDP sockets whose endpoint had gone",
            )?,
        })
    }
}

/// How long syncs take: all of them, and each of the two kinds by itself.
#[derive(Clone, Debug)]
struct Durations {
    any: HistogramVec,
    whole: HistogramVec,
    changes: HistogramVec,
}

impl Durations {
    fn register(publish: &Publish<'_>) -> prometheus::Result<Self> {
        let buckets = exponential_buckets(0.001, 2.0, 15)?;
        Ok(Self {
            any: publish.histograms(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "Time from the start to the end of writing the rules",
                buckets.clone(),
            )?,
            whole: publish.histograms(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "The same, of syncs that compared everything",
                buckets.clone(),
            )?,
            changes: publish.histograms(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "The same, of syncs that wrote what had changed",
                buckets,
            )?,
        })
    }

    fn note(&self, extent: Extent, family: Family, took: Duration) {
        let of_its_kind = match extent {
            Extent::Whole => &self.whole,
            Extent::Changes => &self.changes,
        };
        for durations in [&self.any, of_its_kind] {
            durations.with_label_values(&[family.name()]).observe(took.as_secs_f64());
        }
    }
}

impl SyncMetrics {
    fn register(publish: &Publish<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            durations: Durations::register(publish)?,
            no_local_endpoints: publish.published(IntGaugeVec::new(
                Opts::new(
                    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                    "Services with endpoints of which the traffic policy Local leaves none on this node",
                ),
                &["traffic_policy", "ip_family"],
            )?)?,
            last: publish.gauges(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When the rules were last written with success",
            )?,
            last_queued: publish.gauges(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change of the rules was last queued",
            )?,
            network_programming: publish.histograms(
                "kubeproxy_network_programming_duration_seconds",
                "Time from a change in the cluster until it is in force here",
                network_programming_buckets()?,
            )?,
            endpoint_changes_pending: publish.integer_gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of endpoints that are not in force yet",
            )?,
            endpoint_changes: publish.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Changes of endpoints taken in",
            )?,
            service_changes_pending: publish.integer_gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not in force yet",
            )?,
            service_changes: publish.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Changes of Services taken in",
            )?,
            failures: publish
                .counter("fairway_proxy_sync_failures_total", "Syncs that left something unwritten")?,
            drift_repaired: publish.counter(
                "fairway_proxy_drift_repaired_total",
                "Frontends that the kernel was found to forward otherwise than last written",
            )?,
            inspection: InspectionMetrics::register(publish)?,
            frontends: publish.integer_gauge("fairway_proxy_frontends", "Frontends in force")?,
            frontends_left_out: publish.integer_gauge(
                "fairway_proxy_frontends_left_out",
                "Frontends that the dataplane cannot serve",
            )?,
            held_back: publish.integer_gauges(
                "fairway_proxy_held_back",
                "What stays in force although the API server lists it no more, because nearly everything vanished at once",
                "kind",
            )?,
        })
    }

    /// Notes how much is held back.
    pub(crate) fn note_held(&self, held: Held) {
        let Held { services, slices, frontends } = held;
        let counts = [("Service", services), ("EndpointSlice", slices), ("frontend", frontends)];
        for (kind, count) in counts {
            self.held_back.with_label_values(&[kind]).set(gauge(count));
        }
    }

    /// Notes that something awaits writing.
    pub(crate) fn note_queued(&self, at: SystemTime) {
        for family in Family::ALL {
            self.last_queued.with_label_values(&[family.name()]).set(seconds(at));
        }
    }

    /// Notes a sync that wrote everything it had to.
    pub(crate) fn note_sync(
        &self,
        extent: Extent,
        families: &BTreeSet<Family>,
        took: Duration,
        at: SystemTime,
    ) {
        for family in families {
            self.durations.note(extent, *family, took);
            self.last.with_label_values(&[family.name()]).set(seconds(at));
        }
    }

    /// Notes how many Services the traffic policy leaves without endpoints.
    pub(crate) fn note_stranded(&self, planner: &Planner) {
        for (policy, name) in [(PolicyOf::Internal, "internal"), (PolicyOf::External, "external")] {
            for family in Family::ALL {
                let count = gauge(planner.stranded(policy, family));
                self.no_local_endpoints.with_label_values(&[name, family.name()]).set(count);
            }
        }
    }

    /// Notes that what happened in the cluster `late` ago is in force.
    pub(crate) fn note_in_force(&self, family: Family, late: Duration) {
        self.network_programming.with_label_values(&[family.name()]).observe(late.as_secs_f64());
    }
}

/// A count as gauges take it.
pub(crate) fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Seconds since 1970; what lies before is 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// kube-proxy's own: 0.25 s and 0.5 s, every second to a minute, every five to two minutes, every thirty to five.
fn network_programming_buckets() -> prometheus::Result<Vec<f64>> {
    let mut buckets = linear_buckets(0.25, 0.25, 2)?;
    buckets.extend(linear_buckets(1.0, 1.0, 59)?);
    buckets.extend(linear_buckets(60.0, 5.0, 12)?);
    buckets.extend(linear_buckets(120.0, 30.0, 7)?);
    Ok(buckets)
}

struct Publish<'registry>(&'registry Registry);

impl Publish<'_> {
    fn published<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.published(HistogramVec::new(options, &["ip_family"])?)
    }

    fn gauges(&self, name: &str, help: &str) -> prometheus::Result<GaugeVec> {
        self.published(GaugeVec::new(Opts::new(name, help), &["ip_family"])?)
    }

    fn integer_gauges(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
        self.published(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn integer_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.published(IntGauge::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.published(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.published(IntCounter::new(name, help)?)
    }
}
