//! The main thread: opens the front door, carries out what it is told, and watches over its parts.

mod change;
mod report;
mod succession;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use daemon::admin::{Admin, Routes};
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Error;
use crate::config::{Backend, Config};
use crate::control::{Control, Request};
use crate::front_door::FrontDoor;
use crate::handover::Predecessor;
use crate::health::Thresholds;
use crate::metrics::{Metrics, ReloadResult};
use crate::notify::Notifier;
use crate::pool::Pool;
use crate::probe::{self, Probe};
use crate::rebalance;
use crate::relay::{self, Relay};
use crate::router::{self, Beginning, Prepared, Router, RouterMetrics};
use crate::signals::{Signals, Word};
use crate::virtual_services::VirtualServices;

/// Serves as `config`, the contents of `file`, says, until asked to stop, or until a successor has taken over and the
/// last connection has ended.
pub(crate) async fn serve(file: PathBuf, config: Config, take_over: bool) -> Result<(), Error> {
    let signals = Signals::listen().map_err(|source| Error::Signals { source })?;
    let notifier = Notifier::from_environment().map_err(|source| Error::ServiceManager { source })?;
    let (predecessor, inheritance) = succession::predecessor(&config.control_socket, take_over)?;
    if !config.virtual_routers.is_empty() {
        router::lock_memory();
    }
    let registry = Registry::new();
    let metrics_error = |source| Error::Metrics { source };
    let metrics = Metrics::register(&registry).map_err(metrics_error)?;
    let router_metrics = RouterMetrics::register(&registry).map_err(metrics_error)?;
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let limit = relay::connection_limit(threads, &config)?;
    let virtual_services = VirtualServices::open(&config, &[])?;
    let front_door = Arc::new(FrontDoor::default());
    let routes = routes(&registry, &front_door);
    let admin = bind_admin(config.admin, inheritance.admin, routes).await?;
    let relay = Relay::bind(&config.frontend, threads, inheritance.listeners)?;
    let frontend = relay.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let admin_error = |source| Error::Admin { address: config.admin, source };
    let (admin_socket, address) =
        (admin.socket().map_err(admin_error)?, admin.address().map_err(admin_error)?);
    tracing::info!(%frontend, admin = %address, threads, connections = limit, "front door bound");

    let pool = Pool::new(
        &config.backends,
        config.frontend.balance,
        Thresholds::from(&config.health_check),
        &metrics,
    );
    for backend in &inheritance.drained {
        pool.drain(backend, true);
    }
    let (requests, asked) = mpsc::channel(1);
    let now = Instant::now();
    let server = Server {
        probes: start_probes(&config, &pool),
        admin: JoinSet::new(),
        control: JoinSet::new(),
        forwarding: JoinSet::new(),
        successors: JoinSet::new(),
        times: Times { started: now, in_force: now, last_reload: None, leave_at: None },
        yielded: BTreeMap::new(),
        admin_socket,
        requests,
        notifier,
        file,
        config,
        registry,
        metrics,
        router_metrics,
        front_door,
        pool,
    };
    server.run(Opening { relay, limit, virtual_services, admin, predecessor }, signals, asked).await
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
    // Dropping these ends them.
    probes: JoinSet<Infallible>,
    admin: JoinSet<Infallible>,
    control: JoinSet<Infallible>,
    forwarding: JoinSet<Infallible>,
    successors: JoinSet<io::Result<ExitStatus>>,
    /// For a successor.
    admin_socket: TcpListener,
    /// Where what is asked through the control socket goes.
    requests: mpsc::Sender<Request>,
    notifier: Notifier,
    times: Times,
    /// The virtual routers that were left to a successor, and whether we were their master.
    yielded: BTreeMap<String, bool>,
}

struct Times {
    started: Instant,
    in_force: Instant,
    last_reload: Option<(Instant, ReloadResult, Vec<String>)>,
    /// When the connections of a process that was succeeded are given up.
    leave_at: Option<Instant>,
}

