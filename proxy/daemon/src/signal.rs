//! The wish to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves when the process is asked to end (SIGTERM or SIGINT). Dropping it before is harmless.
pub async fn terminated() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
