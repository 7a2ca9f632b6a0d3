//! How the API server is reached, and whether it is.
//!
//! An address that fails over leaves connections behind that nobody will ever answer. A watch is silent by nature, so
//! silence proves nothing; therefore the kernel asks the other end every second or two (TCP keep-alive). A server that
//! took the address over resets the connection at the first question, a dead one fails to answer: either way the watch
//! is set up anew within [`DEAD_AFTER`] and goes on from where it was.

use std::error::Error;
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::exit::chain;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use prometheus::IntCounterVec;
use tokio::time::timeout;

use crate::cluster::Kind;
use crate::config::Access;
use crate::metrics::SourceMetrics;

/// A connection attempt that takes longer has failed; the kernel sends SYN at 0, 1 and 3 s.
const CONNECT_WITHIN: Duration = Duration::from_millis(3500);
/// A server that takes longer to begin an answer is not answering.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A quiet connection is probed after this long, ...
const PROBE_AFTER: Duration = Duration::from_secs(2);
/// ... then this often, ...
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// ... and given up when nothing, probe or data, was acknowledged for this long.
const DEAD_AFTER: Duration = Duration::from_secs(4);

/// Why there is no way to the API server: the configuration must change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("read kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was named and this is no pod.
    #[error("neither --kubeconfig nor --master is given, and this is no pod of a cluster")]
    InCluster {
        /// What a pod would have.
        source: InClusterError,
    },
    /// `--master` is no URL.
    #[error("--master: {url:?} is not a URL such as https://10.0.0.1:6443")]
    Master {
        /// What was given.
        url: String,
    },
    /// Certificates, keys or tokens cannot be used.
    #[error("prepare the connection to {url}")]
    Client {
        /// The server.
        url: Uri,
        /// Why not.
        source: Box<kube::Error>,
    },
}

/// Reads what `access` names.
pub(super) async fn cluster_config(access: &Access) -> Result<Config, AccessError> {
    let master = access.master.as_deref().map(master).transpose()?;
    let mut config = match (&access.kubeconfig, master) {
        (None, None) => Config::incluster().map_err(|source| AccessError::InCluster { source })?,
        (None, Some(url)) => Config::new(url),
        (Some(path), master) => {
            let failed = |source| AccessError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let authority = authority_file(&kubeconfig);
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?;
            // Read again when it changes, so that a new authority needs no restart.
            config.root_cert_file = authority;
            config.cluster_url = master.unwrap_or(config.cluster_url);
            config
        }
    };
    config.connect_timeout = Some(CONNECT_WITHIN);
    Ok(config)
}

fn master(url: &str) -> Result<Uri, AccessError> {
    let parsed = url.parse::<Uri>().ok().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
    parsed.ok_or_else(|| AccessError::Master { url: url.to_owned() })
}

/// The file with the certificate authority of the current context, if it is a file.
fn authority_file(kubeconfig: &Kubeconfig) -> Option<PathBuf> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == *current)?.context.as_ref()?;
    let cluster =
        kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    cluster.certificate_authority.as_ref().map(PathBuf::from)
}

/// A client with connections of its own. `requests` counts what it asks for, and `answered` hears of every answer that is a
/// success.
///
/// Made by hand instead of by [`Client::try_from`] for the sake of the keep-alive, and because that one logs an error
/// for every failed attempt.
pub(super) fn client(
    config: &Config,
    requests: IntCounterVec,
    answered: impl Fn() + Clone + Send + Sync + 'static,
) -> Result<Client, AccessError> {
    let failed = |source| AccessError::Client { url: config.cluster_url.clone(), source: Box::new(source) };
    let transport = Arc::new(Transport::new(config.clone(), connect).map_err(failed)?);
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (http, answered, requests, host) =
            (transport.client(), answered.clone(), requests.clone(), host.clone());
        async move {
            let method = request.method().clone();
            let count = |code: &str| requests.with_label_values(&[code, method.as_str(), &host]).inc();
            let answer = timeout(ANSWER_WITHIN, http.request(request)).await;
            match &answer {
                Ok(Ok(response)) => count(response.status().as_str()),
                // As client-go says it.
                Ok(Err(_)) | Err(_) => count("<error>"),
            }
            let response: Response<_> = answer??;
            if response.status().is_success() {
                answered();
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(response)
        }
    });
    let builder = ClientBuilder::new(service, config.default_namespace.clone())
        .with_layer(&config.extra_headers_layer().map_err(failed)?);
    Ok(match config.auth_layer().map_err(failed)? {
        Some(auth) => builder.with_layer(&auth).with_layer(&config.base_uri_layer()).build(),
        None => builder.with_layer(&config.base_uri_layer()).build(),
    })
}

