//! One question over HTTP/1.1, and what its answer means.

use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ProbeError;
use crate::config::HttpCheck;

/// Asks whether the backend is ready; `Ok` where it says so as expected.
pub(super) async fn ask_ready(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    check: &HttpCheck,
) -> Result<(), ProbeError> {
    let (status, body) = exchange(stream, request(address, &check.path)).await?;
    if !check.expect_status.includes(status) {
        return Err(ProbeError::Status(status));
    }
    let contains = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    match &check.expect_body {
        Some(text) if !contains(text) => Err(ProbeError::OtherBody(status)),
        Some(_) | None => Ok(()),
    }
}

/// Asks how the backend is where it is not ready.
pub(super) async fn ask_live(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    check: &HttpCheck,
) -> Result<StatusCode, ProbeError> {
    let (status, _) = exchange(stream, request(address, &check.live_path)).await?;
    Ok(status)
}

fn request(address: SocketAddr, path: &PathAndQuery) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.clone().into();
    let headers = request.headers_mut();
    if let Ok(host) = address.to_string().try_into() {
        headers.insert(HOST, host);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
    request
}

/// Sends `request` and reads the whole answer: one that never ends is none.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ProbeError::Http)?;
    let exchange = async move {
        let answer: Response<Incoming> = sender.send_request(request).await.map_err(ProbeError::Http)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_BODY).collect().await.map_err(ProbeError::Body)?;
        Ok((status, body.to_bytes()))
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end before its last answer is looked at; if it broke, the exchange knows why.
        _ = connection => exchange.await,
    }
}

const USER_AGENT_NAME: &str = concat!("fairway-lb/", env!("CARGO_PKG_VERSION"));
/// Bytes. `/readyz` says "ok", or one line per failing check where it is asked to be verbose.
const MOST_BODY: usize = 64 * 1024;
