//! Relay, health checks and the process round them, with real sockets on the loopback interface.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod choice;
mod lab;
mod probe;
mod process;
mod pump;
mod tls;
