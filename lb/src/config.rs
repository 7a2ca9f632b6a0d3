//! What a front door is told by its operator. A [`Config`] cannot hold nonsense: [`parse`] is the only way to make one.
//!
//! Defaults are in [`defaults`]; `tests/fixtures/fairway-lb.yaml` shows and explains every field.

mod backends;
mod check;
mod field;
mod forwarding;
mod health_check;
mod tls;
mod track;
mod virtual_router;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use crate::router::RouterConfig;

pub use check::{parse, read};
pub use forwarding::Forwarding;
pub use health_check::{Check, ExpectedStatus, HealthCheck, HttpCheck};
pub use tls::{Mistakes, Reload, Tls};

/// The values of fields that are not given.
pub mod defaults {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
    use std::num::NonZeroU32;
    use std::time::Duration;

    /// `virtualRouter.priority`: the default of RFC 9568 §6.1.
    pub const PRIORITY: u8 = 100;
    /// `virtualRouter.version`.
    pub const VERSION: u8 = 3;
    /// `virtualRouter.advertInterval` in version 2: the default of RFC 3768 §6.1, and the shortest there is.
    pub const ADVERT_INTERVAL_VERSION_2: Duration = Duration::from_secs(1);
    /// `virtualRouter.advertInterval`: a dead master is replaced after three of these and a little more. RFC 9568's
    /// default of one second would cost clients three.
    pub const ADVERT_INTERVAL: Duration = Duration::from_millis(100);
    /// `frontend.slowStart`: none.
    pub const SLOW_START: Duration = Duration::ZERO;
    /// `backends[].weight`: all alike.
    pub const WEIGHT: u16 = 1;
    /// `virtualRouter.track.backends.delay`: longer than two nodes take to agree on a backend with these defaults.
    pub const TRACK_BACKENDS_DELAY: Duration = Duration::from_secs(5);
    /// `frontend.connectTimeout`: many round trips within a data centre, yet well below a retransmitted SYN (1 s).
    pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
    /// `frontend.peerTimeout`: see [`Frontend::peer_timeout`](super::Frontend::peer_timeout).
    pub const PEER_TIMEOUT: Duration = Duration::from_mins(2);
    /// `healthCheck.path`: fails as soon as an apiserver begins to stop, while `/livez` does not.
    pub const PATH: &str = "/readyz";
    /// `healthCheck.livePath`: fails where an apiserver can only be restarted.
    pub const LIVE_PATH: &str = "/livez";
    /// `healthCheck.expectStatus`.
    pub const EXPECT_STATUS: u16 = 200;
    /// `healthCheck.interval`: a backend that hangs is out within a second, at the latest after this, a tenth of it, and
    /// [`FALL`] times [`TIMEOUT`].
    pub const INTERVAL: Duration = Duration::from_millis(250);
    /// `healthCheck.fastInterval`, as a part of `healthCheck.interval`.
    pub const FAST_INTERVAL_DIVISOR: u32 = 5;
    /// `healthCheck.timeout`: many times what an apiserver needs. One that takes longer twice in a row gets no new
    /// connections for a while, which costs little; its old ones have until [`KILL`].
    pub const TIMEOUT: Duration = Duration::from_millis(300);
    /// `healthCheck.rise`.
    pub const RISE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
    /// `healthCheck.fall`.
    pub const FALL: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
    /// `healthCheck.kill`: about three seconds of silence. Clients would need 45 to notice (client-go's HTTP/2 pings).
    pub const KILL: u32 = 10;
    /// `frontend.handOverDeadline`: watches last for as long as their clients do, and nobody wants old processes for ever.
    pub const HAND_OVER_DEADLINE: Duration = Duration::from_hours(1);
    /// `admin.socket`: below a directory that the service manager makes for us, so that no privilege is needed.
    pub const CONTROL_SOCKET: &str = "/run/fairway-lb/control.sock";
    /// `rebalance.idle`: longer than clients pause between two requests that belong together.
    pub const REBALANCE_IDLE: Duration = Duration::from_secs(5);
    /// `admin.listen`: this node only, because nothing here asks who is asking.
    pub const ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8405));
}

/// Everything one front door needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's parts in holding the virtual addresses, of which no two are of the same interface, router identifier
    /// and family; without any only the relay runs.
    pub virtual_routers: Vec<RouterConfig>,
    /// Where clients knock.
    pub frontend: Frontend,
    /// Who answers them.
    pub backends: Backends,
    /// How it is found out who can answer.
    pub health_check: HealthCheck,
    /// How connections are moved to backends that have less than their share.
    pub rebalance: Rebalance,
    /// Where `/metrics` and `/healthz` are served.
    pub admin: SocketAddr,
    /// Where operators and successors are answered: an absolute path.
    pub control_socket: PathBuf,
}