/// What is bound and does not work yet.
struct Opening {
    relay: Relay,
    limit: usize,
    virtual_services: Option<VirtualServices>,
    admin: Admin,
    predecessor: Option<Predecessor>,
}

impl Server {
    async fn run(
        mut self,
        opening: Opening,
        mut signals: Signals,
        mut asked: mpsc::Receiver<Request>,
    ) -> Result<(), Error> {
        let Opening { relay, limit, virtual_services, admin, mut predecessor } = opening;
        let mut admin = Some(admin);
        // It tells how it is while its backends are looked at; beside a predecessor that one does.
        if predecessor.is_none() {
            self.answer(&mut admin)?;
        }
        tokio::select! {
            () = signals.stop() => return Ok(()),
            () = self.pool.settled() => {}
        }
        let mut routers = Vec::new();
        for router in &self.config.virtual_routers {
            routers.push((router.instance(), Router::prepare(router.clone(), &self.router_metrics)?));
        }
        self.front_door.open(relay.start(&self.pool, &self.metrics, limit)?);
        self.forward(virtual_services);
        let succeeds = predecessor.is_some();
        if let Err(error) = self.open_routers(routers, &mut predecessor) {
            // A predecessor is about to go on where it was: nothing of its is touched.
            if succeeds {
                self.front_door.abandon();
            } else {
                self.front_door.close().await;
            }
            return Err(error);
        }
        self.answer(&mut admin)?;
        tracing::info!("front door open");
        self.notifier.ready();
        let ended = self.watch(&mut signals, &mut asked).await;
        if self.times.leave_at.is_none() {
            self.notifier.stopping();
        }
        self.front_door.close().await;
        self.forwarding = JoinSet::new();
        // A successor goes on with them.
        if self.times.leave_at.is_none() {
            VirtualServices::open(&self.config, &[])?.map_or(Ok(()), VirtualServices::remove)?;
        }
        tracing::info!("front door closed");
        ended
    }

    /// The kernel forwards from now on, where it is to.
    fn forward(&mut self, virtual_services: Option<VirtualServices>) {
        self.forwarding = JoinSet::new();
        if let Some(virtual_services) = virtual_services {
            self.forwarding.spawn(virtual_services.follow(Arc::clone(&self.pool)));
        }
    }

