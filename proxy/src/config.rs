//! What the program runs by. It comes from the command line, or from a `KubeProxyConfiguration`: an existing
//! kube-proxy's configuration is enough to start.

mod bind;
mod change;
mod check;
mod effective;
mod field;
mod flags;
mod mode;
mod serving;
mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::telemetry::Format;
use serde_json::Value;

pub use bind::{BindError, HEALTHZ_PORT, METRICS_PORT, bind_address};
pub(crate) use change::{Change, Step, change};
pub use check::read;
pub(crate) use check::{Reading, read_file};
pub(crate) use effective::{flags_in_force, yaml};
pub(crate) use field::boolean;
pub(crate) use flags::{Flags, beside_a_file};
pub use mode::Mode;
use plan::Scope;

use crate::translate;

/// kube-proxy's: among the last to be killed when memory runs out.
pub const OOM_SCORE_ADJUSTMENT: i64 = -999;

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
    /// Which part of the kernel forwards.
    pub mode: Mode,
    /// Which addresses are served, and not left to others.
    pub scope: Scope,
    /// The same of virtual services, which mode ipvs may have left to mode ebpf.
    pub virtual_scope: Scope,
    /// How Services are served, whatever they say themselves.
    pub serving: translate::Settings,
    /// Whether the sudden end of nearly everything is held back. A cluster's only: files are their author's word.
    pub guard_emptiness: bool,
    /// Everything is compared with the kernel this often.
    pub sync_period: Duration,
    /// Least time between two syncs. Zero, the default, writes every change as it comes.
    pub least_sync_interval: Duration,
    /// How unlikely the kernel is to kill this process when memory runs out: -1000, never, to 1000 (`proc(5)`).
    pub oom_score_adjustment: i64,
    /// How and how much is logged.
    pub logging: Logging,
    /// The whole as a `KubeProxyConfiguration` with every default: what `/configz` and `--write-config-to` show.
    pub document: Value,
}

/// How and how much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// How a line is written.
    pub format: Format,
    /// klog's scale: 0 to 3 the operator's timeline, from 4 each change, from 8 everything.
    pub verbosity: u64,
}

impl Logging {
    /// The filter of log lines that the verbosity asks for.
    pub(crate) const fn filter(self) -> &'static str {
        match self.verbosity {
            0..=3 => "info,kube_client=error,kube_runtime=error",
            4..=7 => "info,kube_client=error,kube_runtime=error,proxy=debug,dataplane=debug,daemon=debug",
            8.. => "debug,proxy=trace,dataplane=trace,daemon=trace",
        }
    }
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
        let healthz = Some(SocketAddr::from(([0, 0, 0, 0], HEALTHZ_PORT)));
        let metrics = Some(SocketAddr::from(([127, 0, 0, 1], METRICS_PORT)));
        Self {
            source: Source::Cluster(Access::default()),
            hostname_override: None,
            healthz,
            metrics,
            bind_address_hard_fail: false,
            mode: Mode::default(),
            scope: Scope::everything(),
            virtual_scope: Scope::everything(),
            serving: translate::Settings::default(),
            guard_emptiness: true,
            sync_period: Duration::from_secs(30),
            least_sync_interval: Duration::ZERO,
            oom_score_adjustment: OOM_SCORE_ADJUSTMENT,
            logging: Logging { format: Format::Text, verbosity: 0 },
            document: effective::effective(&BTreeMap::new(), healthz, metrics),
        }
    }
}