/// Where clients knock and how they are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The addresses and ports clients use, listened on whether or not this node holds the addresses now: one or more,
    /// none twice.
    pub listen: Vec<SocketAddr>,
    /// Who carries the bytes.
    pub forwarding: Forwarding,
    /// How a backend is chosen.
    pub balance: Balance,
    /// How long a backend may take to accept a connection before another one is tried.
    pub connect_timeout: Duration,
    /// How long a client or backend may acknowledge nothing, or keep its receive window shut, before its connection is
    /// given up (`TCP_USER_TIMEOUT`, RFC 5482; keep-alive probes find out about idle peers). A peer that is alive and
    /// merely silent is never given up.
    pub peer_timeout: Duration,
    /// For how long the connections of a process go on after another one has taken its place.
    pub hand_over_deadline: Duration,
    /// How fast both sides are sent to; `None` leaves it to the system (`net.ipv4.tcp_congestion_control`).
    pub congestion_control: Option<CongestionControl>,
}

/// The kernel's name of a congestion control: 1 to 15 ASCII letters, digits, `-`, `_` and `.` (`TCP_CA_NAME_MAX`).
/// Whether the kernel offers it turns out at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CongestionControl(String);

impl CongestionControl {
    /// `None` where no kernel can have such a name.
    pub fn new(name: String) -> Option<Self> {
        is_plain(&name, 15).then_some(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The rule.
    pub policy: Policy,
    /// How long the weight of a backend that takes connections again grows from a tenth to the whole. Zero is at once.
    /// It neither concerns backends that are new, so that a restart changes nothing, nor [`Policy::SourceHash`].
    pub slow_start: Duration,
}

/// The rule by which a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The one with the fewest connections in relation to its weight; in turn among equals.
    LeastConnections,
    /// The same one for the same client address, on every node that sees the same backends up.
    SourceHash,
}

/// How connections are moved to backends that have less than their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// How many connections a minute may be ended; `None`: none, and nothing is looked at.
    pub per_minute: Option<NonZeroU32>,
    /// Only tell what would be done, in the log and by metrics.
    pub dry_run: bool,
    /// How long a connection must have carried nothing.
    pub idle: Duration,
}

impl Rebalance {
    /// Nothing is done.
    pub const OFF: Self = Self { per_minute: None, dry_run: false, idle: defaults::REBALANCE_IDLE };

    /// How long it is from one that is ended to the next; `None`: none is.
    pub fn pace(&self) -> Option<Duration> {
        self.per_minute.map(|count| Duration::from_mins(1) / count.get())
    }
}

/// The backends: at least one, and at least one with a weight; no name or address twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends(Vec<Backend>);

impl Backends {
    /// `count` backends called `m1`, `m2`, …, on distinct addresses.
    #[cfg(test)]
    pub(crate) fn numbered(count: usize) -> Self {
        let numbers = 1..=u8::try_from(count).unwrap();
        let backends: Vec<_> =
            numbers.map(|number| (format!("m{number}"), format!("172.16.60.{number}:6443"))).collect();
        Self::listed(backends.iter().map(|(name, address)| (name.as_str(), address.as_str())))
    }

    /// Backends of these names and addresses.
    #[cfg(test)]
    pub(crate) fn listed<'a>(list: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let backend = |(name, address): (&str, &str)| Backend {
            name: BackendName(name.to_owned()),
            address: address.parse().unwrap(),
            weight: defaults::WEIGHT,
            backup: false,
            max_connections: None,
            send_proxy: false,
        };
        Self(list.map(backend).collect())
    }

    /// The same with one of them changed.
    #[cfg(test)]
    pub(crate) fn with(mut self, position: usize, change: impl FnOnce(&mut Backend)) -> Self {
        change(&mut self.0[position]);
        self
    }
}

impl Deref for Backends {
    type Target = [Backend];

    fn deref(&self) -> &[Backend] {
        &self.0
    }
}

/// One apiserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What logs and metrics call it.
    pub name: BackendName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new connections in relation to the weights of others, 0 to 256. With 0 it takes none, keeps those it
    /// has, and is checked like any other.
    pub weight: u16,
    /// Whether it takes connections only where no other backend is left that would.
    pub backup: bool,
    /// How many connections it has at most by way of this node, those being established included.
    pub max_connections: Option<NonZeroU32>,
    /// Whether it is told who the client is, by the PROXY protocol version 2.
    pub send_proxy: bool,
}

/// 1 to 63 ASCII letters, digits, `-`, `_` and `.`: fit for a log line and a metric label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendName(String);

impl BackendName {
    /// `None` for anything else.
    pub fn new(name: String) -> Option<Self> {
        is_plain(&name, 63).then_some(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

fn is_plain(name: &str, longest: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=longest).contains(&name.len()) && name.bytes().all(allowed)
}
