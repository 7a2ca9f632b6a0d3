//! A client that reads and writes objects, on a stub and on a real apiserver alike.
//!
//! It blocks, and works inside of an async runtime too: every request has a thread and a connection of its own.

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::apiserver::Resource;
use crate::certificates::{Identity, client_tls};
use crate::{Error, Namespace, Result};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Where the API is and who asks.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: Option<String>,
    namespace: Option<Namespace>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The body.
    pub body: String,
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The caller has seen enough.
    Enough,
    /// The server ended it in good order.
    Closed,
    /// The connection broke.
    Broken,
}

impl Api {
    /// Asks the server at `address`, whose certificate must be valid for that address and come from `authority` (PEM).
    pub fn new(address: SocketAddr, authority: &str) -> Result<Self> {
        Ok(Self { address, tls: client_tls(authority, None)?, token: None, namespace: None })
    }

    /// Shows a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Shows a client certificate.
    pub fn with_identity(mut self, authority: &str, identity: &Identity) -> Result<Self> {
        self.tls = client_tls(authority, Some(identity))?;
        Ok(self)
    }

    /// Connects from within `namespace`.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Any request; any answer is a success. `path` includes the query.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let line = format!("{method} {path}");
        let request = self.prepare(&line, method, path, body)?;
        self.on_a_thread(&line, LIMIT, async {
            let http = Error::http(&line);
            let response = self.send(&line, request).await?;
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after");
            let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = response.into_body().collect().await.map_err(http)?.to_bytes();
            Ok(Answer { status, retry_after, body: String::from_utf8_lossy(&body).into_owned() })
        })
    }

    /// The JSON at `path`; anything but success is [`Error::Refused`].
    pub fn get(&self, path: &str) -> Result<Value> {
        self.succeed("GET", path, None)
    }

    /// Creates the object, or replaces the one of its name.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let (collection, path) = paths(object)?;
        let current = self.request("GET", &path, None)?;
        if current.status == 404 {
            return self.succeed("POST", &collection, Some(object));
        }
        let current: Value = serde_json::from_str(&current.body).map_err(Error::json(&path))?;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        self.succeed("PUT", &path, Some(&object))
    }

    /// Removes the object of that name.
    pub fn delete(&self, object: &Value) -> Result<()> {
        self.succeed("DELETE", &paths(object)?.1, None).map(drop)
    }

    /// Hands each event of the watch at `path` to `each` until that has enough, the watch ends or `limit` is over,
    /// which is an error.
    pub fn watch(
        &self,
        path: &str,
        limit: Duration,
        mut each: impl FnMut(Value) -> ControlFlow<()> + Send,
    ) -> Result<WatchEnd> {
        let line = format!("GET {path}");
        let request = self.prepare(&line, "GET", path, None)?;
        self.on_a_thread(&line, limit, async {
            let response = self.send(&line, request).await?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return Ok(WatchEnd::Broken) };
                text.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let event: Vec<u8> = text.drain(..=end).collect();
                    let event = serde_json::from_slice(&event).map_err(Error::json(&line))?;
                    if each(event).is_break() {
                        return Ok(WatchEnd::Enough);
                    }
                }
            }
            if status == 200 {
                return Ok(WatchEnd::Closed);
            }
            let body = String::from_utf8_lossy(&text).into_owned();
            Err(Error::Refused { request: line.clone(), status, body })
        })
    }

    fn succeed(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.request(method, path, body)?;
        if (200..300).contains(&answer.status) {
            return serde_json::from_str(&answer.body).map_err(Error::json(path));
        }
        Err(Error::Refused { request: format!("{method} {path}"), status: answer.status, body: answer.body })
    }

    fn prepare(
        &self,
        line: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Object { reason: format!("{line} is no request: {error}") })
    }

    async fn send(&self, line: &str, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let failed = || Error::system("connect to", self.address);
        let connect = || TcpStream::connect_timeout(&self.address, LIMIT);
        let stream = match &self.namespace {
            Some(namespace) => namespace.run(connect)?,
            None => connect(),
        };
        let stream = stream.map_err(failed())?;
        stream.set_nonblocking(true).map_err(failed())?;
        let stream = tokio::net::TcpStream::from_std(stream).map_err(failed())?;
        stream.set_nodelay(true).map_err(failed())?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(failed())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Error::http(line))?;
        // Its end is seen by whoever reads the body.
        drop(tokio::spawn(connection));
        sender.send_request(request).await.map_err(Error::http(line))
    }

    fn on_a_thread<T: Send>(
        &self,
        line: &str,
        limit: Duration,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(Error::system("start", "a runtime"))?;
            runtime.block_on(async {
                match tokio::time::timeout(limit, work).await {
                    Ok(outcome) => outcome,
                    Err(_elapsed) => {
                        Err(Error::Timeout { what: format!("{line} at {}", self.address), limit })
                    }
                }
            })
        };
        std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// Where an object's collection and the object itself are.
fn paths(object: &Value) -> Result<(String, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let resource = Resource::of(text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
    match (resource, text("/metadata/name")) {
        (Some(resource), Some(name)) => {
            let namespace = text("/metadata/namespace").unwrap_or("default");
            Ok((resource.collection(Some(namespace)), resource.object(namespace, name)))
        }
        (_, _) => Err(Error::Object { reason: format!("no known kind or no name: {object}") }),
    }
}

/// A kubeconfig for the server at `address` that trusts the authority in the file `authority`.
pub fn kubeconfig(address: &str, authority: &std::path::Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: test, cluster: {{server: \"https://{address}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: test, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
         current-context: test\n",
        authority.display()
    )
}
