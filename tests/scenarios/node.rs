//! A node in a box: fairway-proxy's whole sync loop against a stub, on a dataplane in memory.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::{Dataplane, Deviation, Failure, Memory, Unsupported};
use ipnet::IpNet;
use plan::{Backend, Change, Forwarding, Frontend, Observed, Port, Protocol, Service};
use proxy::config::{Access, Config, Source};
use tempfile::TempDir;
use tests::apiserver::{Options, Release, Store, Stub};
use tests::certificates::{Authority, Identity};
use tests::{Error, Result, admin, wait};
use tokio::sync::{oneshot, watch};

/// How long anything may take that should take milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// One apiserver that can go and come back, and its objects.
pub(crate) struct Server {
    pub(crate) store: Store,
    authority: Authority,
    identity: Identity,
    release: Release,
    /// Whose client certificates it takes; others' are refused.
    client_authority: Option<String>,
    address: SocketAddr,
    stub: Option<Stub>,
}

impl Server {
    pub(crate) fn start(release: Release) -> Result<Self> {
        let authority = Authority::new("test")?;
        let identity = authority.server("stub", &["127.0.0.1"])?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let store = Store::default();
        let mut server =
            Self { store, authority, identity, release, client_authority: None, address, stub: None };
        server.come()?;
        Ok(server)
    }

    /// Starts to serve, on the address it had if it served before.
    pub(crate) fn come(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).map_err(Error::system("bind", self.address))?;
        let mut options = Options::new("stub", self.identity.clone());
        options.release = self.release;
        options.client_authority.clone_from(&self.client_authority);
        let stub = Stub::serve(listener, options, &self.store)?;
        self.address = stub.address();
        self.stub = Some(stub);
        Ok(())
    }

    /// Serves anew, and those only whose client certificate is of this authority, or who have none.
    pub(crate) fn admit(&mut self, authority: &Authority) -> Result<()> {
        self.go();
        self.client_authority = Some(authority.pem().to_owned());
        self.come()
    }

    /// Dies; the objects stay.
    pub(crate) fn go(&mut self) {
        self.stub = None;
    }

    pub(crate) fn stub(&self) -> &Stub {
        self.stub.as_ref().expect("it serves")
    }

    /// Waits until a proxy watches every kind: from then on it asks for nothing anew by itself.
    pub(crate) fn every_kind_is_watched(&self) -> Result<()> {
        wait::until("every kind is watched", SOON, || self.stub().watches() == 4)
    }
}

/// A running proxy.
pub(crate) struct Node {
    recorder: Recorder,
    metrics: SocketAddr,
    config: watch::Sender<Config>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _home: TempDir,
}

impl Node {
    /// Starts a proxy that follows `server`.
    pub(crate) fn start(server: &Server) -> Result<Self> {
        Self::start_by(server, Config::default())
    }

    /// Starts a proxy with this configuration, as far as it is not about where the server is and what is served where.
    pub(crate) fn start_by(server: &Server, config: Config) -> Result<Self> {
        Self::start_as(server, "token: token", config)
    }

