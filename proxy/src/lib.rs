//! fairway-proxy: programs the Services of a cluster into the kernel of a node, as kube-proxy does.
//!
//! ```text
//!   API server --> watch      \                             +--------- sync: a thread of its own ---------+
//!                              >-- Update --(bounded)-->    | planner: Cluster -> translate -> Forwarding |
//!   directory  --> manifests  /                             | pacing:  when                               |
//!                                                           | diff -> Dataplane::apply | observe          |
//!   admin servers <-- health, metrics ----------------------+---------------------------------------------+
//! ```
//!
//! * [`cluster`], [`translate`], [`planner`] and `pacing` are pure: they decide, from values and a given time.
//! * `watch` and `manifests` are the sources; `sync` owns the dataplane; `health_check` and `metrics` tell of it.
//! * Nothing is written before every kind has been listed once, and stopping leaves the kernel as it is: a restart
//!   adopts what it finds.

pub mod arguments;
mod ask;
mod clock;
pub mod cluster;
mod commands;
pub mod config;
mod debug_pages;
mod doctor;
mod explain;
mod guard;
mod health_check;
mod health_check_ports;
mod interfaces;
mod kube_proxy;
mod manifests;
mod metrics;
mod notice;
mod pacing;
mod packet;
pub mod planner;
mod process_metrics;
mod reload;
mod server;
mod service_metrics;
mod successor;
mod sync;
pub mod translate;
mod watch;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use daemon::exit::{Code, Failure};
use daemon::problems::Problem;
use daemon::telemetry::Logs;
use daemon::{signal, telemetry};
use dataplane::{Dataplane, Ebpf, Ipvs, IpvsSettings, Surroundings};
use plan::Scope;
use prometheus::Registry;
use tokio::sync::watch::{Receiver, channel};
use tokio::sync::{Notify, mpsc};

use self::arguments::{Arguments, ConfigError, Run};
use self::config::{Config, Logging, Mode, Source};
use self::debug_pages::Began;
use self::explain::SharedView;
use self::guard::Guard;
use self::health_check::{Health, SharedHealth, health_routes, metrics_routes};
use self::manifests::Manifests;
use self::metrics::{Metrics, ServiceLevelIndicators};
use self::notice::{Notice, Notices};
use self::packet::PacketMetrics;
use self::planner::HealthChecks;
use self::process_metrics::ProcessMetrics;
use self::reload::Reload;
use self::server::Server;
use self::service_metrics::ServiceMetrics;
use self::successor::Successor;
use self::watch::{AccessError, Listeners, OwnNode, Watch};

/// Updates on their way to the sync thread; a source that is faster waits.
const QUEUED_UPDATES: usize = 1024;

/// Does what the command line asks for.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, run } = arguments;
    if let Some(command) = command {
        start_logging(Config::default().logging)?;
        return commands::run(command);
    }
    let (config, warnings) = run.config().map_err(configuration)?;
    let logs = start_logging(config.logging)?;
    warn(&warnings);
    match &run.write_config_to {
        Some(path) => commands::write_config(path, &config),
        None if run.cleanup => commands::cleanup(&run.bpf_fs),
        None => run_until_terminated(run, config, logs),
    }
}

fn start_logging(logging: Logging) -> Result<Logs, Failure> {
    telemetry::start(logging.filter(), logging.format).map_err(Failure::failed)
}

fn run_until_terminated(run: Run, config: Config, logs: Logs) -> Result<(), Failure> {
    let (init_only, arguments) = (run.init_only, run.clone());
    let (at_start, shown) = (config.clone(), Shown::default());
    let open = move |shown: &Shown| -> Result<Box<dyn Dataplane>, Failure> {
        match at_start.mode {
            Mode::Ebpf => open_ebpf(run, &at_start, shown),
            Mode::Ipvs(settings) => open_ipvs(run, &at_start, settings),
        }
    };
    if init_only {
        drop(open(&shown)?);
        tracing::info!("the dataplane is in place");
        return Ok(());
    }
    adjust_oom_score(config.oom_score_adjustment);
    let (in_force, config) = channel(config);
    let reload = Reload::new(arguments, in_force, logs, &shown.registry).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(Failure::failed)?.block_on(async {
        let terminated = signal::terminated();
        let mut start_needed = None;
        let ended = async {
            tokio::select! {
                awaited = terminated => if let Err(error) = awaited {
                    tracing::error!(%error, "signals cannot be awaited, stopping");
                },
                needed = reload.run() => start_needed = Some(needed),
            }
        };
        let release = Arc::new(Notify::new());
        tokio::select! {
            ended = serve(config, shown, open, Arc::clone(&release), ended) => ended?,
            error = ring(&release) => return Err(Failure::failed(error)),
        }
        start_needed.map_or(Ok(()), |needed| Err(Failure::failed(needed)))
    })
}

/// What a dataplane may add its figures to, and what tells whose they are. Copies share both.
#[derive(Clone, Default)]
struct Shown {
    registry: Registry,
    view: SharedView,
}

