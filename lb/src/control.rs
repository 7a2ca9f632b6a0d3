//! The unix socket through which an operator, and a successor, speak to a running front door.
//!
//! A request is one line, and so is the answer, in JSON: `echo status | socat - UNIX-CONNECT:/run/fairway-lb/control.sock`.
//! Only who may write to the socket, which is its owner, can ask.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::config::BackendName;
use crate::handover::{self, Heir, Inheritance};
use crate::status::Status;

/// Why nobody could be asked, or what was asked for was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody listens.
    #[error("no front door answers on {path}")]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("speak through {path}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("understand what answers on {path}")]
    Strange {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The front door says no.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// What the main loop is asked for, and where the answer goes. Nobody minds if the asker has gone.
#[derive(Debug)]
pub(crate) enum Request {
    /// How everything is.
    Status(oneshot::Sender<Box<Status>>),
    /// Take new connections from a backend, or give it some again; false if there is none of this name.
    Drain(BackendName, bool, oneshot::Sender<bool>),
    /// The sockets for a successor.
    Sockets(oneshot::Sender<io::Result<Inheritance>>),
    /// Leave the virtual routers to a successor; the answer names those of which we were master.
    Yield(Vec<Heir>, oneshot::Sender<Vec<String>>),
    /// The successor has failed: take everything back.
    Resume,
    /// The successor serves: end with the last connection.
    Leave,
}

/// A bound control socket. Dropping it removes the file, unless somebody else has put another one there.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file.
    identity: (u64, u64),
}

impl Control {
    /// Listens at `path`, in the place of whatever is there: whether somebody answers [was asked](is_served) before.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(name);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // It gets its name when only its owner can use it.
        let listener = UnixListener::bind(&draft)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
        let file = fs::metadata(&draft)?;
        fs::rename(&draft, path)?;
        Ok(Self { listener, path: path.to_owned(), identity: (file.dev(), file.ino()) })
    }

    /// Answers until dropped. Each connection is a task of its own.
    pub(crate) async fn serve(self, requests: mpsc::Sender<Request>) -> Infallible {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, requests.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "control connection not accepted");
                    // Out of descriptors, most likely: others must close some first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let ours = |file: fs::Metadata| (file.dev(), file.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "control socket left behind");
        }
    }
}

async fn converse(mut stream: tokio::net::UnixStream, requests: mpsc::Sender<Request>) {
    let line = match tokio::time::timeout(PATIENCE, read_line(&mut stream)).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return tracing::debug!(%error, "control connection broke off"),
        Err(_elapsed) => return,
    };
    let answer = match line.split_once(' ').unwrap_or((&line, "")) {
        ("status", "") => ask(&requests, Request::Status).await.and_then(|status| json(&*status)),
        ("drain", name) => drain(&requests, name, true).await,
        ("undrain", name) => drain(&requests, name, false).await,
        (handover::REQUEST, "") => return handover::leave(stream, &requests).await,
        _ => Err("unknown request: status, drain BACKEND, undrain BACKEND".to_owned()),
    };
    let answer = answer.unwrap_or_else(|error| serde_json::json!({ "error": error }).to_string());
    if let Err(error) = stream.write_all(format!("{answer}\n").as_bytes()).await {
        tracing::debug!(%error, "control connection broke off");
    }
}

/// One line without its end. Longer ones are no requests of ours.
pub(crate) async fn read_line(stream: &mut tokio::net::UnixStream) -> io::Result<String> {
    let mut line = String::new();
    // Unbuffered beyond the line: a socket may follow.
    tokio::io::BufReader::with_capacity(1, (&mut *stream).take(MOST_LINE)).read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The main loop's answer.
pub(crate) async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, String> {
    let (answer, asked) = oneshot::channel();
    requests.send(request(answer)).await.map_err(|_closed| "the front door closes".to_owned())?;
    asked.await.map_err(|_closed| "the front door closes".to_owned())
}

async fn drain(requests: &mpsc::Sender<Request>, name: &str, drained: bool) -> Result<String, String> {
    let unknown = || format!("there is no backend {name:?}");
    let backend = BackendName::new(name.to_owned()).ok_or_else(unknown)?;
    let known = ask(requests, |answer| Request::Drain(backend, drained, answer)).await?;
    if known { Ok("{}".to_owned()) } else { Err(unknown()) }
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// Whether a front door answers at `path`.
pub(crate) fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// How the front door behind `path` is.
pub(crate) fn status(path: &Path) -> Result<Status, ControlError> {
    let answer = request(path, "status")?;
    serde_json::from_str(&answer).map_err(|source| ControlError::Strange { path: path.to_owned(), source })
}

/// Asks for a change; the answer is that it was made.
pub(crate) fn command(path: &Path, line: &str) -> Result<(), ControlError> {
    request(path, line).map(drop)
}

fn request(path: &Path, line: &str) -> Result<String, ControlError> {
    let broken = |source| ControlError::Broken { path: path.to_owned(), source };
    let nobody = |source| ControlError::Nobody { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(nobody)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MOST_ANSWER)).read_line(&mut answer).map_err(broken)?;
    match serde_json::from_str(&answer) {
        Ok(Complaint { error: Some(reason) }) => Err(ControlError::Refused { reason }),
        Ok(Complaint { error: None }) => Ok(answer),
        Err(source) => Err(ControlError::Strange { path: path.to_owned(), source }),
    }
}

#[derive(Deserialize)]
struct Complaint {
    error: Option<String>,
}

/// Longer than a front door ever takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes: a command, a name of 63 letters, or the virtual routers of a successor.
const MOST_LINE: u64 = 64 * 1024;
/// Bytes: 64 backends, 32 peers of each virtual router.
const MOST_ANSWER: u64 = 4 * 1024 * 1024;
