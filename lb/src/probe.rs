//! Asks a backend over HTTPS whether it is ready.
//!
//! Every probe is a connection of its own and so walks the whole way a client would: accept, TLS handshake, request.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{HealthCheck, Tls};
use crate::health::ProbeResult;
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
    /// The answer was something other than 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Not finished in time.
    #[error("not finished within {0:?}")]
    Deadline(Duration),
}

impl From<&Result<(), ProbeError>> for ProbeResult {
    fn from(result: &Result<(), ProbeError>) -> Self {
        match result {
            Ok(()) => Self::Ready,
            Err(ProbeError::Status(_)) => Self::Unready,
            Err(ProbeError::Deadline(_)) => Self::TimedOut,
            Err(
                ProbeError::Connect(_) | ProbeError::Handshake(_) | ProbeError::Http(_) | ProbeError::Body(_),
            ) => Self::Failed,
        }
    }
}

/// Probes one backend.
#[derive(Clone)]
pub struct Probe {
    address: SocketAddr,
    check: HealthCheck,
    connector: TlsConnector,
    server_name: ServerName<'static>,
    send_proxy: bool,
}

impl Probe {
    /// A probe of the backend at `address`.
    pub fn new(address: SocketAddr, check: &HealthCheck, tls: &Tls) -> Self {
        Self {
            address,
            check: check.clone(),
            connector: TlsConnector::from(Arc::clone(&tls.client)),
            server_name: tls.server_name(address),
            send_proxy: false,
        }
    }

    /// The same, of a backend that expects every connection to begin with the PROXY protocol or not.
    #[must_use]
    pub fn sending_proxy(self, send_proxy: bool) -> Self {
        Self { send_proxy, ..self }
    }

    /// Asks once. It ends within the configured timeout, however slowly the answer drips. Cancelling it is harmless.
    pub async fn ask(&self) -> Result<(), ProbeError> {
        let timeout = self.check.timeout;
        tokio::time::timeout(timeout, self.exchange()).await.unwrap_or(Err(ProbeError::Deadline(timeout)))
    }

    async fn exchange(&self) -> Result<(), ProbeError> {
        let mut stream = TcpStream::connect(self.address).await.map_err(ProbeError::Connect)?;
        if self.send_proxy {
            stream.write_all(&proxy_protocol::LOCAL).await.map_err(ProbeError::Connect)?;
        }
        let connecting = self.connector.connect(self.server_name.clone(), stream);
        let status = request(connecting.await.map_err(ProbeError::Handshake)?, self.request()).await?;
        if status == StatusCode::OK { Ok(()) } else { Err(ProbeError::Status(status)) }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.check.path.clone().into();
        let headers = request.headers_mut();
        if let Ok(host) = self.address.to_string().try_into() {
            headers.insert(HOST, host);
        }
        headers.insert(ACCEPT, hyper::header::HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, hyper::header::HeaderValue::from_static(USER_AGENT_NAME));
        request
    }
}

/// Sends `request` and reads the whole answer: one that never ends is none.
async fn request(
    stream: TlsStream<TcpStream>,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, ProbeError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ProbeError::Http)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(ProbeError::Http)?;
        let status = answer.status();
        Limited::new(answer.into_body(), MOST_BODY).collect().await.map_err(ProbeError::Body)?;
        Ok(status)
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        status = &mut exchange => status,
        // The connection may end before its last answer is looked at; if it broke, the exchange knows why.
        _ = connection => exchange.await,
    }
}

/// Probes `member` of the pool until dropped: every interval, or earlier where somebody who failed to
/// connect asks for it. Dropping it between or during probes is harmless.
pub async fn watch(probe: Probe, pool: Arc<Pool>, member: Arc<Member>) -> Infallible {
    let interval = probe.check.interval;
    let mut said = Vec::new();
    loop {
        let started = Instant::now();
        let answer = probe.ask().await;
        let result = ProbeResult::from(&answer);
        let metrics = &member.metrics;
        metrics.probe_duration.observe(started.elapsed().as_secs_f64());
        metrics.probes(result).inc();
        match &answer {
            Ok(()) => {
                said.clear();
                pool.observe(member.id, result.event(), &"answered 200");
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
        let wanted = async {
            member.probe_wanted().await;
            tokio::time::sleep_until(started + interval / SOONEST).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(started + jittered(interval, random())) => {}
            () = wanted => {}
        }
    }
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

const USER_AGENT_NAME: &str = concat!("fairway-lb/", env!("CARGO_PKG_VERSION"));
/// Bytes. `/readyz` says "ok", or one line per failing check where it is asked to be verbose.
const MOST_BODY: usize = 64 * 1024;
/// However many ask for it, probes start no closer together than the interval divided by this.
const SOONEST: u32 = 10;

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
