//! The one thread that owns the dataplane: takes in updates, settles the plan, writes what differs.
//!
//! Nothing is written before every kind has been listed once: what an incomplete plan lacks may be live. The first sync
//! reads what the kernel holds, adopts it and changes only what differs.

mod account;
mod exceptions;
mod write;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use daemon::exit::chain;
use dataplane::Dataplane;
use ipnet::IpNet;
use plan::{Frontend, Port, Protocol, Rules, Scheduler, Scope};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep_until;

use self::account::{counter, log_changes};
use self::exceptions::Exceptions;
use self::write::Written;
use crate::clock;
use crate::cluster::{Cluster, Family, Update};
use crate::config::Config;
use crate::explain::{SharedView, View};
use crate::guard::{Guard, Held};
use crate::health_check::SharedHealth;
use crate::metrics::{SyncMetrics, gauge};
use crate::notice::{Notice, Notices};
use crate::pacing::{Extent, Pacing};
use crate::planner::{HealthChecks, Planner, Remark, Settled};
use crate::{interfaces, translate};

/// So many updates are taken in before what they lead to is written.
const FOLDED_UPDATES: usize = 4096;

/// What somebody else takes away is missed for so long at most.
const INSPECTION_PERIOD: Duration = Duration::from_secs(1);

/// How the thread is set up.
pub(crate) struct Settings {
    /// The name of this node.
    pub(crate) node: String,
    /// What is in force of the configuration.
    pub(crate) config: watch::Receiver<Config>,
    pub(crate) metrics: SyncMetrics,
    pub(crate) health: SharedHealth,
    pub(crate) view: SharedView,
    pub(crate) health_checks: watch::Sender<HealthChecks>,
    pub(crate) notices: Notices,
    pub(crate) guard: Guard,
    /// Rung when what is held back is to be believed.
    pub(crate) release: Arc<Notify>,
}

/// Starts the thread. It opens the dataplane, while updates may come already, and works until every sender of `updates` is
/// gone; then it leaves the kernel as it is. What is wrong with opening is what it ends with.
pub(crate) fn start<E: Send + 'static>(
    settings: Settings,
    open: impl FnOnce() -> Result<Box<dyn Dataplane>, E> + Send + 'static,
    updates: mpsc::Receiver<Update>,
) -> io::Result<JoinHandle<Result<(), E>>> {
    // A runtime of its own, for nothing but waiting with a deadline.
    let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let work = move || {
        let writer = Writer::new(settings, open()?);
        timer.block_on(writer.run(updates));
        Ok(())
    };
    std::thread::Builder::new().name("sync".into()).spawn(work)
}

struct Writer {
    settings: Settings,
    dataplane: Box<dyn Dataplane>,
    pacing: Pacing,
    /// Which addresses are served, and not left to others.
    scope: Scope,
    /// What the dataplane cannot serve, or not as planned.
    exceptions: Exceptions,
    /// When changes happened that are taken in and not yet in force.
    triggers: Vec<(Family, SystemTime)>,
    /// Changes of Services and of endpoints that are translated and not yet in force.
    unwritten: (usize, usize),
    started: SystemTime,
    /// When to look after the dataplane again.
    inspect_at: Instant,
    /// Since when it is known that somebody else changed something.
    noticed: Option<Instant>,
    /// What the kernel was found to lack.
    lacking: Option<&'static str>,
    /// How much was last said to be held back.
    held: Held,
    /// The networks of which it was last said that nothing but services is there.
    service_cidrs: BTreeSet<IpNet>,
}

/// Why the thread goes on.
enum Woken {
    Update(Box<Update>),
    Time,
    Release,
    Configuration,
}

impl Writer {
    fn new(mut settings: Settings, dataplane: Box<dyn Dataplane>) -> Self {
        let config = settings.config.borrow_and_update().clone();
        let serving = serving(&config, dataplane.as_ref());
        settings.metrics.note_held(Held::default());
        settings.view.lock().planner = Planner::new(&*settings.node, serving);
        Self {
            pacing: Pacing::new(config.least_sync_interval, config.sync_period),
            scope: config.scope,
            dataplane,
            exceptions: Exceptions::default(),
            triggers: Vec::new(),
            unwritten: (0, 0),
            started: clock::wall(),
            inspect_at: clock::now(),
            noticed: None,
            lacking: None,
            held: Held::default(),
            service_cidrs: BTreeSet::new(),
            settings,
        }
    }

    async fn run(mut self, mut updates: mpsc::Receiver<Update>) {
        while let Some(woken) = self.wait(&mut updates).await {
            // Whatever has come meanwhile goes along, but not for ever.
            let along = std::iter::from_fn(|| updates.try_recv().ok()).take(FOLDED_UPDATES);
            let shared = self.settings.view.clone();
            let mut view = shared.lock();
            match woken {
                Woken::Update(update) => self.take_in(&mut view, *update),
                Woken::Release => self.release(&mut view),
                Woken::Configuration => self.follow(&mut view),
                Woken::Time => {}
            }
            for update in along {
                self.take_in(&mut view, update);
            }
            self.note_queued(&view);
            if !view.planner.is_complete() {
                continue;
            }
            self.inspect(&view);
            if let Some(extent) = self.pacing.due(clock::now()) {
                self.sync(&mut view, extent);
            }
            self.note_held();
        }
    }

