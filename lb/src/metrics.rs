//! What the relay and the health checks count. Labels are closed sets: the configured backends and a few words.

use prometheus::{
    Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::config::{BackendName, Reload};
use crate::health::{ConnectFailure, ProbeResult};

/// The metrics of one front door.
#[derive(Clone, Debug)]
pub struct Metrics {
    families: Families,
    refused: [IntCounter; Refusal::ALL.len()],
    reloads: [IntCounter; ReloadResult::ALL.len()],
    /// Connections that rest because nobody has spoken for a while.
    pub idle: IntGauge,
    /// Bytes carried from clients to backends.
    pub bytes_to_backends: IntCounter,
    /// Bytes carried from backends to clients.
    pub bytes_to_clients: IntCounter,
    tls_renewed: IntCounter,
    tls_refused: IntCounter,
    tls_outdated: IntCounter,
}

/// What a reload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// Everything is as the file says.
    Applied,
    /// Nothing has changed.
    Refused,
    /// Something could not be changed after all; the log says what.
    Partial,
}

impl ReloadResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Refused, Self::Partial];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Partial => "partial",
        }
    }
}

/// The metrics of one backend.
#[derive(Clone, Debug)]
pub struct BackendMetrics {
    /// Connections established.
    pub connections: IntCounter,
    /// Connections it has now, those being established included.
    pub active: IntGauge,
    /// 1 while it takes new connections.
    pub up: IntGauge,
    /// How long probes took, in seconds.
    pub probe_duration: Histogram,
    /// Connections beyond its share, where rebalancing is on and finds it the fullest.
    pub excess: IntGauge,
    /// Connections that it had not answered when it was lost, and that were passed on to another one.
    pub moved: IntCounter,
    connect_failures: [IntCounter; ConnectFailure::ALL.len()],
    probes: [IntCounter; ProbeResult::ALL.len()],
    ended: [IntCounter; EndReason::ALL.len()],
}

/// Why there is no backend for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None is up, or could be connected to.
    Down,
    /// Those that are up have as many connections as they may have.
    Full,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Down, Self::Full];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Full => "full",
        }
    }
}

/// Why a front door ends connections unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The backend is dead.
    Killed,
    /// The backend has taken no new connections for longer than the drain deadline.
    Drained,
    /// The backend has more connections than its share.
    Rebalanced,
}

impl EndReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Killed, Self::Drained, Self::Rebalanced];

    /// The word for it in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Drained => "drained",
            Self::Rebalanced => "rebalanced",
        }
    }
}

impl BackendMetrics {
    /// Connects that failed for this reason.
    pub fn connect_failures(&self, reason: ConnectFailure) -> &IntCounter {
        &self.connect_failures[reason as usize]
    }

    /// Probes that ended so.
    pub fn probes(&self, result: ProbeResult) -> &IntCounter {
        &self.probes[result as usize]
    }

    /// Connections ended for this reason.
    pub fn ended(&self, reason: EndReason) -> &IntCounter {
        &self.ended[reason as usize]
    }
}

impl Metrics {
    /// Makes the metrics known to `registry`, those of backends once there are any.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let families = Families::register(registry)?;
        let help = "Reloads of the configuration.";
        let reloads = counters(registry, "reloads_total", help, &["result"])?;
        let bytes = counters(registry, "bytes_total", "Bytes carried.", &["direction"])?;
        let help = "Changes of the certificates of health checks.";
        let tls_reloads = counters(registry, "tls_reloads_total", help, &["result"])?;
        let build = gauges(registry, "build_info", "1, with the version as a label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let refused = "Connections reset because no backend would take them.";
        let refused = counters(registry, "connections_refused_total", refused, &["reason"])?;
        let idle = "Connections on which nobody has spoken for a while.";
        let idle = IntGauge::new(name("connections_idle"), idle)?;
        registry.register(Box::new(idle.clone()))?;
        Ok(Self {
            families,
            idle,
            refused: Refusal::ALL.map(|reason| refused.with_label_values(&[reason.label()])),
            reloads: ReloadResult::ALL.map(|result| reloads.with_label_values(&[result.label()])),
            bytes_to_backends: bytes.with_label_values(&["to_backend"]),
            bytes_to_clients: bytes.with_label_values(&["to_client"]),
            tls_renewed: tls_reloads.with_label_values(&["renewed"]),
            tls_refused: tls_reloads.with_label_values(&["refused"]),
            tls_outdated: tls_reloads.with_label_values(&["outdated"]),
        })
    }

    /// Connections reset because no backend would take them.
    pub fn refused(&self, reason: Refusal) -> &IntCounter {
        &self.refused[reason as usize]
    }

