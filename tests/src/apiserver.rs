//! A stub that speaks the apiserver's protocol, for the faults that a real one does not produce on demand.
//!
//! TLS, bearer tokens or client certificates; LIST with `limit` and `continue`, WATCH with bookmarks, 410 Gone in all
//! its forms, selectors, GET, POST, PUT and DELETE, for Services, Endpoints, EndpointSlices and Nodes. HTTP/1.1 only. Events
//! are written (POST, PATCH) and checked, and read by [`Store::events`].
//! It runs no controllers, and checks no object beyond its kind and name: tests store malformed ones on purpose.
//!
//! ```no_run
//! use tests::apiserver::{Options, Store, Stub};
//! use tests::certificates::Authority;
//! use tests::objects;
//!
//! let authority = Authority::new("test")?;
//! let store = Store::default();
//! let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
//! let stub = Stub::serve(listener, Options::new("one", authority.server("one", &["127.0.0.1"])?), &store)?;
//! store.put(objects::service("web", "10.254.0.10").port("http", "TCP", 80).json())?;
//! stub.faults(|faults| faults.unready = true);
//! # Ok::<(), tests::Error>(())
//! ```
//!
//! **Several apiservers on one etcd** are several stubs that are given the same [`Store`]. Their listeners may be
//! bound in different namespaces: a socket stays in the namespace it was opened in. A stub that is dropped is an
//! apiserver that was killed: its listener and its connections are closed and the store lives on.
//!
//! **As a process**, `stub-apiserver` has a store of its own. Three of them agree, `resourceVersion` for
//! `resourceVersion`, when they are sent the same writes in the same order: everything the store fills in depends on
//! the writes alone. Faults are then set by `POST /fairway-test/<command>`: see `Server::obey` in `http.rs`.

mod discovery;
mod events;
mod faults;
mod history;
mod http;
mod request;
mod resource;
mod selector;
mod status;
mod store;
mod watch;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, oneshot};
use tokio_rustls::TlsAcceptor;

pub use faults::{Faults, Refuse};
pub use resource::Resource;
pub use store::Store;

use crate::certificates::{Identity, server_tls};
use crate::{Error, Result};
use http::Server;
use watch::End;

/// Which generation of the API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// As 1.19 and 1.20: no discovery.k8s.io/v1, no `ServiceCIDR`s, no field selector for `spec.clusterIP`, and events about Nodes in
    /// `kube-system` alone.
    Old,
    /// As of today.
    Current,
}

impl Release {
    const fn has_slices(self) -> bool {
        match self {
            Self::Old => false,
            Self::Current => true,
        }
    }

    const fn has_service_cidrs(self) -> bool {
        self.has_slices()
    }

    /// The fields that can be selected by, beside name and namespace.
    const fn fields(self, resource: Resource) -> &'static [&'static str] {
        match (self, resource) {
            (Self::Current, Resource::Services) => &["spec.clusterIP", "spec.type"],
            (Self::Current | Self::Old, Resource::Nodes) => &["spec.unschedulable"],
            (
                Self::Current | Self::Old,
                Resource::Endpoints | Resource::EndpointSlices | Resource::ServiceCidrs | Resource::Events,
            )
            | (Self::Old, Resource::Services) => &[],
        }
    }
}

/// How a stub presents itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, told in the header `fairway-test-server`.
    pub name: String,
    /// Its certificate.
    pub identity: Identity,
    /// Which generation of the API it serves.
    pub release: Release,
    /// The authority, PEM, of client certificates; who shows one needs no token.
    pub client_authority: Option<String>,
    /// The bearer tokens it knows; if there are none, everybody is let in.
    pub tokens: Vec<String>,
    /// How often a watch that allows bookmarks gets one.
    pub bookmark_every: Duration,
}