    /// Waits for an update, or for the time of the next sync or inspection. `None` is the end.
    async fn wait(&mut self, updates: &mut mpsc::Receiver<Update>) -> Option<Woken> {
        let deadlines = self.pacing.deadline().map(|sync| sync.min(self.inspect_at));
        let deadline = deadlines.filter(|_| self.settings.view.lock().planner.is_complete());
        let time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let configuration = async {
            if self.settings.config.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            received = updates.recv() => received.map(|update| Woken::Update(Box::new(update))),
            () = configuration => Some(Woken::Configuration),
            () = self.settings.release.notified() => Some(Woken::Release),
            () = time => Some(Woken::Time),
        }
    }

    fn take_in(&mut self, view: &mut View, update: Update) {
        let is_of_cidrs = matches!(update, Update::ServiceCidrs(_));
        let before = is_of_cidrs.then(|| view.planner.cluster().service_cidrs());
        for update in self.settings.guard.admit(update, view.planner.cluster()) {
            view.planner.update(update);
        }
        // They are no part of the plan, and go to the dataplane with all of it.
        if before.is_some_and(|before| before != view.planner.cluster().service_cidrs()) {
            self.pacing.distrust();
        }
    }

    fn release(&mut self, view: &mut View) {
        tracing::info!("what is held back is released");
        for update in self.settings.guard.release() {
            view.planner.update(update);
        }
        self.pacing.distrust();
    }

    /// Goes on by another configuration.
    fn follow(&mut self, view: &mut View) {
        let config = self.settings.config.borrow_and_update().clone();
        self.pacing.follow(config.least_sync_interval, config.sync_period);
        self.settings.health.lock().follow(config.sync_period);
        view.planner.follow(serving(&config, self.dataplane.as_ref()));
        self.scope = config.scope;
        self.pacing.distrust();
    }

    /// Says what is held back, when that begins, grows or ends.
    fn note_held(&mut self) {
        let held = self.settings.guard.held();
        let before = std::mem::replace(&mut self.held, held);
        if held == before {
            return;
        }
        let Held { services, slices, frontends } = held;
        self.settings.metrics.note_held(held);
        if held.is_nothing() {
            tracing::info!("nothing is held back any more");
        } else if services > before.services || slices > before.slices || frontends > before.frontends {
            if before.is_nothing() {
                self.settings.notices.leave(Notice::held_back());
            }
            tracing::error!(
                services,
                slices,
                frontends,
                "nearly everything vanished at once: it stays in force until it comes back, is deleted by an event, or SIGUSR1 says that it is gone"
            );
        }
    }

    fn note_queued(&mut self, view: &View) {
        let touched = view.planner.touched();
        let metrics = &self.settings.metrics;
        metrics.service_changes_pending.set(gauge(self.unwritten.0 + touched.service_changes));
        metrics.endpoint_changes_pending.set(gauge(self.unwritten.1 + touched.slice_changes));
        if !touched.services.is_empty() {
            self.pacing.queue();
            self.settings.health.lock().queued(clock::now());
            metrics.note_queued(clock::wall());
        }
    }

    /// Looks after the dataplane, if it is time to.
    fn inspect(&mut self, view: &View) {
        let now = clock::now();
        if now < self.inspect_at || view.applied.is_none() {
            return;
        }
        self.inspect_at = now + INSPECTION_PERIOD;
        let metrics = &self.settings.metrics.inspection;
        match self.dataplane.inspect() {
            Ok(found) => {
                metrics.restored.inc_by(found.restored);
                metrics.udp_sockets_moved.inc_by(found.sockets_moved);
                metrics.udp_sockets_ended.inc_by(found.sockets_ended);
                metrics.udp_socket_failures.inc_by(found.socket_failures);
                if found.restored > 0 {
                    tracing::warn!(
                        count = found.restored,
                        "programs, pins or networks had been removed or changed, put back"
                    );
                }
                if found.lacking != self.lacking {
                    self.lacking = found.lacking;
                    let feature = found.lacking;
                    tracing::warn!(feature, "the kernel lacks it, UDP sockets keep endpoints that are gone");
                }
                if found.entries_differ {
                    self.noticed.get_or_insert(now);
                    self.pacing.distrust();
                }
            }
            Err(error) => {
                metrics.failures.inc();
                tracing::error!(error = chain(&error), "the dataplane could not be looked after");
            }
        }
    }

