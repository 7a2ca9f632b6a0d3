//! The front door of a Kubernetes control plane: a virtual IP that one of several nodes holds, and on each node a
//! relay that spreads connections over the apiservers that are ready.
//!
//! ```text
//!   main thread: one single-threaded runtime         relay threads, one per core          a thread per virtual router
//!
//!     admin server: /metrics, /healthz                 accept, connect, pump                 adverts, timer, link
//!     one probe task per backend ---+                     ^        |                              |
//!     signals, supervision          |                     |        | failed connects              v
//!                                   +-----> Pool: health, turn, connection counts          virtual addresses
//! ```
//!
//! * The relay runs whatever the role of the node; a fail-over moves the address and nothing else. A node whose relay
//!   hangs gives the address up. Backends are a weight at most, and none when all nodes lose sight of them: moving the
//!   address because all of them are sick would cut every connection and cure none.
//! * Probes have a thread that no client's bytes pass through, so load does not make backends look dead.
//! * Every task may be cancelled at any await: a probe is repeated, an admin request too; a relayed connection is
//!   closed on both sides. The virtual router is not a task: its end takes the address off, in order, before anything
//!   else stops.

mod advert_socket;
mod announcement;
mod arguments;
pub mod config;
mod error;
pub mod health;
pub mod metrics;
mod netlink;
mod packet_socket;
pub mod pool;
pub mod probe;
mod proxy_protocol;
pub mod relay;
pub mod router;
mod virtual_address;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use daemon::admin::{Admin, Answer, Routes};
use daemon::exit::{Code, Failure};
use hyper::StatusCode;
use prometheus::Registry;
use tokio::task::JoinSet;

pub use arguments::{Arguments, Task};
pub use error::Error;

use config::{Backend, Config};
use health::Thresholds;
use metrics::Metrics;
use pool::Pool;
use probe::Probe;
use relay::{Relay, Running};
use router::{Beginning, Prepared, Router, RouterMetrics};

/// Does what the command line asks for; returns when it is done, which for serving is when SIGTERM or SIGINT arrives.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match Task::from(arguments) {
        Task::Check { file } => check(&file),
        Task::Serve { config, log_format, log_level } => {
            daemon::telemetry::start(&log_level, log_format)
                .map_err(|error| Failure::new(Code::Configuration, error))?;
            let config = config::read(&config)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|source| Error::Runtime { source })?;
            Ok(runtime.block_on(serve(config))?)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer to a question asked on the command line")]
fn check(file: &Path) -> Result<(), Failure> {
    config::read(file)?;
    println!("{}: ok", file.display());
    Ok(())
}

async fn serve(config: Config) -> Result<(), Error> {
    if !config.virtual_routers.is_empty() {
        router::lock_memory();
    }
    let registry = Registry::new();
    let metrics_error = |source| Error::Metrics { source };
    let metrics = Metrics::register(&registry).map_err(metrics_error)?;
    let router_metrics = RouterMetrics::register(&registry).map_err(metrics_error)?;
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let limit = relay::connection_limit(threads)?;
    let front_door = Arc::new(FrontDoor::default());
    // Before the relay: a second front door started by mistake fails here, and not after it has taken over a share of
    // the first one's clients.
    let (admin, admin_address) = bind_admin(&config, registry, &front_door).await?;
    let relay = Relay::bind(&config.frontend, threads, Vec::new())?;
    let frontend = relay.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(%frontend, admin = %admin_address, threads, connections = limit, "front door bound");

    let mut tasks = JoinSet::new();
    tasks.spawn(admin_forever(admin));
    let pool = start_probes(&config, &metrics, &mut tasks);
    let mut stop = pin!(daemon::signal::terminated());
    tokio::select! {
        asked = &mut stop => return asked.map_err(|source| Error::Signals { source }),
        () = pool.settled() => {}
    }
    front_door.open(relay.start(&pool, &metrics, limit)?, config, &router_metrics)?;
    tracing::info!("front door open");
    let ended = tokio::select! {
        asked = stop => asked.map_err(|source| Error::Signals { source }),
        part = front_door.ended() => Err(Error::Ended { part }),
        Some(_) = tasks.join_next() => Err(Error::Ended { part: "a health check or the admin server" }),
    };
    front_door.close();
    tracing::info!("front door closed");
    ended
}

