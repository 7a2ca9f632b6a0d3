//! The whole loop from files in a directory to a dataplane in memory, with the real inotify.
#![expect(clippy::unwrap_used, reason = "a test may say so by panicking")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::{Dataplane, Error, Failure, Memory, Unsupported};
use plan::{Change, Forwarding, Frontend, Observed, Port, Protocol};
use proxy::config::{Config, Source};
use tokio::sync::{oneshot, watch};

/// A memory that others may look into, and that says when it was written.
#[derive(Clone)]
struct Window {
    memory: Arc<Mutex<Memory>>,
    writes: watch::Sender<usize>,
}

impl Window {
    fn new() -> Self {
        Self { memory: Arc::default(), writes: watch::Sender::new(0) }
    }

    fn forwarding(&self) -> Forwarding {
        self.memory.lock().unwrap().observe().unwrap().forwarding()
    }

    /// Waits until what is forwarded satisfies `condition`.
    async fn until(&self, what: &str, condition: impl Fn(&Forwarding) -> bool) {
        let mut writes = self.writes.subscribe();
        let held = tokio::time::timeout(Duration::from_secs(10), async {
            while !condition(&self.forwarding()) {
                writes.changed().await.unwrap();
            }
        });
        assert!(held.await.is_ok(), "{what} within 10 s, but forwarded is {:?}", self.forwarding());
    }
}

impl Dataplane for Window {
    fn supports(&self, frontend: Frontend, _: &plan::Service) -> Result<(), Unsupported> {
        match frontend.protocol() {
            Protocol::Tcp | Protocol::Udp => Ok(()),
            protocol @ Protocol::Sctp => Err(Unsupported::Protocol { frontend, protocol }),
        }
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.memory.lock().unwrap().observe()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let failures = self.memory.lock().unwrap().apply(changes);
        self.writes.send_modify(|count| *count += 1);
        failures
    }
}

fn frontend(last: u8) -> Frontend {
    Frontend::new([10, 0, 0, last].into(), Port::new(80).unwrap(), Protocol::Tcp)
}

fn service(name: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.0.0.{last}, ports: [{{port: 80}}, {{name: s, port: 80, protocol: SCTP}}]}}\n"
    )
}

fn slice(name: &str, endpoints: &[u8]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|last| format!("{{addresses: [10.1.0.{last}]}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn put(directory: &Path, name: &str, text: &str) {
    let draft = directory.join(format!(".{name}"));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, directory.join(name)).unwrap();
}

fn backends(forwarding: &Forwarding, last: u8) -> Option<usize> {
    forwarding.get(&frontend(last)).map(|service| service.backends.len())
}

/// Runs the proxy on `directory` while `scene` goes on.
async fn with_proxy(directory: &Path, dataplane: impl Dataplane + 'static, scene: impl AsyncFnOnce()) {
    let source = Source::Manifests(directory.to_owned());
    let config = Config { source, healthz: None, metrics: None, ..Config::default() };
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(proxy::run_with(config, Box::new(dataplane), async {
        stopped.await.unwrap();
    }));
    scene().await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_follows_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let window = Window::new();
    put(directory, "web.yaml", &format!("{}---\n{}", service("web", 1), slice("web", &[1, 2])));
    with_proxy(directory, window.clone(), async || {
        window.until("two backends", |now| backends(now, 1) == Some(2)).await;
        assert_eq!(window.forwarding().len(), 1, "SCTP is left out, TCP is not");

        put(directory, "web.yaml", &format!("{}---\n{}", service("web", 1), slice("web", &[2])));
        window.until("one backend", |now| backends(now, 1) == Some(1)).await;

        put(
            directory,
            "shop.json",
            r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
            "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 80}]}}"#,
        );
        window.until("a second service", |now| backends(now, 2) == Some(0)).await;

        // A mistake costs nothing that was good: what it was about stays, and others go on.
        put(directory, "web.yaml", "kind: [");
        put(directory, "other.yml", &service("other", 3));
        window.until("a third service", |now| backends(now, 3) == Some(0)).await;
        assert_eq!(backends(&window.forwarding(), 1), Some(1));

        fs::remove_file(directory.join("shop.json")).unwrap();
        window.until("the second service gone", |now| backends(now, 2).is_none()).await;
    })
    .await;
    assert_eq!(backends(&window.forwarding(), 1), Some(1), "stopping leaves the dataplane as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_adopts_what_is_there_and_writes_only_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let window = Window::new();
    put(directory, "web.yaml", &format!("{}---\n{}", service("web", 1), slice("web", &[1])));
    put(directory, "gone.yaml", &service("gone", 2));
    with_proxy(directory, window.clone(), async || {
        window.until("both", |now| now.len() == 2).await;
    })
    .await;
    fs::remove_file(directory.join("gone.yaml")).unwrap();
    let recorder = Recorder { window: window.clone(), changes: Arc::default() };
    with_proxy(directory, recorder.clone(), async || {
        window.until("the removed one gone", |now| now.len() == 1).await;
    })
    .await;
    assert_eq!(*recorder.changes.lock().unwrap(), [Change::RemoveService { frontend: frontend(2) }]);
}

/// Remembers every step.
#[derive(Clone)]
struct Recorder {
    window: Window,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl Dataplane for Recorder {
    fn supports(&self, frontend: Frontend, service: &plan::Service) -> Result<(), Unsupported> {
        self.window.supports(frontend, service)
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.window.observe()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        self.changes.lock().unwrap().extend(changes);
        self.window.apply(changes)
    }
}
