//! Relay, health checks and the process round them, with real sockets on the loopback interface; in one
//! case on a link between two namespaces, for which root and `ip` are needed.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod bulk;
mod change;
mod choice;
mod ending;
mod idle;
mod lab;
mod probe;
mod process;
mod proxy_protocol;
mod pump;
mod shortage;
mod tls;
mod untouched;
mod vanish;