    /// The same, as a user of the kubeconfig.
    pub(crate) fn start_as(server: &Server, user: &str, config: Config) -> Result<Self> {
        let home = tempfile::tempdir().map_err(Error::system("make", "a directory"))?;
        let (authority, kubeconfig) = (home.path().join("ca.crt"), home.path().join("kubeconfig"));
        let text = tests::kubeconfig(&server.address.to_string(), &authority, "token");
        let text = text.replace("token: \"token\"", user);
        std::fs::write(&authority, server.authority.pem()).map_err(Error::system("write", "ca.crt"))?;
        std::fs::write(&kubeconfig, text).map_err(Error::system("write", "kubeconfig"))?;
        let metrics = free_address()?;
        let config = Config {
            source: Source::Cluster(Access { kubeconfig: Some(kubeconfig), master: None }),
            healthz: None,
            metrics: Some(metrics),
            bind_address_hard_fail: true,
            ..config
        };
        let recorder = Recorder::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let dataplane: Box<dyn Dataplane> = Box::new(recorder.clone());
        let (config, in_force) = watch::channel(config);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(proxy::run_with(in_force, || Ok(dataplane), shutdown))
                .expect("the proxy ends in good order");
        });
        Ok(Self { recorder, metrics, config, stop: Some(stop), thread: Some(thread), _home: home })
    }

    /// Changes the configuration while it runs.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        self.config.send_modify(change);
        self.metrics = self.config.borrow().metrics.unwrap_or(self.metrics);
    }

    /// What new connections meet now.
    pub(crate) fn forwarding(&self) -> Forwarding {
        self.recorder.lock().memory.observe().expect("memory can be read").forwarding()
    }

    /// Every step so far, in order.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.recorder.lock().changes.clone()
    }

    /// Waits until these are the networks that cluster addresses come from.
    pub(crate) fn keeps_service_cidrs(&self, cidrs: &[&str]) -> Result<()> {
        let wanted: BTreeSet<IpNet> = cidrs.iter().map(|cidr| cidr.parse().expect("a network")).collect();
        let what = format!("cluster addresses come from {cidrs:?}");
        wait::until(&what, SOON, || *self.recorder.lock().memory.service_cidrs() == wanted)
    }

    /// Lets every write fail, or no more.
    pub(crate) fn fails(&self, fails: bool) {
        self.recorder.lock().fails = fails;
    }

    /// Waits until TCP to `frontend` reaches exactly `backends`; no backends: until it is refused.
    pub(crate) fn reaches(&self, frontend: &str, backends: &[&str]) -> Result<()> {
        let frontend = frontend_of(frontend);
        let wanted: BTreeSet<Backend> = backends.iter().map(|backend| backend_of(backend)).collect();
        let what = format!("{frontend} reaches {backends:?}");
        let reaches = |service: &Service| service.backends.keys().eq(&wanted);
        wait::until(&what, SOON, || self.forwarding().get(&frontend).is_some_and(reaches))
    }

    /// Waits until nobody serves `frontend`.
    pub(crate) fn passes(&self, frontend: &str) -> Result<()> {
        let frontend = frontend_of(frontend);
        wait::until(&format!("{frontend} is not served"), SOON, || !self.forwarding().contains_key(&frontend))
    }

    /// Waits until the metric, spelt with its labels, is as wanted.
    pub(crate) fn metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
        wait::until(&format!("{name} is as it should be"), SOON, || {
            let page = admin::ask_at(self.metrics, "/metrics", SOON).unwrap_or_default();
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            value.is_some_and(&wanted)
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, None | Some(Ok(()))), "the proxy failed");
    }
}

pub(crate) fn frontend_of(text: &str) -> Frontend {
    let (address, port) = split(text);
    Frontend::new(address.ip(), port, Protocol::Tcp)
}

fn backend_of(text: &str) -> Backend {
    let (address, port) = split(text);
    Backend::new(address.ip(), port)
}

fn split(text: &str) -> (SocketAddr, Port) {
    let address: SocketAddr = text.parse().expect("an address with a port");
    (address, Port::new(address.port()).expect("a port"))
}

/// A memory dataplane that several hold, and that remembers how it came to be.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    memory: Memory,
    changes: Vec<Change>,
    fails: bool,
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

impl Dataplane for Recorder {
    fn supports(
        &self,
        frontend: Frontend,
        service: &Service,
    ) -> std::result::Result<Option<Deviation>, Unsupported> {
        self.lock().memory.supports(frontend, service)
    }

    fn observe(&mut self) -> std::result::Result<Observed, dataplane::Error> {
        self.lock().memory.observe()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let mut recorded = self.lock();
        if recorded.fails {
            let failed = |change: &Change| Failure {
                change: change.clone(),
                error: dataplane::Error::Kernel { feature: "goodwill" },
            };
            return changes.iter().map(failed).collect();
        }
        recorded.changes.extend_from_slice(changes);
        recorded.memory.apply(changes)
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> std::result::Result<(), dataplane::Error> {
        self.lock().memory.set_service_cidrs(cidrs)
    }
}

/// An address of this host that nobody listens at.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let any = TcpListener::bind("127.0.0.1:0").map_err(Error::system("bind", "any port"))?;
    any.local_addr().map_err(Error::system("look at", "a listener"))
}
