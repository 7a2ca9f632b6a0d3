//! What can go wrong in the harness itself.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

/// The result of a harness function.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the harness could not do what a test asked of it.
#[derive(thiserror::Error)]
pub enum Error {
    /// A privilege is missing. Tests fail with this; they never skip.
    #[error(
        "{action} needs root: these tests make network namespaces, cgroups and eBPF programs of their own"
    )]
    Privilege {
        /// What was tried.
        action: &'static str,
    },
    /// The machine has no mount of a kind that is needed.
    #[error("no {kind} file system is mounted (looked in /proc/self/mountinfo)")]
    NoMount {
        /// Which file system.
        kind: &'static str,
    },
    /// A system call or a file failed.
    #[error("{action} {subject}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        subject: String,
        /// Why not.
        source: io::Error,
    },
    /// A tool such as `ip` said no.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The whole command line.
        command: String,
        /// What it printed to standard error.
        output: String,
    },
    /// A program of this workspace was not found beside the running one.
    #[error(
        "{program} is not built: run `cargo build --bins` in the same profile first (looked in {directory})"
    )]
    NotBuilt {
        /// Its name.
        program: String,
        /// Where it should be.
        directory: String,
    },
    /// There is no real apiserver to test with.
    #[error("{what}: it must name a folder with the binaries etcd and kube-apiserver")]
    NoAssets {
        /// What is missing.
        what: String,
    },
    /// A process ended though it was expected to run on.
    #[error("{program} ended with {status}")]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
    /// A condition did not come true in time.
    #[error("not within {limit:?}: {what}")]
    Timeout {
        /// The condition, as a sentence.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// An apiserver answered otherwise than with success.
    #[error("{request}: {status} {body}")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The body, usually a Status object.
        body: String,
    },
    /// A connection to an apiserver failed.
    #[error("{request}")]
    Http {
        /// Method and path.
        request: String,
        /// Why.
        source: hyper::Error,
    },
    /// Text was not the JSON it should be.
    #[error("{what} is not the JSON expected")]
    Json {
        /// Which text.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A certificate could not be made.
    #[error("make a certificate for {subject}")]
    Certificate {
        /// For whom.
        subject: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// TLS could not be set up with the given certificates.
    #[error("set up TLS")]
    Tls {
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object cannot be stored by the stub.
    #[error("object refused: {reason}")]
    Object {
        /// Why.
        reason: String,
    },
}

/// What libtest prints when a test returns an error: the sentence with its causes, not the structure.
impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(formatter, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Error {
    /// Turns an `io::Error` into [`Error::System`].
    #[expect(clippy::needless_pass_by_value, reason = "callers pass `path.display()`")]
    pub fn system<E: Into<io::Error>>(
        action: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        let subject = subject.to_string();
        move |source| Self::System { action, subject, source: source.into() }
    }

    /// Turns a `serde_json::Error` into [`Error::Json`].
    #[expect(clippy::needless_pass_by_value, reason = "callers pass `path.display()`")]
    pub fn json(what: impl ToString) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Json { what, source }
    }

    /// Turns a `hyper::Error` into [`Error::Http`].
    pub fn http(request: &str) -> impl FnOnce(hyper::Error) -> Self {
        let request = request.to_owned();
        move |source| Self::Http { request, source }
    }

    /// Turns whatever rustls objects to into [`Error::Tls`].
    pub fn tls<E: Into<Box<dyn std::error::Error + Send + Sync>>>(source: E) -> Self {
        Self::Tls { source: source.into() }
    }
}

/// Says that removing something failed. For `Drop`, which cannot return an error and must not panic.
#[expect(clippy::print_stderr, reason = "a clean-up has nobody else to tell")]
pub(crate) fn report_leftover(what: &str, error: &dyn fmt::Debug) {
    eprintln!("left behind: {what}: {error:?}");
}