async fn bind_admin(
    config: &Config,
    registry: Registry,
    front_door: &Arc<FrontDoor>,
) -> Result<(Admin, SocketAddr), Error> {
    let fail = |source| Error::Admin { address: config.admin, source };
    let front_door = Arc::clone(front_door);
    let routes = Routes::default().with_metrics(registry).with("/healthz", move || front_door.health());
    let admin = Admin::bind(config.admin, routes).await.map_err(fail)?;
    let address = admin.address().map_err(fail)?;
    Ok((admin, address))
}

async fn admin_forever(admin: Admin) -> Infallible {
    admin.serve().await;
    // `serve` ends only by being dropped.
    std::future::pending().await
}

fn start_probes(config: &Config, metrics: &Metrics, tasks: &mut JoinSet<Infallible>) -> Arc<Pool> {
    let Config { backends, frontend, health_check, .. } = config;
    let pool = Pool::new(backends, frontend.balance, Thresholds::from(health_check), metrics);
    let overdue = Arc::clone(&pool);
    tasks.spawn(async move { overdue.end_overdue().await });
    for member in pool.members() {
        let Backend { address, send_proxy, .. } = member.backend;
        let probe = Probe::new(address, health_check).sending_proxy(send_proxy);
        tasks.spawn(probe::watch(probe, Arc::clone(&pool), member));
    }
    pool
}

/// What serves clients, once it does.
#[derive(Default)]
struct FrontDoor {
    parts: Mutex<Option<Parts>>,
}

struct Parts {
    relay: Running,
    routers: Vec<Router>,
}

impl FrontDoor {
    /// The virtual routers come last: an address is claimed only where clients are served.
    fn open(&self, relay: Running, config: Config, metrics: &RouterMetrics) -> Result<(), Error> {
        let prepare = |config| Router::prepare(config, metrics);
        let prepared: Vec<_> = config.virtual_routers.into_iter().map(prepare).collect::<Result<_, _>>()?;
        let start = |prepared: Prepared| prepared.follow(relay.vitality()).start(Beginning::Afresh);
        let routers = prepared.into_iter().map(start).collect::<Result<_, _>>()?;
        *self.parts() = Some(Parts { relay, routers });
        Ok(())
    }

    /// The address goes first, so that clients meet the next master and no closed port.
    fn close(&self) {
        let parts = self.parts().take();
        if let Some(Parts { relay, routers }) = parts {
            Router::stop_all(routers);
            relay.stop();
        }
    }

    /// Waits until a part has ended by itself, and names it. Cancelling it is harmless.
    async fn ended(&self) -> &'static str {
        loop {
            tokio::time::sleep(SUPERVISION_INTERVAL).await;
            if let Some(Parts { relay, routers }) = &*self.parts() {
                if !relay.is_running() {
                    return "the relay";
                }
                if !routers.iter().all(Router::is_running) {
                    return "a virtual router";
                }
            }
        }
    }

    fn health(&self) -> Answer {
        let unwell = |what| Answer::text(StatusCode::SERVICE_UNAVAILABLE, what);
        match &*self.parts() {
            None => unwell("not open yet, or closed\n"),
            Some(Parts { relay, .. }) if !relay.accepts() => unwell("the relay does not accept\n"),
            Some(Parts { routers, .. }) if !routers.iter().all(Router::is_running) => {
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

/// How soon a part that ended by itself ends the process, so that a supervisor starts it again.
const SUPERVISION_INTERVAL: Duration = Duration::from_secs(1);
