//! Asks a backend whether it is ready.
//!
//! Every probe is a connection of its own and so walks the whole way a client would: accept, TLS handshake, request.

mod http;

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Check, HealthCheck, HttpCheck, Reload, Tls};
use crate::health::{ConnectFailure, ProbeResult};
use crate::pool::{Member, Pool};
use crate::proxy_protocol;

/// Why a backend is not known to be ready.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// No agreement on TLS: it does not trust us, or we do not trust it.
    #[error("TLS handshake")]
    Handshake(#[source] io::Error),
    /// No intelligible answer.
    #[error("HTTP")]
    Http(#[source] hyper::Error),
    /// The answer broke off, or went on for too long.
    #[error("read the answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than expected.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Another body than expected.
    #[error("answered {0} without what its body must contain")]
    OtherBody(StatusCode),
    /// Another status or body than expected, and a server error when asked whether it is alive at all.
    #[error("answered {ready}, and {live} to whether it is alive")]
    Dead {
        /// What it said of being ready.
        ready: StatusCode,
        /// What it said of being alive.
        live: StatusCode,
    },
    /// Not finished in time.
    #[error("not finished within {0:?}")]
    Deadline(Duration),
}

impl From<&Result<(), ProbeError>> for ProbeResult {
    fn from(result: &Result<(), ProbeError>) -> Self {
        match result {
            Ok(()) => Self::Ready,
            Err(ProbeError::Status(_) | ProbeError::OtherBody(_)) => Self::Unready,
            Err(ProbeError::Dead { .. }) => Self::Dead,
            Err(ProbeError::Deadline(_)) => Self::TimedOut,
            Err(ProbeError::Connect(error)) if ConnectFailure::of(error).blames_backend() => Self::Refused,
            Err(ProbeError::Connect(_)) => Self::Local,
            Err(ProbeError::Handshake(_) | ProbeError::Http(_) | ProbeError::Body(_)) => Self::Failed,
        }
    }
}

/// Probes one backend.
#[derive(Clone)]
pub struct Probe {
    address: SocketAddr,
    check: HealthCheck,
    send_proxy: bool,
}

impl Probe {
    /// A probe of the backend at `address`.
    pub fn new(address: SocketAddr, check: &HealthCheck) -> Self {
        Self { address, check: check.clone(), send_proxy: false }
    }

    /// The same, of a backend that expects every connection to begin with the PROXY protocol or not.
    #[must_use]
    pub fn sending_proxy(self, send_proxy: bool) -> Self {
        Self { send_proxy, ..self }
    }

    /// Asks once. It ends within the configured timeout, however slowly the answer drips. Cancelling it is harmless.
    pub async fn ask(&self) -> Result<(), ProbeError> {
        let deadline = Instant::now() + self.check.timeout;
        let late = |_| Err(ProbeError::Deadline(self.check.timeout));
        let ready = timeout_at(deadline, self.ask_ready()).await.unwrap_or_else(late);
        let (Err(ProbeError::Status(status) | ProbeError::OtherBody(status)), Some(http)) =
            (&ready, self.http())
        else {
            return ready;
        };
        // Whoever has answered once is alive, unless it says otherwise in time.
        match timeout_at(deadline, self.ask_live(http)).await {
            Ok(Ok(live)) if live.is_server_error() => Err(ProbeError::Dead { ready: *status, live }),
            Ok(_) | Err(_) => ready,
        }
    }

    fn http(&self) -> Option<&HttpCheck> {
        match &self.check.check {
            Check::Https(http, _) | Check::Http(http) => Some(http),
            Check::Tls(_) | Check::Tcp => None,
        }
    }

    fn tls(&self) -> Option<&Tls> {
        match &self.check.check {
            Check::Https(_, tls) | Check::Tls(tls) => Some(tls),
            Check::Http(_) | Check::Tcp => None,
        }
    }

    async fn ask_ready(&self) -> Result<(), ProbeError> {
        let stream = self.connect().await?;
        match &self.check.check {
            Check::Https(http, tls) => {
                http::ask_ready(self.secure(stream, tls).await?, self.address, http).await
            }
            Check::Http(http) => http::ask_ready(stream, self.address, http).await,
            Check::Tls(tls) => self.secure(stream, tls).await.map(drop),
            Check::Tcp => Ok(()),
        }
    }

    async fn ask_live(&self, http: &HttpCheck) -> Result<StatusCode, ProbeError> {
        let stream = self.connect().await?;
        match self.tls() {
            Some(tls) => http::ask_live(self.secure(stream, tls).await?, self.address, http).await,
            None => http::ask_live(stream, self.address, http).await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, ProbeError> {
        let mut stream = TcpStream::connect(self.address).await.map_err(ProbeError::Connect)?;
        if self.send_proxy {
            stream.write_all(&proxy_protocol::LOCAL).await.map_err(ProbeError::Connect)?;
        }
        Ok(stream)
    }

    async fn secure(&self, stream: TcpStream, tls: &Tls) -> Result<TlsStream<TcpStream>, ProbeError> {
        let connector = TlsConnector::from(tls.client());
        connector.connect(tls.server_name(self.address), stream).await.map_err(ProbeError::Handshake)
    }
}

/// Probes `member` of the pool until dropped: every interval, sooner while in doubt, or where somebody who failed to
/// connect asks for it. Dropping it between or during probes is harmless.
pub async fn watch(probe: Probe, pool: Arc<Pool>, member: Arc<Member>) -> Infallible {
    let HealthCheck { interval, fast_interval, .. } = probe.check;
    let mut said = Vec::new();
    loop {
        let started = Instant::now();
        if let Some(reload) = probe.tls().and_then(|tls| tls.reload(started)) {
            note(&reload, &pool);
        }
        let answer = probe.ask().await;
        let result = ProbeResult::from(&answer);
        let metrics = &member.metrics;
        metrics.probe_duration.observe(started.elapsed().as_secs_f64());
        metrics.probes(result).inc();
        match &answer {
            Ok(()) => {
                said.clear();
                pool.observe(member.id, result.event(), &"it is ready");
            }
            Err(error) => {
                let reason = daemon::exit::chain(error);
                let changed = pool.observe(member.id, result.event(), &reason);
                // A server that was not there yet may turn out to be one that is not trusted: each kind of failure is
                // said once, even if the status stays the same.
                let new = !said.contains(&discriminant(error));
                if new {
                    said.push(discriminant(error));
                }
                if new && !changed {
                    tracing::info!(backend = %member.backend.name, %reason, "probe failed");
                }
            }
        }
        let pause = if pool.in_doubt(member.id) { fast_interval } else { interval };
        let wanted = async {
            member.probe_wanted().await;
            tokio::time::sleep_until(started + fast_interval).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(started + jittered(pause, random())) => {}
            () = wanted => {}
        }
    }
}

fn note(reload: &Reload, pool: &Pool) {
    match reload {
        Reload::Renewed => tracing::info!("certificates of health checks renewed"),
        Reload::Outdated => {
            tracing::warn!(
                "caFile of health checks is outdated: clients may trust no backend; health checks go on"
            );
        }
        Reload::Refused(mistakes) => {
            tracing::warn!(%mistakes, "changed certificates of health checks cannot be used: the former ones still are");
        }
    }
    pool.count_reload(reload);
}

/// `interval`, up to a tenth shorter or longer as `random` decides: front doors that started together do not keep
/// asking together.
fn jittered(interval: Duration, random: u64) -> Duration {
    let permille = 900 + u32::try_from(random % 201).unwrap_or(0);
    interval * permille / 1000
}

/// A number without a pattern; nothing secret hangs on it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(1);
        let cases = [(0, 900), (100, 1000), (200, 1100), (201, 900)];
        for (random, milliseconds) in cases {
            assert_eq!(jittered(interval, random), Duration::from_millis(milliseconds), "{random}");
        }
        assert!(jittered(Duration::from_hours(1), u64::MAX) <= Duration::from_mins(66));
    }
}