impl Options {
    /// Today's API for everybody, a bookmark every second.
    pub fn new(name: &str, identity: Identity) -> Self {
        Self {
            name: name.to_owned(),
            identity,
            release: Release::Current,
            client_authority: None,
            tokens: Vec::new(),
            bookmark_every: Duration::from_secs(1),
        }
    }
}

/// A running stub. Dropping it closes its listener and all connections.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    server: Arc<Server>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Serves `store` on `listener`, on a thread of its own.
    pub fn serve(listener: TcpListener, options: Options, store: &Store) -> Result<Self> {
        let tls = server_tls(&options.identity, options.client_authority.as_deref())?;
        let address = listener.local_addr().map_err(Error::system("look at", "the listener"))?;
        listener.set_nonblocking(true).map_err(Error::system("listen on", address))?;
        let server = Arc::new(Server {
            options,
            store: store.clone(),
            faults: Mutex::default(),
            requests: Mutex::new(VecDeque::new()),
            ends: broadcast::Sender::new(4),
            resets: broadcast::Sender::new(4),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("start", "a runtime"))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(Error::system("listen on", address))?
        };
        let shared = Arc::clone(&server);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, TlsAcceptor::from(tls), shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, server, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks at the faults in force, or changes them.
    pub fn faults<T>(&self, work: impl FnOnce(&mut Faults) -> T) -> T {
        self.server.with_faults(work)
    }

    /// Ends every watch as at the end of its time.
    pub fn close_watches(&self) {
        self.server.end_watches(End::Close);
    }

    /// Breaks every watch off in the middle of an event.
    pub fn cut_watches(&self) {
        self.server.end_watches(End::Cut);
    }

    /// Resets every connection (TCP RST).
    pub fn reset_connections(&self) {
        self.server.reset_connections();
    }

    /// How many watches are running: those that [`Stub::close_watches`] would end.
    pub fn watches(&self) -> usize {
        self.server.ends.receiver_count()
    }

    /// The requests so far, as `GET /api/v1/services?limit=500`, and failed TLS handshakes; the last 10 000.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.server.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().cloned().collect()
    }

    /// How many LISTs of a resource were asked for, pages not counted: one more is a relist.
    pub fn lists(&self, resource: Resource) -> usize {
        let is_list = |line: &&String| {
            let Some(target) = line.strip_prefix("GET ") else { return false };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let of_resource =
                path.starts_with(resource.root()) && path.ends_with(&format!("/{}", resource.plural()));
            of_resource && !query.contains("watch=") && !query.contains("continue=")
        };
        self.requests().iter().filter(is_list).count()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            crate::error::report_leftover("stub apiserver", &"its thread panicked");
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, tls: TlsAcceptor, server: Arc<Server>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, tls.clone(), Arc::clone(&server)))),
            Err(error) => {
                server.remember(format!("accept failed: {error}"));
                // Out of descriptors, most likely: others must close some first.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, server: Arc<Server>) {
    let mut resets = server.resets.subscribe();
    let socket = match (stream.set_nodelay(true), stream.as_fd().try_clone_to_owned()) {
        (Ok(()), Ok(socket)) => socket,
        (Err(error), _) | (_, Err(error)) => return server.remember(format!("connection lost: {error}")),
    };
    let shared = Arc::clone(&server);
    let serve = async move {
        let stream = tls.accept(stream).await.map_err(|error| format!("TLS handshake failed: {error}"))?;
        let verified = stream.get_ref().1.peer_certificates().is_some();
        let service =
            hyper::service::service_fn(move |request| Arc::clone(&shared).answer(request, verified));
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        served.await.map_err(|error| format!("connection ended early: {error}"))
    };
    tokio::select! {
        served = serve => served.unwrap_or_else(|line| server.remember(line)),
        _ = resets.recv() => {
            // With no time to linger the kernel sends a reset in place of a farewell.
            let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            if let Err(error) = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &at_once) {
                server.remember(format!("connection not reset: {error}"));
            }
        }
    }
}
