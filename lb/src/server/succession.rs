//! Both ends of a hand-over, as the main thread sees them: see [`handover`](crate::handover).

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use listenfd::ListenFd;
use tokio::process::Command;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Server;
use crate::Error;
use crate::control;
use crate::handover::{Heir, Inheritance, Predecessor};
use crate::reload::router;
use crate::router::{Beginning, Router};

/// Who runs already, and what it leaves us.
pub(super) fn predecessor(
    socket: &Path,
    take_over: bool,
) -> Result<(Option<Predecessor>, Inheritance), Error> {
    let fail = |source| Error::TakeOver { socket: socket.to_owned(), source };
    if take_over && let Some(mut predecessor) = Predecessor::find(socket).map_err(fail)? {
        let inheritance = predecessor.inherit().map_err(fail)?;
        return Ok((Some(predecessor), inheritance));
    }
    if control::is_served(socket) {
        return Err(Error::Running { socket: socket.to_owned() });
    }
    let listeners = activated().map_err(|source| Error::ServiceManager { source })?;
    Ok((None, Inheritance { listeners, admin: None, drained: Vec::new() }))
}

/// The sockets that a service manager has opened for us (`sd_listen_fds(3)`).
fn activated() -> io::Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    let sockets = (0..given.len()).map(|position| given.take_tcp_listener(position));
    Ok(sockets.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// How a successor ended: before it has taken over, or this would not be read.
pub(super) fn report(end: &Result<io::Result<ExitStatus>, JoinError>) {
    match end {
        Ok(Ok(status)) => tracing::error!(%status, "the successor has ended: going on"),
        Ok(Err(error)) => tracing::error!(%error, "the successor is lost sight of"),
        Err(error) => tracing::error!(%error, "the successor is lost sight of"),
    }
}

impl Server {
    /// Starts the program anew, which may be another version by now, to take over.
    pub(super) fn start_successor(&mut self) {
        if self.times.leave_at.is_some() || !self.successors.is_empty() {
            tracing::warn!("not upgraded: a successor has been started already");
            return;
        }
        let mut words = std::env::args_os();
        let Some(program) = words.next() else {
            tracing::error!("not upgraded: we do not know what we were started as");
            return;
        };
        let mut command = Command::new(&program);
        command.args(words.filter(|word| word != TAKE_OVER)).arg(TAKE_OVER).stdin(Stdio::null());
        // These are about this process.
        for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        match command.spawn() {
            Ok(mut child) => {
                tracing::info!(process = child.id(), program = %program.display(), "successor started");
                self.successors.spawn(async move { child.wait().await });
            }
            Err(error) => tracing::error!(%error, program = %program.display(), "successor not started"),
        }
    }

    /// What a successor gets.
    pub(super) fn inheritance(&self) -> io::Result<Inheritance> {
        let admin = Some(self.admin_socket.try_clone()?);
        Ok(Inheritance { listeners: self.front_door.listeners()?, admin, drained: self.pool.drained() })
    }

    /// Ends the virtual routers: silently those that `heirs` goes on with, and properly all others. The names of those of
    /// which we were master, for the former.
    pub(super) fn yield_routers(&mut self, heirs: &[Heir]) -> Vec<String> {
        for (instance, running) in self.front_door.take_routers() {
            let heir = router(&self.config, &instance).map(Heir::from);
            if heir.is_some_and(|heir| heirs.contains(&heir)) {
                self.yielded.insert(instance, running.hand_over() == vrrp::Role::Master);
            } else {
                running.stop();
                self.yielded.insert(instance, false);
            }
        }
        let masters = self.yielded.iter().filter(|(_, master)| **master);
        masters.map(|(instance, _)| instance.clone()).collect()
    }

    /// Takes everything back: the successor has failed. What it did with the control socket is undone, too.
    pub(super) fn resume(&mut self) -> Result<(), Error> {
        for (instance, master) in std::mem::take(&mut self.yielded) {
            if let Some(router) = router(&self.config, &instance) {
                let prepared = Router::prepare(router.clone(), &self.router_metrics)?;
                let beginning = if master { Beginning::AsMaster } else { Beginning::Afresh };
                self.front_door.start_router(instance, prepared, beginning)?;
            }
        }
        let control = self.bind_control()?;
        self.control = JoinSet::new();
        self.control.spawn(control.serve(self.requests.clone()));
        Ok(())
    }

    /// The successor serves: nothing is accepted or answered here any longer.
    pub(super) fn leave(&mut self) {
        self.front_door.close_listeners();
        self.forwarding = JoinSet::new();
        self.admin = JoinSet::new();
        self.control = JoinSet::new();
        let deadline = self.config.frontend.hand_over_deadline;
        self.times.leave_at = Some(Instant::now() + deadline);
        let connections = self.front_door.connections();
        tracing::info!(connections, ?deadline, "succeeded: ending with the last connection");
    }

    /// Whether a successor serves, and no connection is left that is worth waiting for.
    pub(super) fn has_left(&self) -> bool {
        self.times.leave_at.is_some_and(|at| self.front_door.connections() == 0 || at <= Instant::now())
    }
}

/// What tells a process to take over.
const TAKE_OVER: &str = "--take-over";