fn open_ebpf(run: Run, config: &Config, shown: &Shown) -> Result<Box<dyn Dataplane>, Failure> {
    let packets =
        packet::settings(config, run.packet_interfaces, run.packet_forwarding, run.packet_flow_entries);
    let cgroup = run.cgroup.map_or_else(dataplane::default_cgroup, Ok).map_err(kernel)?;
    tracing::info!(cgroup = %cgroup.display(), bpf_fs = %run.bpf_fs.display(), "opening the dataplane");
    let mut ebpf = Ebpf::open(&dataplane::Settings { cgroup, bpf_fs: run.bpf_fs }).map_err(kernel)?;
    let counters = ebpf.serve_packets(packets).map_err(kernel)?;
    PacketMetrics::register(&shown.registry, counters).map_err(Failure::failed)?;
    shown.view.lock().live = Some(ebpf.live_services().map_err(kernel)?);
    let counters = ebpf.service_counters().map_err(kernel)?;
    ServiceMetrics::register(&shown.registry, counters, shown.view.clone()).map_err(Failure::failed)?;
    if !Ipvs::is_left().map_err(kernel)? {
        if Ipvs::is_present() {
            tracing::warn!("virtual services of kube-proxy are still there, and not followed any more");
        }
        return Ok(Box::new(ebpf));
    }
    let settings = IpvsSettings { drain_deadline: run.drain_deadline, ..IpvsSettings::default() };
    Ok(Box::new(Successor::new(
        ebpf,
        retirement(settings, packet::surroundings(config), config.virtual_scope.clone()),
    )))
}

/// Lets the virtual services of mode ipvs go that this proxy left, each with the last of its connections.
fn retirement(
    settings: IpvsSettings,
    surroundings: Surroundings,
    scope: Scope,
) -> impl FnMut() -> Result<bool, dataplane::Error> {
    let mut left = None;
    move || {
        let ipvs = match &mut left {
            Some(ipvs) => ipvs,
            none => none.insert(Ipvs::open(settings, surroundings.clone())?),
        };
        let gone = ipvs.retire(&scope)?;
        if gone {
            tracing::info!("virtual services of mode ipvs are gone");
        }
        Ok(gone)
    }
}

/// The programs of mode ebpf would go on translating by what they last knew: they go when everything is served here.
fn open_ipvs(run: Run, config: &Config, settings: IpvsSettings) -> Result<Box<dyn Dataplane>, Failure> {
    tracing::info!(scheduler = settings.scheduler.name(), "opening virtual services");
    let settings = IpvsSettings { drain_deadline: run.drain_deadline, ..settings };
    let ipvs = Ipvs::open(settings, packet::surroundings(config)).map_err(kernel)?;
    Ok(Box::new(Successor::new(ipvs, move || Ebpf::cleanup(&run.bpf_fs).map(|()| true))))
}

/// To lower it takes `CAP_SYS_RESOURCE`. Without that the supervisor's choice stays, which is said.
fn adjust_oom_score(adjustment: i64) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()) {
        tracing::warn!(adjustment, %error, "oom score not adjusted");
    }
}

/// Runs with any dataplane until `shutdown` resolves; what [`run`] does with the kernel's. `config` is followed in place
/// as far as that is safe: its mode, source and node are those of the start. The dataplane is opened on a thread of its own,
/// which may take its time; why it cannot be is what this ends with.
///
/// Call it within a tokio runtime with time and I/O enabled. When it returns, the dataplane has been dropped as it was.
pub async fn run_with(
    config: Receiver<Config>,
    open: impl FnOnce() -> Result<Box<dyn Dataplane>, Failure> + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    serve(config, Shown::default(), |_| open(), Arc::default(), shutdown).await
}

/// Rings at every SIGUSR1. Ends only where signals cannot be awaited.
async fn ring(release: &Notify) -> io::Error {
    match signal::told() {
        Ok(mut told) => loop {
            told.recv().await;
            release.notify_one();
        },
        Err(error) => error,
    }
}

