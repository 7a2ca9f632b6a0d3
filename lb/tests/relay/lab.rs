//! A relay whose backends are made of a few lines, and clients that wait no longer than a deadline.

use std::fmt::Write;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb::config::{self, Config};
use lb::health::{Event, Thresholds};
use lb::metrics::Metrics;
use lb::pool::Pool;
use lb::relay::{Relay, Running};
use prometheus::Registry;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Longer than anything here takes, shorter than anybody's patience.
const DEADLINE: Duration = Duration::from_secs(20);

/// Panics with `what` where `future` does not end in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Awaits a condition of values that nobody announces.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A relay on a port of its own, all of whose backends are up.
pub(crate) struct Lab {
    /// The first of `addresses`: most tests give it one.
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: Metrics,
    pub(crate) relay: Running,
}

/// What most tests do not care about.
pub(crate) struct Settings<'a> {
    pub(crate) listen: &'a str,
    /// The lines of the section `frontend`, besides `listen`.
    pub(crate) frontend: &'a str,
    /// Further fields of each backend, in order, as `weight: 3`.
    pub(crate) backends: &'a [&'a str],
    /// A line of the section `healthCheck`, besides `tls`.
    pub(crate) check: &'a str,
    pub(crate) threads: usize,
    pub(crate) limit: usize,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0", frontend: "", backends: &[], check: "", threads: 2, limit: 1000 }
    }
}

impl Lab {
    pub(crate) fn start(backends: &[SocketAddr]) -> Self {
        Self::start_with(backends, &Settings::default())
    }

    pub(crate) fn start_with(backends: &[SocketAddr], settings: &Settings<'_>) -> Self {
        let config = configuration(backends, settings);
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let thresholds = Thresholds::from(&config.health_check);
        let pool = Pool::new(&config.backends, config.frontend.balance, thresholds, &metrics);
        for backend in 0..backends.len() {
            pool.observe(backend, Event::ProbeOk, &"test");
        }
        let relay =
            Relay::bind(&config.frontend, NonZeroUsize::new(settings.threads).unwrap(), Vec::new()).unwrap();
        let addresses = relay.addresses();
        let address = addresses[0];
        let relay = relay.start(&pool, &metrics, settings.limit).unwrap();
        Self { address, addresses, pool, metrics, relay }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within("connect to the relay", TcpStream::connect(self.address)).await.unwrap()
    }

    /// Connects and reads the name that the backend says first.
    pub(crate) async fn greeted(&self) -> (TcpStream, char) {
        let mut client = self.connect().await;
        let name = within("greeting", client.read_u8()).await.unwrap();
        (client, char::from(name))
    }

    /// The connections that a backend has now.
    pub(crate) fn active(&self, backend: usize) -> i64 {
        self.pool.members()[backend].metrics.active.get()
    }

    /// Lets the backend fail as many probes as it takes.
    pub(crate) fn make_unready(&self, backend: usize) {
        for _ in 0..2 {
            self.pool.observe(backend, Event::ProbeUnready, &"test");
        }
    }

    pub(crate) async fn stop(self) {
        within("stop the relay", tokio::task::spawn_blocking(move || self.relay.stop())).await.unwrap();
    }
}

pub(crate) fn configuration(backends: &[SocketAddr], settings: &Settings<'_>) -> Config {
    let Settings { listen, frontend, backends: fields, check, .. } = settings;
    let mut list = String::new();
    for (position, address) in backends.iter().enumerate() {
        let fields = fields.get(position).unwrap_or(&"");
        writeln!(list, "  - {{name: b{position}, address: '{address}', {fields}}}").unwrap();
    }
    let text = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\n\
         frontend:\n  listen: {listen}\n  {frontend}\nbackends:\n{list}\
         healthCheck:\n  {check}\n  tls: {{caFile: ca}}\n"
    );
    let authority = crate::tls::Authority::new();
    config::parse(&text, &|_: &Path| Ok(authority.pem().into_bytes())).unwrap()
}

/// Accepts connections and hands each to `serve`, in a task of its own.
pub(crate) async fn backend<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    // As long a queue as an apiserver's: a crowd comes faster than a busy test accepts it.
    let listener = socket.listen(4096).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A backend that says its name and then repeats what it hears.
pub(crate) async fn named(name: char) -> SocketAddr {
    backend(move |mut stream| async move {
        let name = u8::try_from(name).unwrap();
        if stream.write_all(&[name]).await.is_ok() {
            let (mut reader, mut writer) = stream.split();
            // How a client leaves is its own affair.
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        }
    })
    .await
}

/// A backend that accepts one connection, which is given to the test.
pub(crate) struct Single {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Single {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        within("backend accepts", self.listener.accept()).await.unwrap().0
    }
}

/// An address where connections are refused for as long as the socket lives: bound, and not listening.
pub(crate) fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address where connections hang for as long as the sockets live: listening, with a queue that is full.
pub(crate) async fn hanging() -> (Vec<TcpStream>, Socket, SocketAddr) {
    let (socket, address) = refusing();
    socket.listen(0).unwrap();
    let mut queued = Vec::new();
    // The queue takes one more than its length; after that, the kernel ignores the client.
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
    }
    (queued, socket, address)
}
