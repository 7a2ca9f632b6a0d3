//! A dataplane that a test can look into.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::exit;
use dataplane::{Dataplane, Deviation, Error, Failure, Memory, Unsupported};
use ipnet::IpNet;
use plan::{Change, Forwarding, Frontend, Observed, Port, Protocol};
use proxy::config::{Config, Source};
use tokio::sync::{oneshot, watch};

/// A memory that remembers every step and says when it was written. It serves no SCTP.
#[derive(Clone)]
pub(crate) struct Window {
    memory: Arc<Mutex<Memory>>,
    changes: watch::Sender<Vec<Change>>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { memory: Arc::default(), changes: watch::Sender::default() }
    }

    pub(crate) fn forwarding(&self) -> Forwarding {
        self.memory.lock().unwrap().observe().unwrap().forwarding()
    }

    /// The steps taken since this was last called.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        self.changes.send_replace(Vec::new())
    }

    /// How many backends 10.0.0.`last`:80 has; `None` where it is not served.
    pub(crate) fn backends(&self, last: u8) -> Option<usize> {
        self.forwarding().get(&frontend(last)).map(|service| service.backends.len())
    }

    /// Waits until 10.0.0.`last`:80 has so many backends.
    pub(crate) async fn until(&self, last: u8, backends: Option<usize>) {
        let mut changes = self.changes.subscribe();
        let held = tokio::time::timeout(Duration::from_secs(20), async {
            while self.backends(last) != backends {
                changes.changed().await.unwrap();
            }
        });
        let in_time = held.await.is_ok();
        assert!(
            in_time,
            "{last} has not {backends:?} backends in 20 s, forwarded is {:?}",
            self.forwarding()
        );
    }
}

impl Dataplane for Window {
    fn supports(&self, frontend: Frontend, _: &plan::Service) -> Result<Option<Deviation>, Unsupported> {
        match frontend.protocol() {
            Protocol::Tcp | Protocol::Udp => Ok(None),
            protocol @ Protocol::Sctp => Err(Unsupported::Protocol { frontend, protocol }),
        }
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.memory.lock().unwrap().observe()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let failures = self.memory.lock().unwrap().apply(changes);
        self.changes.send_modify(|all| all.extend_from_slice(changes));
        failures
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        self.memory.lock().unwrap().set_service_cidrs(cidrs)
    }
}

/// 10.0.0.`last`:80.
pub(crate) fn frontend(last: u8) -> Frontend {
    Frontend::new([10, 0, 0, last].into(), Port::new(80).unwrap(), Protocol::Tcp)
}

/// Serves nothing but the plan.
pub(crate) fn quiet(source: Source) -> Config {
    Config { source, healthz: None, metrics: None, ..Config::default() }
}

/// Runs the proxy while `scene` goes on, then asks it to end.
pub(crate) async fn with_proxy(
    config: Config,
    dataplane: impl Dataplane + 'static,
    scene: impl AsyncFnOnce(),
) {
    let dataplane: Box<dyn Dataplane> = Box::new(dataplane);
    with_opening(config, || Ok(dataplane), scene).await.unwrap();
}

/// The same with a dataplane that is still to be opened; the proxy may end by itself.
pub(crate) async fn with_opening(
    config: Config,
    open: impl FnOnce() -> Result<Box<dyn Dataplane>, exit::Failure> + Send + 'static,
    scene: impl AsyncFnOnce(),
) -> Result<(), exit::Failure> {
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(proxy::run_with(watch::channel(config).1, open, async {
        stopped.await.unwrap();
    }));
    scene().await;
    // One that has ended by itself says why.
    stop.send(()).unwrap_or_default();
    running.await.unwrap()
}
