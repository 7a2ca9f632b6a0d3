//! The HTTP server of `/metrics` and the health endpoints.
//!
//! Plain HTTP/1.1 without authentication, as kube-proxy's: bind it where only those who may ask can reach it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What a handler answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Headers beside the media type.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self::of("text/plain; charset=utf-8", status, body.into())
    }

    /// JSON.
    pub fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self::of("application/json", status, body.to_string())
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    fn of(content_type: &'static str, status: StatusCode, body: String) -> Self {
        Self { status, content_type, headers: HeaderMap::new(), body }
    }
}

/// Is given the query of the request, empty where there is none.
type Handler = Box<dyn Fn(&str) -> Answer + Send + Sync>;

/// The paths of one admin server and who answers them.
#[derive(Default)]
pub struct Routes {
    handlers: BTreeMap<&'static str, Handler>,
    /// Answers where no other does.
    otherwise: Option<Handler>,
}

impl Routes {
    /// Answers GET `path` by `handler`, which must not block.
    #[must_use]
    pub fn with(self, path: &'static str, handler: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        self.with_query(path, move |_| handler())
    }

    /// Answers GET `path` by `handler`, which is given the query as it came and must not block.
    #[must_use]
    pub fn with_query(
        mut self,
        path: &'static str,
        handler: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.handlers.insert(path, Box::new(handler));
        self
    }

    /// Answers GET of every path that has no handler of its own by `handler`, which must not block.
    #[must_use]
    pub fn otherwise(mut self, handler: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        self.otherwise = Some(Box::new(move |_| handler()));
        self
    }

    /// Answers GET `/metrics` from `registry` in the Prometheus text format.
    #[must_use]
    pub fn with_metrics(self, registry: Registry) -> Self {
        self.with_metrics_at("/metrics", registry)
    }

    /// The same at a path of its own.
    #[must_use]
    pub fn with_metrics_at(self, path: &'static str, registry: Registry) -> Self {
        self.with(path, move || metrics(&registry))
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match self.handlers.get(request.uri().path()).or(self.otherwise.as_ref()) {
            Some(handler) => handler(request.uri().query().unwrap_or_default()),
            None => Answer::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

/// A bound admin server that does not answer yet.
pub struct Admin {
    listener: TcpListener,
    routes: Arc<Routes>,
}

impl Admin {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr, routes: Routes) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, routes: Arc::new(routes) })
    }

    /// Answers on a socket that somebody else has bound.
    pub fn inherit(socket: std::net::TcpListener, routes: Routes) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(socket)?, routes: Arc::new(routes) })
    }

    /// A further descriptor of its socket, for a successor.
    pub fn socket(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.listener.as_fd().try_clone_to_owned()?.into())
    }

    /// Where it listens, with the port the kernel chose if it was asked to.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until dropped. Every connection is a task of its own that ends with it; cutting one short costs its
    /// client a repeat.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let routes = Arc::clone(&self.routes);
                    connections.spawn(answer_connection(TokioIo::new(stream), routes));
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    // Out of descriptors, most likely: others must close some first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer_connection(stream: TokioIo<tokio::net::TcpStream>, routes: Arc<Routes>) {
    let service = hyper::service::service_fn(|request| {
        let answer = routes.answer(&request);
        async move {
            let mut response = Response::new(Full::new(Bytes::from(answer.body)));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(stream, service);
    if let Err(error) = connection.await {
        tracing::trace!(%error, "admin connection ended early");
    }
}

fn metrics(registry: &Registry) -> Answer {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            Answer::of("text/plain; version=0.0.4; charset=utf-8", StatusCode::OK, body)
        }
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
