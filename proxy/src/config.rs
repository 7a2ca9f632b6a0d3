//! What the program runs by. It comes from the command line, or from a `KubeProxyConfiguration`: an existing
//! kube-proxy's configuration is enough to start.

mod bind;
mod check;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use bind::{BindError, HEALTHZ_PORT, METRICS_PORT, bind_address};
pub(crate) use check::node_name;
pub use check::{Mode, read};

/// Everything that is configurable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where Services and endpoints come from.
    pub source: Source,
    /// The node's name where it is not the host's.
    pub hostname_override: Option<String>,
    /// Where `/healthz` and `/livez` are served.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` are served.
    pub metrics: Option<SocketAddr>,
    /// Whether an address that cannot be bound ends the program. Otherwise it is tried again every five seconds.
    pub bind_address_hard_fail: bool,
    /// Everything is compared with the kernel this often.
    pub sync_period: Duration,
    /// Least time between two syncs. Zero, the default, writes every change as it comes.
    pub least_sync_interval: Duration,
}

/// Where Services and endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API server.
    Cluster(Access),
    /// A directory of manifests; no cluster at all.
    Manifests(PathBuf),
}

/// How the API server is reached. With neither, as a pod of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The server's URL, in place of the kubeconfig's.
    pub master: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: Source::Cluster(Access::default()),
            hostname_override: None,
            healthz: Some(SocketAddr::from(([0, 0, 0, 0], HEALTHZ_PORT))),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], METRICS_PORT))),
            bind_address_hard_fail: false,
            sync_period: Duration::from_secs(30),
            least_sync_interval: Duration::ZERO,
        }
    }
}
