//! The main thread: opens the front door, carries out what it is told, and watches over its parts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use daemon::admin::{Admin, Routes};
use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::Error;
use crate::config::{self, Backend, Config};
use crate::front_door::FrontDoor;
use crate::health::Thresholds;
use crate::metrics::{Metrics, ReloadResult};
use crate::pool::Pool;
use crate::probe::{self, Probe};
use crate::relay::{self, Change, Relay};
use crate::reload::{Step, router, steps};
use crate::router::{Beginning, Prepared, Router, RouterConfig, RouterMetrics};

/// Serves as `config`, the contents of `file`, says, until asked to stop.
pub(crate) async fn serve(file: PathBuf, config: Config) -> Result<(), Error> {
    let signals = Signals::listen().map_err(|source| Error::Signals { source })?;
    let registry = Registry::new();
    let metrics_error = |source| Error::Metrics { source };
    let metrics = Metrics::register(&registry).map_err(metrics_error)?;
    let router_metrics = RouterMetrics::register(&registry).map_err(metrics_error)?;
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let limit = relay::connection_limit(threads)?;
    let front_door = Arc::new(FrontDoor::default());
    // Before the relay: a second front door started by mistake fails here, and not after it has taken over a share of
    // the first one's clients.
    let admin = bind_admin(config.admin, &registry, &front_door).await?;
    let admin_address = admin.address().map_err(|source| Error::Admin { address: config.admin, source })?;
    let relay = Relay::bind(&config.frontend, threads, Vec::new())?;
    let frontend = relay.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(%frontend, admin = %admin_address, threads, connections = limit, "front door bound");

    let pool = Pool::new(&config.backends, config.frontend.balance, Thresholds::from(&config.health_check), &metrics);
    let mut server = Server {
        admin: JoinSet::new(),
        probes: start_probes(&config, &pool),
        file,
        config,
        registry,
        metrics,
        router_metrics,
        front_door,
        pool,
    };
    server.admin.spawn(admin_forever(admin));
    server.run(relay, limit, signals).await
}

/// The front door and what it was told.
struct Server {
    file: PathBuf,
    config: Config,
    registry: Registry,
    metrics: Metrics,
    router_metrics: RouterMetrics,
    front_door: Arc<FrontDoor>,
    pool: Arc<Pool>,
    /// Dropping them ends them.
    probes: JoinSet<Infallible>,
    admin: JoinSet<Infallible>,
}

/// A configuration to go over to: all that can fail has been done, and nothing has changed yet.
struct Prospect {
    config: Config,
    steps: Vec<Step>,
    frontend: Option<Change>,
    admin: Option<Admin>,
    routers: Vec<(String, Prepared)>,
}

impl Server {
    async fn run(mut self, relay: Relay, limit: usize, mut signals: Signals) -> Result<(), Error> {
        tokio::select! {
            () = signals.stop() => return Ok(()),
            () = self.pool.settled() => {}
        }
        self.front_door.open(relay.start(&self.pool, &self.metrics, limit)?);
        let prepare = |router: &RouterConfig| {
            Ok::<_, Error>((router.instance(), Router::prepare(router.clone(), &self.router_metrics)?))
        };
        let prepared: Vec<_> = self.config.virtual_routers.iter().map(prepare).collect::<Result<_, _>>()?;
        for (instance, prepared) in prepared {
            self.front_door.add_router(instance, prepared.start(Beginning::Afresh)?);
        }
        tracing::info!("front door open");
        let ended = self.watch(&mut signals).await;
        self.front_door.close();
        tracing::info!("front door closed");
        ended
    }