    fn sync(&mut self, view: &mut View, extent: Extent) {
        let begun = clock::now();
        if extent == Extent::Whole && view.planner.settings().node_port_addresses.needs_interfaces() {
            read_interfaces(&mut view.planner);
        }
        let settled = view.planner.settle();
        self.note_settled(&settled, view.planner.cluster());
        let known = view.applied.take_if(|_| extent == Extent::Changes);
        let written = match known {
            Some(applied) => self.write_changes(view, applied, &settled.frontends),
            None => self.write_all(view),
        };
        let written = written.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "kernel state not read, trying again");
            Written::default()
        });
        let ended = clock::now();
        let took = ended.saturating_duration_since(begun);
        let noticed = self.noticed.take_if(|_| extent == Extent::Whole && written.complete);
        log_changes(&written, took, noticed.map(|noticed| ended.saturating_duration_since(noticed)));
        self.note_written(view, extent, &written, took);
        if settled.health_checks_differ {
            self.settings.health_checks.send_replace(view.planner.health_checks().clone());
        }
    }

    fn note_settled(&mut self, settled: &Settled, cluster: &Cluster) {
        let metrics = &self.settings.metrics;
        metrics.service_changes.inc_by(counter(settled.touched.service_changes));
        metrics.endpoint_changes.inc_by(counter(settled.touched.slice_changes));
        self.unwritten.0 += settled.touched.service_changes;
        self.unwritten.1 += settled.touched.slice_changes;
        let started = self.started;
        self.triggers.extend(settled.touched.triggers.iter().filter(|(_, at)| *at >= started));
        for remark in &settled.remarks {
            self.settings.notices.leave(Notice::remark(remark, cluster));
            match remark {
                Remark::Claimed { frontend, winner, loser } => tracing::warn!(
                    %frontend, served = %winner, left_out = %loser,
                    "two services claim one address, the older is served"
                ),
                Remark::Disregarded { service, parts } => {
                    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                    tracing::warn!(%service, parts = parts.join("; "), "parts of a service cannot be followed, the rest is served");
                }
                Remark::NoNodeAddress { service } => tracing::warn!(
                    %service,
                    "this node has no address to serve node ports at: its Node object names none"
                ),
            }
        }
    }

    fn note_written(&mut self, view: &View, extent: Extent, written: &Written, took: Duration) {
        let metrics = &self.settings.metrics;
        let (now, wall) = (clock::now(), clock::wall());
        metrics.drift_repaired.inc_by(counter(written.drifted));
        metrics.note_stranded(&view.planner);
        metrics.frontends_left_out.set(gauge(self.exceptions.left_out.len()));
        metrics.frontends.set(gauge(view.applied.as_ref().map_or(0, |applied| applied.services.len())));
        if !written.complete {
            metrics.failures.inc();
            self.settings.health.lock().queued(now);
            self.pacing.failed(now);
            return;
        }
        let families: BTreeSet<Family> = match extent {
            Extent::Whole => Family::ALL.into(),
            Extent::Changes => {
                written.changes.iter().map(|change| Family::of(change.frontend().address())).collect()
            }
        };
        metrics.note_sync(extent, &families, took, wall);
        for (family, at) in self.triggers.drain(..) {
            let late = wall.duration_since(at).unwrap_or_default();
            metrics.note_in_force(family, late);
        }
        self.unwritten = (0, 0);
        metrics.service_changes_pending.set(0);
        metrics.endpoint_changes_pending.set(0);
        self.settings.health.lock().written(wall);
        self.pacing.succeeded(extent, now);
    }
}

fn read_interfaces(planner: &mut Planner) {
    match interfaces::addresses() {
        Ok(addresses) => planner.update(Update::Interfaces(addresses)),
        Err(error) => {
            tracing::error!(%error, "addresses of the interfaces not read, node ports stay where they are");
        }
    }
}

/// How Services are served by this configuration and this dataplane.
fn serving(config: &Config, dataplane: &dyn Dataplane) -> translate::Settings {
    let absent_schedulers = absent_schedulers(dataplane);
    let scheduler = config.serving.scheduler;
    if absent_schedulers.contains(&scheduler) {
        tracing::warn!(
            scheduler = scheduler.name(),
            "the default scheduler is not available here, round-robin is used"
        );
    }
    translate::Settings { absent_schedulers, ..config.serving.clone() }
}

/// The schedulers that `dataplane` does not have.
fn absent_schedulers(dataplane: &dyn Dataplane) -> BTreeSet<Scheduler> {
    let Some(port) = Port::new(1) else { return BTreeSet::new() };
    let frontend = Frontend::new(Ipv4Addr::LOCALHOST.into(), port, Protocol::Tcp);
    let is_absent = |scheduler: &Scheduler| {
        let rules = Rules { scheduler: *scheduler, ..Rules::default() };
        let service = plan::Service { rules, ..plan::Service::default() };
        dataplane.supports(frontend, &service).is_err()
    };
    Scheduler::ALL.into_iter().filter(is_absent).collect()
}