/// The configuration is proved, as far as it can be, before the kernel is touched. The kernel is then given its programs
/// while the source is read: each takes a good part of a start.
async fn serve(
    in_force: Receiver<Config>,
    shown: Shown,
    open: impl FnOnce(&Shown) -> Result<Box<dyn Dataplane>, Failure> + Send + 'static,
    release: Arc<Notify>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let config = in_force.borrow().clone();
    let Shown { registry, view } = &shown;
    let indicators = ServiceLevelIndicators::new().map_err(Failure::failed)?;
    let metrics = Metrics::register(registry).map_err(Failure::failed)?;
    ProcessMetrics::register(registry).map_err(Failure::failed)?;
    let health = SharedHealth::new(Health::new(config.sync_period));
    let (health_checks, to_be_told) = channel(HealthChecks::default());
    let (updates, received) = mpsc::channel(QUEUED_UPDATES);
    let (notices, to_be_published) = Notices::new(metrics.sources.events.dropped.clone());
    let listeners =
        Listeners { updates: updates.clone(), notices: notices.clone(), metrics: metrics.sources.clone() };
    let source = prepare(&config, &health, listeners, to_be_published).await?;
    let settings = sync::Settings {
        node: node_name(&config)?,
        config: in_force.clone(),
        metrics: metrics.sync.clone(),
        health: health.clone(),
        view: view.clone(),
        health_checks,
        notices: notices.clone(),
        guard: Guard::new(config.guard_emptiness && matches!(config.source, Source::Cluster(_))),
        release,
    };
    let opened = Arc::new(Notify::new());
    let open = announced(open, config.hostname_override.clone(), &shown, &notices, &opened);
    let writer = sync::start(settings, open, received).map_err(Failure::failed)?;
    let healthz = Server { at: |config| config.healthz, event: "FailedToStartProxierHealthcheck" };
    let metrics_server = Server { at: |config| config.metrics, event: "FailedToStartMetricServer" };
    let healthz_routes = || health_routes(&health, &metrics.answers);
    let began = Began::now();
    let metrics_routes =
        || metrics_routes(registry.clone(), indicators.clone(), in_force.clone(), view.clone(), began);
    let answers = async {
        opened.notified().await;
        tokio::try_join!(
            healthz.run(in_force.clone(), &notices, healthz_routes),
            metrics_server.run(in_force.clone(), &notices, metrics_routes),
        )
    };
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        Err(failure) = answers => Err(failure),
        () = health_check_ports::serve(to_be_told, &health, &notices) => Ok(()),
        () = source.run() => Ok(()),
        () = updates.closed() => Ok(()),
    };
    // With the last sender gone the thread finishes what it is at, and ends.
    let unheard = updates.is_closed();
    drop(updates);
    join(writer, unheard).await?;
    ended?;
    tracing::info!("stopped, the kernel goes on forwarding");
    Ok(())
}

/// Opens the dataplane, says so, and rings `opened`.
fn announced(
    open: impl FnOnce(&Shown) -> Result<Box<dyn Dataplane>, Failure> + Send + 'static,
    node: Option<String>,
    shown: &Shown,
    notices: &Notices,
    opened: &Arc<Notify>,
) -> impl FnOnce() -> Result<Box<dyn Dataplane>, Failure> + Send + 'static {
    let (shown, notices, opened) = (shown.clone(), notices.clone(), Arc::clone(opened));
    move || {
        let dataplane = open(&shown)?;
        tracing::info!(node, version = env!("CARGO_PKG_VERSION"), "started");
        notices.leave(Notice::starting());
        opened.notify_one();
        Ok(dataplane)
    }
}

/// Waits for the thread. What kept it from opening the dataplane goes before whatever else went wrong.
async fn join(writer: JoinHandle<Result<(), Failure>>, unheard: bool) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(move || writer.join()).await.map_err(Failure::failed)? {
        Ok(Err(not_opened)) => Err(not_opened),
        Ok(Ok(())) if !unheard => Ok(()),
        Ok(Ok(())) | Err(_) => Err(Failure::failed("the sync thread ended by itself")),
    }
}

/// A source that is ready to go.
enum Prepared {
    Watch(Box<Watch>),
    Manifests(Manifests),
}

impl Prepared {
    async fn run(self) {
        match self {
            Self::Watch(watch) => Box::pin(watch.run()).await,
            Self::Manifests(manifests) => manifests.run().await,
        }
    }
}

/// The name of the Node that this is: the host's, unless it was said to be another.
fn node_name(config: &Config) -> Result<String, Failure> {
    if let Some(name) = &config.hostname_override {
        return Ok(name.clone());
    }
    let path = Path::new("/proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(path)
        .map_err(|source| Failure::failed(ConfigError::Read { path: path.to_owned(), source }))?;
    Ok(name.trim().to_lowercase())
}

async fn prepare(
    config: &Config,
    health: &SharedHealth,
    listeners: Listeners,
    notices: mpsc::Receiver<Notice>,
) -> Result<Prepared, Failure> {
    Ok(match &config.source {
        Source::Cluster(access) => {
            let node = OwnNode { name: node_name(config)?, health: health.clone() };
            let watch = Watch::prepare(access, node, &listeners, notices).await;
            Prepared::Watch(Box::new(watch.map_err(unreachable_cluster)?))
        }
        Source::Manifests(directory) => Prepared::Manifests(Manifests::new(
            directory.clone(),
            node_name(config)?,
            &listeners.metrics,
            listeners.updates,
        )),
    })
}

fn warn(warnings: &[Problem]) {
    for Problem { path, what } in warnings {
        tracing::warn!(field = path, "{what}");
    }
}

fn configuration(error: ConfigError) -> Failure {
    match error {
        ConfigError::Invalid(problems) => problems.into(),
        ConfigError::Read { .. } => Failure::new(Code::Configuration, error),
    }
}

fn unreachable_cluster(error: AccessError) -> Failure {
    Failure::new(Code::Configuration, error)
}

fn kernel(error: dataplane::Error) -> Failure {
    let code = if matches!(error, dataplane::Error::Kernel { .. }) {
        Code::Unavailable
    } else if matches!(error, dataplane::Error::Permission { .. }) {
        Code::NoPermission
    } else if matches!(error, dataplane::Error::Place { .. }) {
        Code::Configuration
    } else {
        Code::Failed
    };
    Failure::new(code, error)
}