    /// Does what it is told until asked to stop, or until a part has ended by itself.
    async fn watch(&mut self, signals: &mut Signals) -> Result<(), Error> {
        let mut supervision = tokio::time::interval(SUPERVISION_INTERVAL);
        supervision.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                word = signals.next() => match word {
                    Word::Stop => return Ok(()),
                    Word::Reload => self.reload().await,
                },
                _ = supervision.tick() => {
                    if let Some(part) = self.front_door.ended() {
                        return Err(Error::Ended { part });
                    }
                }
                Some(_) = self.probes.join_next() => return Err(Error::Ended { part: "a health check" }),
                Some(_) = self.admin.join_next() => return Err(Error::Ended { part: "the admin server" }),
            }
        }
    }

    /// Reads the file anew and goes over to what it says; a file that is not valid changes nothing.
    async fn reload(&mut self) {
        let result = match self.prospect().await {
            Ok(prospect) => self.go_over(prospect),
            Err(refused) => refused,
        };
        self.metrics.reloads(result).inc();
    }

    async fn prospect(&self) -> Result<Prospect, ReloadResult> {
        let config = config::read(&self.file).map_err(|problems| {
            for problem in problems.list() {
                tracing::error!(path = problem.path, problem = problem.what, "configuration problem");
            }
            tracing::error!(file = %self.file.display(), "configuration refused: nothing has changed");
            ReloadResult::Refused
        })?;
        self.prepare(config).await.map_err(|error| {
            let error = daemon::exit::chain(&error);
            tracing::error!(file = %self.file.display(), error, "configuration refused: nothing has changed");
            ReloadResult::Refused
        })
    }

    async fn prepare(&self, config: Config) -> Result<Prospect, Error> {
        let steps = steps(&self.config, &config);
        let frontend = self.front_door.prepare(&config.frontend)?;
        let mut admin = None;
        if config.admin != self.config.admin {
            admin = Some(bind_admin(config.admin, &self.registry, &self.front_door).await?);
        }
        let mut routers = Vec::new();
        for step in &steps {
            if let Step::StartRouter(instance) | Step::RestartRouter(instance) = step
                && let Some(router) = router(&config, instance)
            {
                routers.push((instance.clone(), Router::prepare(router.clone(), &self.router_metrics)?));
            }
        }
        Ok(Prospect { config, steps, frontend, admin, routers })
    }

    fn go_over(&mut self, prospect: Prospect) -> ReloadResult {
        let Prospect { config, steps, frontend, admin, routers } = prospect;
        self.config = config;
        self.pool.reconfigure(&self.config.backends, self.config.frontend.balance, Thresholds::from(&self.config.health_check));
        // All of them: certificates may be others in files of the same name.
        self.probes = start_probes(&self.config, &self.pool);
        if let Some(admin) = admin {
            self.admin = JoinSet::new();
            self.admin.spawn(admin_forever(admin));
        }
        let mut result = ReloadResult::Applied;
        let mut note = |outcome: Result<(), Error>| {
            if let Err(error) = outcome {
                tracing::error!(error = daemon::exit::chain(&error), "configuration applied in part");
                result = ReloadResult::Partial;
            }
        };
        note(frontend.map_or(Ok(()), |change| self.front_door.change(change)).map_err(Error::from));
        for step in &steps {
            match step {
                Step::StopRouter(instance) | Step::RestartRouter(instance) => {
                    self.front_door.remove_router(instance);
                }
                Step::ChangeRouter(instance) => {
                    router(&self.config, instance).into_iter().for_each(|it| self.front_door.change_router(it));
                }
                Step::AddBackend(_)
                | Step::RemoveBackend(_)
                | Step::ChangeBackend(_)
                | Step::ChangeHealthCheck
                | Step::Listen(_)
                | Step::Close(_)
                | Step::ChangeFrontend
                | Step::MoveAdmin(_)
                | Step::StartRouter(_) => {}
            }
        }
        for (instance, prepared) in routers {
            let started = prepared.start(Beginning::Afresh).map_err(Error::from);
            note(started.map(|router| self.front_door.add_router(instance, router)));
        }
        let steps = steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(file = %self.file.display(), steps, "configuration reloaded");
        result
    }
}

fn start_probes(config: &Config, pool: &Arc<Pool>) -> JoinSet<Infallible> {
    let mut tasks = JoinSet::new();
    let overdue = Arc::clone(pool);
    tasks.spawn(async move { overdue.end_overdue().await });
    for member in pool.members() {
        let Backend { address, send_proxy, .. } = member.backend;
        let probe = Probe::new(address, &config.health_check).sending_proxy(send_proxy);
        tasks.spawn(probe::watch(probe, Arc::clone(pool), member));
    }
    tasks
}

async fn bind_admin(
    address: SocketAddr,
    registry: &Registry,
    front_door: &Arc<FrontDoor>,
) -> Result<Admin, Error> {
    let front_door = Arc::clone(front_door);
    let routes =
        Routes::default().with_metrics(registry.clone()).with("/healthz", move || front_door.health());
    Admin::bind(address, routes).await.map_err(|source| Error::Admin { address, source })
}

async fn admin_forever(admin: Admin) -> Infallible {
    admin.serve().await;
    // `serve` ends only by being dropped.
    std::future::pending().await
}

/// The signals that mean something here. Others do what they do to any process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next word. Cancelling it loses none.
    async fn next(&mut self) -> Word {
        tokio::select! {
            _ = self.terminate.recv() => Word::Stop,
            _ = self.interrupt.recv() => Word::Stop,
            _ = self.hangup.recv() => Word::Reload,
        }
    }

    /// Returns when the process is asked to end. Cancelling it loses nothing; a reload waits meanwhile.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What a signal asks for.
enum Word {
    Stop,
    Reload,
}

/// How soon a part that ended by itself ends the process, so that a supervisor starts it again.
const SUPERVISION_INTERVAL: Duration = Duration::from_secs(1);
