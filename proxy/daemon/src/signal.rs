//! What the process is told by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Comes whenever an operator confirms something (SIGUSR1). What that is the program's documentation says.
pub fn told() -> io::Result<Signal> {
    signal(SignalKind::user_defined1())
}
