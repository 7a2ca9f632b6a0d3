//! Logs: the operator's timeline, on standard error.

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// How a log line is written; a value of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What decides which lines are written, below what writes them.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Writer = Box<dyn Layer<Filtered> + Send + Sync>;

/// Logging that was started, to be told of changes.
#[expect(missing_debug_implementations, reason = "a boxed layer has none")]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    writer: reload::Handle<Writer, Filtered>,
}

/// Logging stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What is to be logged is not understood.
    #[error(transparent)]
    Filter(#[from] ParseError),
    /// Nobody logs any more.
    #[error(transparent)]
    Gone(#[from] reload::Error),
}

/// Starts logging. `filter` is as in `info,vrrp=debug`; the target of a line is its crate and module.
///
/// Call it once, before anything logs.
pub fn start(filter: &str, format: Format) -> Result<Logs, ParseError> {
    let (filters, filter) = reload::Layer::new(EnvFilter::try_new(filter)?);
    let (writers, writer) = reload::Layer::new(writer(format));
    tracing_subscriber::registry().with(filters).with(writers).init();
    Ok(Logs { filter, writer })
}

impl Logs {
    /// Logs otherwise from now on.
    pub fn change(&self, filter: &str, format: Format) -> Result<(), ChangeError> {
        let filter = EnvFilter::try_new(filter)?;
        self.writer.reload(writer(format))?;
        Ok(self.filter.reload(filter)?)
    }
}

fn writer(format: Format) -> Writer {
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        Format::Json => lines.json().boxed(),
    }
}