    /// The virtual routers come last: an address is claimed only where clients are served. In the place of a predecessor
    /// they begin in the roles that it had.
    fn open_routers(
        &mut self,
        prepared: Vec<(String, Prepared)>,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<(), Error> {
        let fail = |source| Error::TakeOver { socket: self.config.control_socket.clone(), source };
        let mut masters = Vec::new();
        if let Some(predecessor) = predecessor {
            masters = predecessor.take_routers(self.config.virtual_routers.iter()).map_err(fail)?;
        }
        for (instance, prepared) in prepared {
            let beginning = if masters.contains(&instance) { Beginning::AsMaster } else { Beginning::Afresh };
            self.front_door.start_router(instance, prepared, beginning)?;
        }
        if let Some(predecessor) = predecessor.take() {
            let control = self.bind_control()?;
            predecessor.done().map_err(fail)?;
            self.control.spawn(control.serve(self.requests.clone()));
            tracing::info!(masters = masters.join(", "), "taken over from the former process");
        }
        Ok(())
    }

    /// Metrics, health and operators are answered from now on, as far as they are not yet.
    fn answer(&mut self, admin: &mut Option<Admin>) -> Result<(), Error> {
        if let Some(admin) = admin.take() {
            self.admin.spawn(admin_forever(admin));
        }
        if self.control.is_empty() {
            let control = self.bind_control()?;
            self.control.spawn(control.serve(self.requests.clone()));
        }
        Ok(())
    }

    fn bind_control(&self) -> Result<Control, Error> {
        let socket = &self.config.control_socket;
        Control::bind(socket).map_err(|source| Error::Control { socket: socket.clone(), source })
    }

    /// Does what it is told until asked to stop, until it has been succeeded, or until a part has ended by itself.
    async fn watch(
        &mut self,
        signals: &mut Signals,
        asked: &mut mpsc::Receiver<Request>,
    ) -> Result<(), Error> {
        let pace = self.notifier.pace().map_or(SUPERVISION_INTERVAL, |pace| pace.min(SUPERVISION_INTERVAL));
        let mut supervision = tokio::time::interval(pace);
        supervision.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                word = signals.next() => match word {
                    Word::Stop => return Ok(()),
                    Word::Reload => self.reload().await,
                    Word::Upgrade => self.start_successor(),
                },
                Some(request) = asked.recv() => self.serve_request(request)?,
                _ = supervision.tick() => {
                    if self.has_left() {
                        return Ok(());
                    }
                    self.supervise()?;
                }
                Some(end) = self.successors.join_next() => succession::report(&end),
                Some(_) = self.probes.join_next() => return Err(Error::Ended { part: "a health check" }),
                Some(_) = self.forwarding.join_next() => return Err(Error::Ended { part: "forwarding" }),
                Some(_) = self.admin.join_next() => return Err(Error::Ended { part: "the admin server" }),
                Some(_) = self.control.join_next() => return Err(Error::Ended { part: "the control socket" }),
            }
        }
    }

    fn supervise(&self) -> Result<(), Error> {
        if let Some(part) = self.front_door.ended() {
            return Err(Error::Ended { part });
        }
        if self.notifier.pace().is_some() && self.front_door.is_responsive() {
            self.notifier.alive();
        }
        Ok(())
    }

    /// Whoever asked may have gone: then nobody minds.
    fn serve_request(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Status(answer) => drop(answer.send(Box::new(self.status()))),
            Request::Drain(backend, drained, answer) => drop(answer.send(self.pool.drain(&backend, drained))),
            Request::Sockets(answer) => drop(answer.send(self.inheritance())),
            Request::Yield(heirs, answer) => drop(answer.send(self.yield_routers(&heirs))),
            Request::Resume => self.resume()?,
            Request::Leave => self.leave(),
        }
        Ok(())
    }
}

fn start_probes(config: &Config, pool: &Arc<Pool>) -> JoinSet<Infallible> {
    let mut tasks = JoinSet::new();
    let overdue = Arc::clone(pool);
    tasks.spawn(async move { overdue.end_overdue().await });
    pool.register().configure(config.rebalance);
    tasks.spawn(rebalance::watch(Arc::clone(pool)));
    for member in pool.members() {
        let Backend { address, send_proxy, .. } = member.backend;
        let probe = Probe::new(address, &config.health_check).sending_proxy(send_proxy);
        tasks.spawn(probe::watch(probe, Arc::clone(pool), member));
    }
    tasks
}

fn routes(registry: &Registry, front_door: &Arc<FrontDoor>) -> Routes {
    let front_door = Arc::clone(front_door);
    Routes::default().with_metrics(registry.clone()).with("/healthz", move || front_door.health())
}

/// Takes the `inherited` socket if it is the one that is wanted.
async fn bind_admin(
    address: SocketAddr,
    inherited: Option<TcpListener>,
    routes: Routes,
) -> Result<Admin, Error> {
    let fail = |source| Error::Admin { address, source };
    match inherited.filter(|socket| socket.local_addr().is_ok_and(|found| found == address)) {
        Some(socket) => Admin::inherit(socket, routes).map_err(fail),
        None => Admin::bind(address, routes).await.map_err(fail),
    }
}

async fn admin_forever(admin: Admin) -> Infallible {
    admin.serve().await;
    // `serve` ends only by being dropped.
    std::future::pending().await
}

/// How soon a part that ended by itself ends the process, so that a supervisor starts it again.
const SUPERVISION_INTERVAL: Duration = Duration::from_secs(1);