/// What connections are made by. They show the client certificate of this moment.
fn connect(
    config: &Config,
) -> Result<legacy::Client<impl Connect + Clone + Send + Sync + use<>, Body>, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(PROBE_AFTER));
    connector.set_keepalive_interval(Some(PROBE_EVERY));
    connector.set_tcp_user_timeout(Some(DEAD_AFTER));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
}

/// Connections that are made anew when the client certificate is another one: looked at before each request, which comes
/// once in five minutes at least, when a watch is renewed. Authority and token are looked after by kube.
struct Transport<C> {
    config: Config,
    connect: fn(&Config) -> Result<legacy::Client<C, Body>, kube::Error>,
    current: Mutex<(Identity, legacy::Client<C, Body>)>,
}

/// What tells whether the files with a certificate and its key are the ones they were: file system, file, and when that was
/// last changed, in seconds and nanoseconds. `None` where there is no file.
type Identity = [Option<(u64, u64, i64, i64)>; 2];

impl<C: Clone> Transport<C> {
    fn new(
        config: Config,
        connect: fn(&Config) -> Result<legacy::Client<C, Body>, kube::Error>,
    ) -> Result<Self, kube::Error> {
        // Looked at first: what changes meanwhile is another one.
        let identity = identity(&config);
        let client = connect(&config)?;
        Ok(Self { config, connect, current: Mutex::new((identity, client)) })
    }

    /// For a request. A certificate that does not fit its key, as between the writing of both, changes nothing.
    fn client(&self) -> legacy::Client<C, Body> {
        // No one panics while holding it, and if so: both are whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = identity(&self.config);
        if identity != current.0 {
            match (self.connect)(&self.config) {
                Ok(client) => {
                    tracing::info!("the client certificate has changed, connections are made anew");
                    *current = (identity, client);
                }
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the client certificate has changed and is of no use"
                    );
                }
            }
        }
        current.1.clone()
    }
}

/// A link is followed: the files of a mounted Secret are links into a directory that is replaced.
fn identity(config: &Config) -> Identity {
    let access = &config.auth_info;
    [&access.client_certificate, &access.client_key].map(|file| {
        let file = std::fs::metadata(file.as_ref()?).ok()?;
        Some((file.st_dev(), file.st_ino(), file.st_ctime(), file.st_ctime_nsec()))
    })
}

/// Whether the API server answers for one kind: said when it changes, not at every attempt.
#[derive(Debug)]
pub(super) struct Link {
    kind: Kind,
    metrics: SourceMetrics,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Untried,
    Connected { since: Instant },
    Away { since: Instant },
}

impl Link {
    pub(super) fn new(kind: Kind, metrics: SourceMetrics) -> Self {
        metrics.errors.with_label_values(&[kind.name()]).inc_by(0);
        Self { kind, metrics, state: Mutex::new(State::Untried) }
    }

    /// This kind is not asked for any more: neither is its absence worth an alarm.
    pub(super) fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Untried;
        // An error means that it was never asked for.
        drop(self.metrics.connected.remove_label_values(&[self.kind.name()]));
    }

    /// The server answered a request.
    pub(super) fn answered(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Connected { .. } => return,
            State::Untried => tracing::info!(kind = self.kind.name(), "apiserver answers"),
            State::Away { since } => {
                let away = now.saturating_duration_since(since);
                tracing::info!(kind = self.kind.name(), ?away, "apiserver answers again");
            }
        }
        *state = State::Connected { since: now };
        self.metrics.connected.with_label_values(&[self.kind.name()]).set(1);
    }

    /// A request failed or a watch broke. Says for how long the server had answered before.
    pub(super) fn failed(&self, reason: &str, now: Instant) -> Duration {
        self.metrics.errors.with_label_values(&[self.kind.name()]).inc();
        self.metrics.connected.with_label_values(&[self.kind.name()]).set(0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = match *state {
            State::Away { .. } => return Duration::ZERO,
            State::Untried => Duration::ZERO,
            State::Connected { since } => now.saturating_duration_since(since),
        };
        tracing::warn!(
            kind = self.kind.name(),
            reason,
            "apiserver does not answer, forwarding goes on as it is"
        );
        *state = State::Away { since: now };
        answered
    }
}