    /// Changes of the certificates of health checks that ended so.
    pub fn tls_reloads(&self, reload: &Reload) -> &IntCounter {
        match reload {
            Reload::Renewed => &self.tls_renewed,
            Reload::Refused(_) => &self.tls_refused,
            Reload::Outdated => &self.tls_outdated,
        }
    }

    /// Reloads that ended so.
    pub fn reloads(&self, result: ReloadResult) -> &IntCounter {
        &self.reloads[result as usize]
    }

    /// The metrics of a backend, at zero unless there was one of this name before.
    pub fn of_backend(&self, backend: &BackendName) -> BackendMetrics {
        self.families.of(backend)
    }

    /// Shows nothing of a backend any longer.
    pub fn forget_backend(&self, backend: &BackendName) {
        self.families.forget(backend);
    }
}

/// The families with a label `backend`.
#[derive(Clone, Debug)]
struct Families {
    connections: IntCounterVec,
    active: IntGaugeVec,
    connect_failures: IntCounterVec,
    up: IntGaugeVec,
    probe_duration: HistogramVec,
    probes: IntCounterVec,
    excess: IntGaugeVec,
    moved: IntCounterVec,
    ended: IntCounterVec,
}

impl Families {
    fn register(registry: &Registry) -> Result<Self, Error> {
        let help = "How long probes took, in seconds.";
        let options =
            HistogramOpts::new(name("probe_duration_seconds"), help).buckets(PROBE_BUCKETS.to_vec());
        let probe_duration = HistogramVec::new(options, &["backend"])?;
        registry.register(Box::new(probe_duration.clone()))?;
        Ok(Self {
            connections: counters(registry, "connections_total", "Connections established.", &["backend"])?,
            active: gauges(registry, "connections_active", "Connections now.", &["backend"])?,
            connect_failures: counters(
                registry,
                "connect_failures_total",
                "Connects that failed and were tried elsewhere.",
                &["backend", "reason"],
            )?,
            up: gauges(registry, "backend_up", "1 while it takes new connections.", &["backend"])?,
            probe_duration,
            probes: counters(registry, "probes_total", "Probes that have ended.", &["backend", "result"])?,
            excess: gauges(
                registry,
                "rebalance_excess_connections",
                "Connections beyond its share, of the fullest backend.",
                &["backend"],
            )?,
            moved: counters(
                registry,
                "connections_moved_total",
                "Connections that a backend had not answered when it was lost, and that went elsewhere.",
                &["backend"],
            )?,
            ended: counters(
                registry,
                "connections_ended_total",
                "Connections that were ended unasked.",
                &["backend", "reason"],
            )?,
        })
    }

    fn of(&self, backend: &BackendName) -> BackendMetrics {
        let backend = backend.as_str();
        BackendMetrics {
            connections: self.connections.with_label_values(&[backend]),
            active: self.active.with_label_values(&[backend]),
            up: self.up.with_label_values(&[backend]),
            probe_duration: self.probe_duration.with_label_values(&[backend]),
            connect_failures: ConnectFailure::ALL
                .map(|reason| self.connect_failures.with_label_values(&[backend, reason.label()])),
            excess: self.excess.with_label_values(&[backend]),
            moved: self.moved.with_label_values(&[backend]),
            probes: ProbeResult::ALL.map(|result| self.probes.with_label_values(&[backend, result.label()])),
            ended: EndReason::ALL.map(|reason| self.ended.with_label_values(&[backend, reason.label()])),
        }
    }

    fn forget(&self, backend: &BackendName) {
        let backend = [backend.as_str()];
        // An error says that there was no such series: that is what is wanted.
        let mut gone = vec![
            self.connections.remove_label_values(&backend),
            self.active.remove_label_values(&backend),
            self.up.remove_label_values(&backend),
            self.probe_duration.remove_label_values(&backend),
            self.excess.remove_label_values(&backend),
            self.moved.remove_label_values(&backend),
        ];
        let [backend] = backend;
        gone.extend(
            ConnectFailure::ALL
                .map(|reason| self.connect_failures.remove_label_values(&[backend, reason.label()])),
        );
        gone.extend(
            ProbeResult::ALL.map(|result| self.probes.remove_label_values(&[backend, result.label()])),
        );
        gone.extend(EndReason::ALL.map(|reason| self.ended.remove_label_values(&[backend, reason.label()])));
        for error in gone.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, backend, "no such series");
        }
    }
}

/// From a local apiserver (1 ms) to the longest timeout anybody should choose.
const PROBE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5];

fn name(suffix: &str) -> String {
    format!("fairway_lb_{suffix}")
}

fn counters(registry: &Registry, suffix: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    let family = IntCounterVec::new(Opts::new(name(suffix), help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauges(registry: &Registry, suffix: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
    let family = IntGaugeVec::new(Opts::new(name(suffix), help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}
