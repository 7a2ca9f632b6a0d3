//! A kernel that does not do as it is told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::{Dataplane, Deviation, Error, Failure, Unsupported};
use ipnet::IpNet;
use plan::{Change, Frontend, Observed, Service};
use proxy::config::{Config, Source};
use tokio::sync::watch;

use crate::manifests::{put, web};
use crate::window::{Window, frontend, quiet, with_proxy};

/// Refuses to add backends, or to be read, for as long as it is told to.
#[derive(Clone)]
struct Unruly {
    window: Window,
    full: Arc<AtomicBool>,
    unreadable: Arc<AtomicBool>,
    /// How often it was read.
    reads: watch::Sender<usize>,
}

impl Unruly {
    fn new() -> Self {
        Self {
            window: Window::new(),
            full: Arc::default(),
            unreadable: Arc::default(),
            reads: watch::Sender::new(0),
        }
    }
}

impl Dataplane for Unruly {
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported> {
        self.window.supports(frontend, service)
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.reads.send_modify(|count| *count += 1);
        if self.unreadable.load(Ordering::SeqCst) {
            return Err(Error::Full { map: "services", capacity: 1 });
        }
        self.window.observe()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let full = self.full.load(Ordering::SeqCst);
        let refused = |change: &&Change| full && matches!(change, Change::AddBackend { .. });
        let (refused, taken): (Vec<&Change>, Vec<&Change>) = changes.iter().partition(refused);
        let failures = self.window.apply(&taken.into_iter().cloned().collect::<Vec<_>>());
        assert!(failures.is_empty());
        let error = || Error::Full { map: "backends", capacity: 1 };
        refused.into_iter().map(|change| Failure { change: change.clone(), error: error() }).collect()
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        self.window.set_service_cidrs(cidrs)
    }
}

/// The sync period, 30 s, is longer than these tests: what they wait for comes sooner or not at all.
fn config(directory: &Path) -> Config {
    quiet(Source::Manifests(directory.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_written_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let unruly = Unruly::new();
    put(directory.path(), "web.yaml", &web(&[1]));
    with_proxy(config(directory.path()), unruly.clone(), async || {
        unruly.window.until(1, Some(1)).await;
        unruly.full.store(true, Ordering::SeqCst);
        put(directory.path(), "web.yaml", &web(&[1, 2]));
        // After a failure the kernel is read again.
        unruly.reads.subscribe().wait_for(|count| *count >= 3).await.unwrap();
        unruly.window.until(1, Some(1)).await;
        unruly.full.store(false, Ordering::SeqCst);
        unruly.window.until(1, Some(2)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_cannot_be_read_is_left_alone_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let unruly = Unruly::new();
    unruly.unreadable.store(true, Ordering::SeqCst);
    put(directory.path(), "web.yaml", &web(&[1]));
    with_proxy(config(directory.path()), unruly.clone(), async || {
        unruly.reads.subscribe().wait_for(|count| *count >= 3).await.unwrap();
        assert_eq!(unruly.window.take_changes(), []);
        unruly.unreadable.store(false, Ordering::SeqCst);
        unruly.window.until(1, Some(1)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_did_to_the_kernel_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let window = Window::new();
    put(directory.path(), "web.yaml", &web(&[1]));
    let config = Config { sync_period: Duration::from_secs(1), ..config(directory.path()) };
    with_proxy(config, window.clone(), async || {
        window.until(1, Some(1)).await;
        let mut somebody = window.clone();
        let stray = Change::AddService { frontend: frontend(9), service: Service::default() };
        assert!(somebody.apply(&[Change::RemoveService { frontend: frontend(1) }, stray]).is_empty());
        window.until(1, Some(1)).await;
        window.until(9, None).await;
    })
    .await;
}
