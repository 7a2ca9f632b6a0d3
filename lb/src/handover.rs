//! One process takes the place of another on the same node, and nobody on the link or behind it notices.
//!
//! ```text
//!   successor                                           predecessor
//!     take-over                           -->
//!                                         <--             how many sockets, who is drained
//!     sockets                             -->
//!                                         <--             the listening sockets (SCM_RIGHTS)
//!     probes backends, accepts                            accepts too
//!     its virtual routers                 -->             stops its own: no farewell, addresses left where they are
//!                                         <--             those of which it was master
//!     starts its own in the same roles
//!     done                                -->             accepts no more; ends with its last connection
//! ```
//!
//! Both accept from the same queues, so that no client meets a closed port. Until `done` the predecessor takes everything
//! back when the conversation ends, or does not go on in time.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::mpsc;

use crate::config::BackendName;
use crate::control::{PATIENCE, Request, ask, read_line};
use crate::router::RouterConfig;

/// What a successor says first.
pub(crate) const REQUEST: &str = "take-over";
const SOCKETS: &str = "sockets";
const DONE: &str = "done";

/// What a predecessor leaves behind.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// Where clients knock.
    pub(crate) listeners: Vec<TcpListener>,
    /// Where metrics and health are served.
    pub(crate) admin: Option<TcpListener>,
    /// Whom an operator has drained.
    pub(crate) drained: Vec<BackendName>,
}

/// A virtual router of a successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heir {
    instance: String,
    addresses: Vec<String>,
}

impl From<&RouterConfig> for Heir {
    fn from(config: &RouterConfig) -> Self {
        let addresses = config.addresses.networks().iter().map(ToString::to_string).collect();
        Self { instance: config.instance(), addresses }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    listeners: usize,
    admin: bool,
    drained: Vec<String>,
}

/// The predecessor, as its successor sees it. Dropping it before [`Predecessor::done`] makes it go on.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Whoever answers at `path`; `None` if nobody does.
    pub(crate) fn find(path: &Path) -> io::Result<Option<Self>> {
        let Ok(stream) = UnixStream::connect(path) else { return Ok(None) };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Some(Self { stream }))
    }

    /// Its sockets: it goes on using them.
    pub(crate) fn inherit(&mut self) -> io::Result<Inheritance> {
        let Header { listeners, admin, drained } = serde_json::from_str(&self.ask(REQUEST)?)?;
        writeln!(self.stream, "{SOCKETS}")?;
        let listeners = (0..listeners).map(|_| self.receive()).collect::<io::Result<_>>()?;
        let admin = if admin { Some(self.receive()?) } else { None };
        Ok(Inheritance {
            listeners,
            admin,
            drained: drained.into_iter().filter_map(BackendName::new).collect(),
        })
    }

    /// It leaves the virtual routers; those of which it was master are named.
    pub(crate) fn take_routers<'a>(
        &mut self,
        routers: impl Iterator<Item = &'a RouterConfig>,
    ) -> io::Result<Vec<String>> {
        let heirs: Vec<Heir> = routers.map(Heir::from).collect();
        Ok(serde_json::from_str(&self.ask(&serde_json::to_string(&heirs)?)?)?)
    }

    /// From now on it is on its way out. An error means that it has taken everything back.
    pub(crate) fn done(mut self) -> io::Result<()> {
        match self.ask(DONE)?.as_str() {
            DONE => Ok(()),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, other.to_owned())),
        }
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        writeln!(self.stream, "{line}")?;
        let mut answer = String::new();
        // Nothing follows an answer before the next question: the buffer takes nothing that it should not.
        BufReader::new(&self.stream).take(MOST_ANSWER).read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn receive(&self) -> io::Result<TcpListener> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&self.stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let socket = sockets.flatten().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(TcpListener::from(socket))
    }
}

/// The predecessor's side of the conversation, after the first word.
pub(crate) async fn leave(stream: tokio::net::UnixStream, requests: &mpsc::Sender<Request>) {
    tracing::info!("a successor takes over");
    let outcome = converse(stream, requests).await;
    let last = match outcome {
        Ok(()) => Request::Leave,
        Err(error) => {
            tracing::warn!(%error, "the successor has failed: going on");
            Request::Resume
        }
    };
    if requests.send(last).await.is_err() {
        tracing::debug!("the front door closes");
    }
}

async fn converse(mut stream: tokio::net::UnixStream, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    let inheritance = ask(requests, Request::Sockets).await.map_err(io::Error::other)??;
    let Inheritance { listeners, admin, drained } = inheritance;
    let drained = drained.iter().map(ToString::to_string).collect();
    let header = Header { listeners: listeners.len(), admin: admin.is_some(), drained };
    answer(&mut stream, &serde_json::to_string(&header)?).await?;
    if soon(read_line(&mut stream)).await? != SOCKETS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for socket in listeners.into_iter().chain(admin).map(OwnedFd::from) {
        soon(send(&stream, &socket)).await?;
    }
    // It may take as long as probes of silent backends do.
    let heirs: Vec<Heir> = serde_json::from_str(&read_line(&mut stream).await?)?;
    let masters = ask(requests, |answer| Request::Yield(heirs, answer)).await.map_err(io::Error::other)?;
    answer(&mut stream, &serde_json::to_string(&masters)?).await?;
    match soon(read_line(&mut stream)).await?.as_str() {
        DONE => answer(&mut stream, DONE).await,
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn answer(stream: &mut tokio::net::UnixStream, line: &str) -> io::Result<()> {
    soon(async { stream.write_all(format!("{line}\n").as_bytes()).await }).await
}

async fn send(stream: &tokio::net::UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let sockets = [socket.as_fd()];
    let attempt = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(stream, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, attempt).await
}

async fn soon<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STEP, step).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// For how long a successor may leave us waiting while the link hears nobody. Three adverts of a hundred milliseconds
/// are not missed on a node that is well; one that is not must not be without a master for long.
const STEP: std::time::Duration = std::time::Duration::from_secs(2);
/// Bytes: backends and virtual routers by name.
const MOST_ANSWER: u64 = 64 * 1024;
