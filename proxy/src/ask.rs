//! A question to the proxy that runs on this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// All of it takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A proxy in the middle of a sync is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no fairway-proxy answers at {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("ask")]
    Http(#[from] hyper::Error),
    #[error("ask")]
    Request(#[from] hyper::http::Error),
    #[error("{0}: {1}")]
    Status(StatusCode, String),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Patience,
    #[error("wait for the answer")]
    Runtime(#[source] std::io::Error),
    #[error("read the answer")]
    Read(#[source] serde_json::Error),
}

/// What the proxy that serves its metrics at `at` answers to GET `path`, which has the query.
pub(crate) fn ask(at: SocketAddr, path: &str) -> Result<String, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = async { timeout(PATIENCE, answer(reachable(at), path)).await };
    runtime.map_err(AskError::Runtime)?.block_on(asked).unwrap_or(Err(AskError::Patience))
}

async fn answer(at: SocketAddr, path: &str) -> Result<String, AskError> {
    loop {
        let stream = TcpStream::connect(at).await.map_err(|error| AskError::Connect(at, error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path).header(HOST, at.to_string());
        let asked = async {
            let response = sender.send_request(request.body(String::new())?).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            drop(sender);
            Ok::<_, AskError>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (asked, closed) = tokio::join!(asked, connection);
        let (status, body) = asked?;
        closed?;
        match status {
            StatusCode::OK => return Ok(body),
            StatusCode::SERVICE_UNAVAILABLE => sleep(AGAIN_AFTER).await,
            status => return Err(AskError::Status(status, body.trim_end().to_owned())),
        }
    }
}

/// Who serves everywhere serves at the loopback address.
const fn reachable(at: SocketAddr) -> SocketAddr {
    match at.ip() {
        ip if !ip.is_unspecified() => SocketAddr::new(ip, at.port()),
        IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), at.port()),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), at.port()),
    }
}
