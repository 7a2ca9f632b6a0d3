//! Tells systemd how we are (`sd_notify(3)`): one datagram of `KEY=value` lines to the socket that it names.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

/// Whoever started us, if it wants to be told.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// `WATCHDOG_USEC`: without a sign of life for so long we are taken for dead.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(PathBuf::from(&path))?,
        };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&time| for_us && time > 0).map(Duration::from_micros);
        Ok(Self { socket: Some((UnixDatagram::unbound()?, address)), watchdog })
    }

    /// How often [`alive`](Self::alive) is to be said: twice within the time that we are given.
    pub(crate) fn pace(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Clients are served, by this process.
    pub(crate) fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// The configuration is being read anew. [`ready`](Self::ready) says that it is done.
    pub(crate) fn reloading(&self) {
        // systemd wants to know which of two messages is the younger one (`Type=notify-reload`).
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        match now.map(Duration::from) {
            Ok(now) => self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros())),
            Err(error) => tracing::warn!(%error, "service manager not told of the reload"),
        }
    }

    /// We were asked to end, and do.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Every part does its work.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, lines: &str) {
        if let Some((socket, manager)) = &self.socket
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), manager)
        {
            tracing::warn!(%error, lines, "service manager not told");
        }
    }
}
